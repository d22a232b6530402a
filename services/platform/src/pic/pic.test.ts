import { conformance } from '@nyx/device/conformance';
import { Rig } from '@nyx/device/testing';
import { describe, expect, it } from 'vitest';
import { pic } from './device.ts';

conformance(pic, { config: {}, runs: 60 });

/** As a PC sets it up: vectors 0x20 and 0x28, `auto` adds automatic EOI. */
const make = ({ mask = 0, icw4 = 1 } = {}) => {
  const rig = new Rig(pic, { config: {} });
  const w = (chip: number, port: number, ...values: number[]) => {
    for (const v of values) rig.write(chip, port, v);
  };
  w(0, 0, 0x11);
  w(0, 1, 0x20, 4, icw4, mask);
  w(1, 0, 0x11);
  w(1, 1, 0x28, 2, icw4, mask);
  const words = new Array(16).fill(0);
  const tell = (irq: number) => rig.run((d) => d.line!(irq === 0 ? 2 : irq, words[irq]));
  return {
    rig,
    w,
    r: (chip: number, port: number) => rig.read(chip, port),
    raise: (irq: number) => {
      words[irq] = words[irq] & 1 ? words[irq] : words[irq] + 3;
      tell(irq);
    },
    lower: (irq: number) => {
      words[irq] &= ~1;
      tell(irq);
    },
    intr: () => rig.ctx.lines[0]! & 1,
    ack: () => rig.run((d) => d.intAck!()).value,
    isr: (chip: number) => {
      rig.write(chip, 0, 0x0b);
      return rig.read(chip, 0);
    },
    irr: (chip: number) => {
      rig.write(chip, 0, 0x0a);
      return rig.read(chip, 0);
    },
  };
};

describe('8259A', () => {
  it('edge: latched at the rise, served once, nested by priority', () => {
    const p = make();
    p.raise(4);
    p.lower(4);
    expect([p.intr(), p.irr(0), p.ack(), p.isr(0), p.irr(0), p.intr()]).toEqual([1, 0x10, 0x24, 0x10, 0, 0]);
    p.raise(5);
    expect(p.intr()).toBe(0);
    p.raise(1);
    expect([p.intr(), p.ack(), p.isr(0)]).toEqual([1, 0x21, 0x12]);
    p.w(0, 0, 0x20);
    expect([p.isr(0), p.intr()]).toEqual([0x10, 0]);
    p.w(0, 0, 0x20);
    expect([p.isr(0), p.intr(), p.ack()]).toEqual([0, 1, 0x25]);
  });
  it('a slave interrupt needs an EOI at both', () => {
    const p = make();
    p.raise(12);
    expect([p.ack(), p.isr(0), p.isr(1)]).toEqual([0x2c, 0x04, 0x10]);
    p.raise(8); // higher at the slave, but the master's level is in service
    expect(p.intr()).toBe(0);
    p.w(1, 0, 0x20);
    p.w(0, 0, 0x20);
    expect([p.intr(), p.ack()]).toEqual([1, 0x28]);
  });
  it('special fully nested mode lets a higher slave request through', () => {
    const p = make({ icw4: 0x11 });
    p.raise(12);
    p.ack();
    p.raise(8);
    expect([p.intr(), p.ack()]).toEqual([1, 0x28]);
  });
  it('the timer is GSI 2, and GSI 0 is nobody', () => {
    const p = make();
    p.rig.run((d) => d.line!(0, 3));
    expect(p.intr()).toBe(0);
    p.raise(0);
    expect(p.ack()).toBe(0x20);
  });
  it('level: follows the line, and asks again after EOI while it is high', () => {
    const p = make();
    p.rig.write(2, 0, 0xff);
    p.rig.write(2, 1, 0xff);
    expect([p.rig.read(2, 0), p.rig.read(2, 1), p.rig.read(2, 0, 2)]).toEqual([0xf8, 0xde, 0xdef8]);
    p.raise(11);
    expect(p.ack()).toBe(0x2b);
    p.w(1, 0, 0x20);
    p.w(0, 0, 0x20);
    expect(p.ack()).toBe(0x2b);
    p.lower(11);
    p.w(1, 0, 0x20);
    p.w(0, 0, 0x20);
    expect(p.intr()).toBe(0);
  });
  it('a request that is gone is spurious: 7 of the chip, no in-service bit', () => {
    const p = make();
    expect([p.ack(), p.isr(0)]).toEqual([0x27, 0]);
    p.rig.write(2, 1, 0x08);
    p.raise(11);
    p.lower(11);
    // The slave took its request back, the master has it latched.
    expect([p.ack(), p.isr(0), p.isr(1)]).toEqual([0x2f, 4, 0]);
    expect(p.rig.ctx.state.spurious).toBe(2);
  });
  it('mask, and unmasking what was latched', () => {
    const p = make({ mask: 0xff });
    p.raise(3);
    expect([p.intr(), p.r(0, 1)]).toEqual([0, 0xff]);
    p.w(0, 1, 0xf7);
    expect([p.intr(), p.ack()]).toEqual([1, 0x23]);
  });
  it('automatic EOI, with rotation', () => {
    const p = make({ icw4: 3 });
    p.w(0, 0, 0x80);
    p.raise(0);
    p.raise(1);
    expect([p.ack(), p.isr(0)]).toEqual([0x20, 0]);
    p.lower(0);
    p.raise(0);
    expect([p.ack(), p.ack()]).toEqual([0x21, 0x20]);
  });
  it('specific EOI, set priority, rotate on EOI', () => {
    const p = make();
    p.w(0, 0, 0xc2); // 2 lowest: 3 highest
    p.raise(1);
    p.raise(4);
    expect(p.ack()).toBe(0x24);
    p.w(0, 0, 0x64);
    expect([p.isr(0), p.ack()]).toEqual([0, 0x21]);
    p.w(0, 0, 0xa0); // rotates 1 to the bottom
    p.raise(5);
    p.lower(1);
    p.raise(1);
    expect(p.ack()).toBe(0x25);
  });
  it('poll serves without INTA', () => {
    const p = make();
    p.raise(6);
    p.w(0, 0, 0x0c);
    expect([p.r(0, 0), p.isr(0)]).toEqual([0x86, 0x40]);
    p.w(0, 0, 0x0c);
    expect(p.r(0, 0)).toBe(0);
  });
  it('special mask lets lower levels through', () => {
    const p = make();
    p.raise(1);
    p.ack();
    p.raise(5);
    expect(p.intr()).toBe(0);
    p.w(0, 1, 0x02);
    p.w(0, 0, 0x68);
    expect([p.intr(), p.ack()]).toEqual([1, 0x25]);
  });
  it('ICW1 clears what was latched; edges are counted once, however often they are told', () => {
    const p = make();
    p.raise(3);
    p.w(0, 0, 0x11);
    p.w(0, 1, 0x20, 4, 1);
    expect(p.intr()).toBe(0);
    p.raise(3);
    expect(p.intr()).toBe(0);
    p.lower(3);
    p.raise(3);
    expect(p.intr()).toBe(1);
  });
  it('INTR makes a new edge for each request', () => {
    const p = make();
    p.raise(3);
    p.raise(4);
    const edges = () => p.rig.ctx.lines[0]! >>> 1;
    const before = edges();
    p.ack();
    p.w(0, 0, 0x20);
    expect([edges() - before, p.intr()]).toEqual([1, 1]);
  });
});
