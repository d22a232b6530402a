import { conformance } from '@nyx/device/conformance';
import { Rig } from '@nyx/device/testing';
import { describe, expect, it } from 'vitest';
import { ioapic } from './device.ts';

conformance(ioapic, { config: {}, runs: 60 });

const make = () => {
  const rig = new Rig(ioapic, { config: {} });
  const w = (index: number, value: number) => {
    rig.write(0, 0, index, 4);
    rig.write(0, 0x10, value, 4);
  };
  return {
    rig,
    w,
    r(index: number) {
      rig.write(0, 0, index, 4);
      return rig.read(0, 0x10, 4);
    },
    route(pin: number, low: number, high = 0) {
      w(0x11 + 2 * pin, high);
      w(0x10 + 2 * pin, low);
    },
    line: (pin: number, word: number) => rig.run((d) => d.line!(pin, word)),
    eoi: (vector: number) => rig.run((d) => d.eoi!(vector)),
    sent: (pin: number) => rig.ctx.messages[pin]?.count ?? 0,
    message: (pin: number) => rig.ctx.messages[pin]!,
  };
};

describe('ioapic', () => {
  it('has 24 masked pins, a version and an identity', () => {
    const p = make();
    expect(p.r(1)).toBe(0x0017_0020);
    p.w(0, 0xff00_0000);
    expect([p.r(0), p.r(2)]).toEqual([0x0f00_0000, 0x0f00_0000]);
    expect([p.r(0x10), p.r(0x3e), p.r(0x40), p.r(0xff)]).toEqual([0x10000, 0x10000, 0, 0]);
    p.w(0x10, 0xffff_ffff);
    expect(p.r(0x10)).toBe(0x1_afff);
  });
  it('edge: one message a rise, lost while masked', () => {
    const p = make();
    p.line(4, 3);
    p.route(4, 0x31, 0x0200_0000);
    expect(p.sent(4)).toBe(0);
    p.line(4, 2);
    p.line(4, 5);
    p.line(4, 5);
    expect(p.message(4)).toEqual({ addressLo: 0xfee0_2000, addressHi: 0, data: 0x31, count: 1 });
    // A pulse that was over before anyone looked.
    p.line(4, 6);
    expect(p.sent(4)).toBe(2);
  });
  it('logical destination and delivery mode go into the message', () => {
    const p = make();
    p.route(9, 0x0000_0941, 0xff00_0000);
    p.line(9, 3);
    expect(p.message(9)).toMatchObject({ addressLo: 0xfeef_f004, data: 0x141 });
  });
  it('level: once until EOI, again while asserted', () => {
    const p = make();
    p.route(16, 0x8055);
    p.line(16, 3);
    expect([p.sent(16), p.message(16).data, p.r(0x30)]).toEqual([1, 0xc055, 0xc055]);
    p.line(16, 2);
    p.line(16, 5);
    expect(p.sent(16)).toBe(1);
    p.eoi(0x54);
    expect(p.sent(16)).toBe(1);
    p.eoi(0x55);
    expect([p.sent(16), p.r(0x30)]).toEqual([2, 0xc055]);
    p.line(16, 4);
    p.rig.write(0, 0x40, 0x55, 4);
    expect([p.sent(16), p.r(0x30)]).toEqual([2, 0x8055]);
  });
  it('unmasking an asserted level pin sends; switching to edge clears remote IRR', () => {
    const p = make();
    p.route(5, 0x1_8033);
    p.line(5, 3);
    expect(p.sent(5)).toBe(0);
    p.route(5, 0x8033);
    expect([p.sent(5), p.r(0x1a)]).toEqual([1, 0xc033]);
    p.route(5, 0x0033);
    p.route(5, 0x8033);
    expect([p.sent(5), p.r(0x1a)]).toEqual([2, 0xc033]);
  });
  it('messages go on being counted over a reset', () => {
    const p = make();
    p.route(4, 0x31);
    p.line(4, 3);
    p.rig.reset();
    expect([p.r(0x18), p.sent(4)]).toEqual([0x10000, 1]);
    p.route(4, 0x32);
    p.line(4, 3);
    expect(p.sent(4)).toBe(1);
  });
});
