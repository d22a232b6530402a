import { conformance } from '@nyx/device/conformance';
import { Rig } from '@nyx/device/testing';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { timeOf, timeRegister } from './calendar.ts';
import { rtc } from './device.ts';
import { A, B, C, Reg } from './regs.ts';

const config = { ramBytes: 6 * 2 ** 30, cpus: 4 };
conformance(rtc, { config, runs: 60 });

const SECOND = 1e9;
const make = (epoch = Date.UTC(2024, 1, 28, 23, 59, 57) / 1000) => {
  const rig = new Rig(rtc, { config, prepare: (ctx) => void (ctx.epoch = epoch) });
  const r = (index: number) => {
    rig.write(0, 0, index);
    return rig.read(0, 1);
  };
  const w = (index: number, value: number) => {
    rig.write(0, 0, index);
    rig.write(0, 1, value);
  };
  const time = () =>
    [Reg.century, Reg.year, Reg.month, Reg.day, Reg.hour, Reg.minute, Reg.second]
      .map((i) => r(i).toString(16).padStart(2, '0'))
      .join('');
  return { rig, r, w, time, level: () => rig.ctx.lines[0]! & 1 };
};

describe('calendar', () => {
  it('agrees with Date, and back, in every format', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 253_402_300_799 }), fc.constantFrom(0, 2, 4, 6), (seconds, b) => {
        const d = new Date(seconds * 1000);
        const r = (i: number) => timeRegister(seconds, i, b);
        expect(timeOf(r, b)).toBe(seconds);
        const b24 = B.binary | B.hour24;
        expect(
          [Reg.century, Reg.year, Reg.month, Reg.day, Reg.weekday, Reg.hour, Reg.minute, Reg.second].map(
            (i) => timeRegister(seconds, i, b24),
          ),
        ).toEqual([
          Math.floor(d.getUTCFullYear() / 100),
          d.getUTCFullYear() % 100,
          d.getUTCMonth() + 1,
          d.getUTCDate(),
          d.getUTCDay() + 1,
          d.getUTCHours(),
          d.getUTCMinutes(),
          d.getUTCSeconds(),
        ]);
      }),
    );
  });
});

describe('clock', () => {
  it('starts at the wall clock and runs over a leap day', () => {
    const p = make();
    expect(p.time()).toBe('20240228235957');
    p.rig.advance(3 * SECOND);
    expect([p.time(), p.r(Reg.weekday)]).toEqual(['20240229000000', 5]);
  });
  it('formats: binary, and 12 hours with PM', () => {
    const p = make();
    p.w(Reg.b, B.binary);
    expect([p.r(Reg.hour), p.r(Reg.minute), p.r(Reg.year)]).toEqual([0x80 | 11, 59, 24]);
    p.w(Reg.b, 0);
    expect(p.r(Reg.hour)).toBe(0x91);
    p.rig.advance(3 * SECOND);
    expect(p.r(Reg.hour)).toBe(0x12);
  });
  it('is set while SET holds it, and while it runs', () => {
    const p = make();
    p.rig.advance(0.4 * SECOND);
    p.w(Reg.b, B.set | B.hour24);
    p.rig.advance(5 * SECOND);
    expect(p.r(Reg.second)).toBe(0x57);
    for (const [i, v] of [
      [Reg.century, 0x19],
      [Reg.year, 0x99],
      [Reg.month, 0x12],
      [Reg.day, 0x31],
      [Reg.hour, 0x23],
      [Reg.minute, 0x59],
      [Reg.second, 0x59],
    ] as const)
      p.w(i, v);
    p.w(Reg.b, B.hour24);
    expect(p.time()).toBe('19991231235959');
    p.rig.advance(0.7 * SECOND);
    expect(p.time()).toBe('20000101000000');
    p.w(Reg.hour, 0x07);
    expect(p.time()).toBe('20000101070000');
    expect(p.r(Reg.centuryPs2)).toBe(0x20);
  });
  it('the first update comes half a second after the divider was released', () => {
    const p = make();
    p.rig.advance(10.3 * SECOND);
    p.w(Reg.a, 0x76);
    const stopped = p.time();
    p.rig.advance(7 * SECOND);
    expect(p.time()).toBe(stopped);
    p.w(Reg.a, 0x26);
    p.rig.advance(0.499 * SECOND);
    expect(p.time()).toBe(stopped);
    p.rig.advance(0.002 * SECOND);
    expect(p.time()).not.toBe(stopped);
  });
  it('update in progress for the last 244 us of a second', () => {
    const p = make();
    p.rig.advance(SECOND - 300_000);
    expect(p.r(Reg.a) & A.uip).toBe(0);
    p.rig.advance(100_000);
    expect(p.r(Reg.a) & A.uip).toBe(A.uip);
    p.rig.advance(200_000);
    expect(p.r(Reg.a) & A.uip).toBe(0);
  });
});

describe('interrupts', () => {
  it('flags are set whether enabled or not; reading C clears them', () => {
    const p = make();
    p.rig.advance(1.1 * SECOND);
    expect([p.r(Reg.c), p.r(Reg.c), p.level()]).toEqual([C.update | C.periodic, 0, 0]);
  });
  it('update', () => {
    const p = make();
    p.w(Reg.b, B.hour24 | B.update);
    p.rig.advance(SECOND - 1);
    expect(p.level()).toBe(0);
    p.rig.advance(1);
    expect(p.level()).toBe(1);
    expect([p.r(Reg.c) & ~C.periodic, p.level()]).toEqual([C.irq | C.update, 0]);
    p.rig.advance(3 * SECOND);
    expect(p.rig.ctx.lines[0]! >>> 1).toBe(2); // nobody read C: no further edges
  });
  it('periodic, at 1024 Hz', () => {
    const p = make();
    p.w(Reg.b, B.hour24 | B.periodic);
    let edges = 0;
    for (let i = 0; i < 1024; i++) {
      p.rig.advance(SECOND / 1024);
      if (p.r(Reg.c) & C.periodic) edges++;
    }
    expect(edges).toBeGreaterThanOrEqual(1023);
    expect(p.rig.ctx.lines[0]! >>> 1).toBe(edges);
  });
  it('alarm at a time of day, and with "any" hours', () => {
    const p = make(Date.UTC(2024, 0, 1, 10, 20, 30) / 1000);
    p.w(Reg.hourAlarm, 0x11);
    p.w(Reg.minuteAlarm, 0x00);
    p.w(Reg.secondAlarm, 0x05);
    p.w(Reg.b, B.hour24 | B.alarm);
    p.rig.advance((39 * 60 + 34) * SECOND);
    expect(p.level()).toBe(0);
    p.rig.advance(SECOND);
    expect([p.level(), p.time().slice(8), p.r(Reg.c) & C.alarm]).toEqual([1, '110005', C.alarm]);
    p.w(Reg.hourAlarm, 0xff);
    p.rig.advance(3599 * SECOND);
    expect(p.level()).toBe(0);
    p.rig.advance(SECOND);
    expect(p.level()).toBe(1);
  });
});

describe('memory', () => {
  it('tells firmware the sizes, and survives a reset', () => {
    const p = make();
    const word = (i: number) => p.r(i) | (p.r(i + 1) << 8);
    expect([word(0x15), word(0x17), word(0x34), word(0x5b), p.r(0x5f)]).toEqual([
      640, 0xffff, 0x7f00, 0x0000, 3,
    ]);
    expect(p.r(0x5d)).toBe(1);
    p.w(0x0f, 0x0a);
    p.rig.write(0, 2, 0x7f);
    p.rig.write(0, 3, 0x5a);
    p.w(Reg.b, B.hour24 | B.update);
    p.rig.advance(1.5 * SECOND);
    p.rig.reset();
    p.rig.write(0, 2, 0x7f);
    expect([p.r(0x0f), p.rig.read(0, 3), p.r(Reg.b), p.level(), p.time()]).toEqual([
      0x0a,
      0x5a,
      B.hour24,
      0,
      '20240228235958',
    ]);
  });
});
