import { nsOfTick, ticksAt } from '@nyx/device';
import { conformance } from '@nyx/device/conformance';
import { Rig } from '@nyx/device/testing';
import { describe, expect, it } from 'vitest';
import { pit } from './device.ts';
import { pitHz } from './regs.ts';

conformance(pit, { config: {}, runs: 60 });

const make = () => {
  const rig = new Rig(pit, { config: {} });
  let tick = 0;
  return {
    rig,
    /** Goes to that tick since the start. */
    to(t: number) {
      tick = t;
      rig.advance(nsOfTick(tick, pitHz) - rig.ctx.time);
    },
    go(ticks: number) {
      this.to(tick + ticks);
    },
    w: (port: number, ...values: number[]) => values.forEach((v) => rig.write(0, port, v)),
    r: (port: number) => rig.read(0, port),
    word(port: number) {
      return rig.read(0, port) | (rig.read(0, port) << 8);
    },
    latch(port: number) {
      rig.write(0, 3, port << 6);
      return this.word(port);
    },
    edges: () => rig.ctx.lines[0]! >>> 1,
    out2: () => (rig.read(1, 0) >> 5) & 1,
    gate: (on: number) => rig.write(1, 0, on),
  };
};

describe('ticks', () => {
  it('convert exactly both ways', () => {
    for (const t of [0, 1, 2, 59659, 1193181, 1193182, 1193183, 987654321012]) {
      expect(ticksAt(nsOfTick(t, pitHz), pitHz)).toBe(t);
      if (t) expect(ticksAt(nsOfTick(t, pitHz) - 1, pitHz)).toBe(t - 1);
    }
  });
});

describe('counter 0', () => {
  it('mode 2: an edge each period, whoever is late', () => {
    const p = make();
    p.w(3, 0x34);
    const start = p.edges(); // the output rises with the control word, it was low in mode 0
    p.w(0, 0xe8, 0x03); // 1000
    p.to(1000);
    expect(p.edges() - start).toBe(0);
    p.to(1001);
    expect(p.edges() - start).toBe(1);
    p.to(10_001);
    expect(p.edges() - start).toBe(10);
    p.rig.ctx.time = nsOfTick(20_500, pitHz);
    p.rig.fire();
    expect([p.edges() - start, p.rig.ctx.timerNs]).toEqual([20, nsOfTick(21_001, pitHz)]);
  });
  it('mode 0: one edge, n + 1 ticks after the count; a new count starts anew', () => {
    const p = make();
    p.w(3, 0x30);
    p.w(0, 100, 0);
    p.to(100);
    expect([p.edges(), p.rig.ctx.lines[0]! & 1]).toEqual([0, 0]);
    p.to(101);
    expect([p.edges(), p.rig.ctx.lines[0]! & 1]).toEqual([1, 1]);
    p.to(70_000);
    expect(p.edges()).toBe(1);
    p.w(0, 80);
    p.to(80_000);
    expect(p.edges()).toBe(1); // waits for the high byte
    p.w(0, 0);
    p.go(81);
    expect(p.edges()).toBe(2);
  });
  it('a very short period is told in lots', () => {
    const p = make();
    p.w(3, 0x14);
    p.w(0, 2);
    const before = p.edges();
    p.rig.advance(10_000_000, 250); // throws when there were more timers than one in 50 us
    expect(p.edges() - before).toBeGreaterThan(5900);
  });
});

describe('modes', () => {
  it('2 and 3 count down from n', () => {
    const p = make();
    p.w(3, 0xb4);
    p.gate(1);
    p.w(2, 10, 0);
    const seen: number[] = [];
    for (let t = 1; t <= 12; t++) {
      p.to(t);
      seen.push(p.latch(2) * 10 + p.out2());
    }
    expect(seen).toEqual([101, 91, 81, 71, 61, 51, 41, 31, 21, 10, 101, 91]);
    p.w(3, 0xb6);
    p.w(2, 5, 0);
    const square: number[] = [];
    for (let i = 0; i < 10; i++) {
      p.go(1);
      square.push(p.out2());
    }
    expect(square).toEqual([1, 1, 1, 0, 0, 1, 1, 1, 0, 0]);
  });
  it('a new count in mode 2 waits for the end of the period', () => {
    const p = make();
    p.gate(1);
    p.w(3, 0xb4);
    p.w(2, 100, 0);
    p.to(50);
    p.w(2, 10, 0);
    p.w(3, 0xe8); // status of counter 2
    expect(p.r(2) & 0x40).toBe(0x40);
    expect(p.latch(2)).toBe(51);
    p.to(101);
    expect(p.latch(2)).toBe(10);
    p.w(3, 0xe8);
    expect(p.r(2) & 0x40).toBe(0);
  });
  it('1: one shot at each rise of the gate', () => {
    const p = make();
    p.w(3, 0xb2);
    p.w(2, 20, 0);
    p.go(50);
    expect(p.out2()).toBe(1);
    p.gate(1);
    p.go(1);
    expect(p.out2()).toBe(0);
    p.go(19);
    expect(p.out2()).toBe(0);
    p.gate(0);
    p.gate(1); // retrigger
    p.go(20);
    expect(p.out2()).toBe(0);
    p.go(1);
    expect(p.out2()).toBe(1);
  });
  it('4 and 5: a strobe of one tick', () => {
    const p = make();
    p.gate(1);
    p.w(3, 0xb8);
    p.w(2, 5, 0);
    const outs = () => {
      const list: number[] = [];
      for (let i = 0; i < 8; i++) {
        p.go(1);
        list.push(p.out2());
      }
      return list;
    };
    expect(outs()).toEqual([1, 1, 1, 1, 1, 0, 1, 1]);
    p.gate(0);
    p.w(3, 0xba);
    p.w(2, 3, 0);
    p.gate(1);
    expect(outs()).toEqual([1, 1, 1, 0, 1, 1, 1, 1]);
  });
  it('the gate holds modes 0 and 4 and restarts 2 and 3', () => {
    const p = make();
    p.gate(1);
    p.w(3, 0xb0);
    p.w(2, 100, 0);
    p.to(41);
    p.gate(0);
    p.to(500);
    expect([p.latch(2), p.out2()]).toEqual([60, 0]);
    p.gate(1);
    p.to(559);
    expect(p.out2()).toBe(0);
    p.to(560);
    expect(p.out2()).toBe(1);
  });
  it('BCD', () => {
    const p = make();
    p.gate(1);
    p.w(3, 0xb5);
    p.w(2, 0x00, 0x10);
    p.to(2);
    expect(p.latch(2)).toBe(0x0999);
    p.w(3, 0xb1);
    p.w(2, 0, 0);
    p.go(2);
    expect(p.latch(2)).toBe(0x9999);
  });
});

describe('reading', () => {
  it('latches keep the first value; read-back gives status, then count', () => {
    const p = make();
    p.w(3, 0x34);
    p.w(0, 0, 0);
    p.to(101);
    p.w(3, 0x00);
    p.to(200);
    p.w(3, 0x00);
    expect(p.word(0)).toBe(65536 - 100);
    p.w(3, 0xc2);
    p.to(300);
    expect([p.r(0), p.word(0)]).toEqual([0xb4, 65536 - 199]);
    expect(p.r(3)).toBe(0xff);
  });
  it('low or high byte only', () => {
    const p = make();
    p.gate(1);
    p.w(3, 0xa4);
    p.w(2, 3);
    p.to(1);
    expect(p.r(2)).toBe(3);
    p.to(2);
    expect(p.r(2)).toBe(2);
  });
  it('port 0x61: refresh toggles, bits 0..3 are kept', () => {
    const p = make();
    p.rig.write(1, 0, 0xff);
    expect(p.rig.read(1, 0) & 0x0f).toBe(0x0f);
    const a = p.rig.read(1, 0) & 0x10;
    p.go(18);
    expect(p.rig.read(1, 0) & 0x10).not.toBe(a);
  });
});
