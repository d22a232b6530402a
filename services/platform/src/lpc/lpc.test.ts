import { conformance } from '@nyx/device/conformance';
import { Rig } from '@nyx/device/testing';
import { MachineEvent, Space } from '@nyx/ring';
import { expect, it } from 'vitest';
import { lpc } from './device.ts';

conformance(lpc, { config: {}, runs: 60 });

const make = () => {
  const rig = new Rig(lpc, { config: {} });
  return {
    rig,
    r: (at: number, width = 4) => rig.run((d) => d.configRead!(0, at, width)).value,
    w: (at: number, value: number, width = 4) => rig.run((d) => d.configWrite!(0, at, width, value)),
    line: (gsi: number, word: number) => rig.run((d) => d.line!(gsi, word)),
    level: (irq: number) => (rig.ctx.lines[irq] ?? 0) & 1,
  };
};

it('is an ICH9 LPC bridge with its ACPI base at 0x600', () => {
  const p = make();
  expect([p.r(0), p.r(8), p.r(0x0e, 1), p.r(0x40), p.r(0x44, 1)]).toEqual([
    0x2918_8086, 0x0601_0002, 0x80, 0x601, 0x80,
  ]);
});

it('routes PIRQs to IRQs, several to one', () => {
  const p = make();
  p.line(16, 3);
  expect([10, 11].map(p.level)).toEqual([0, 0]);
  p.w(0x60, 0x0a, 1);
  p.w(0x68, 0x0a, 1);
  expect(p.level(10)).toBe(1);
  p.line(20, 3);
  p.line(16, 2);
  expect(p.level(10)).toBe(1);
  p.line(20, 2);
  expect([p.level(10), p.rig.ctx.lines[10]]).toEqual([0, 2]);
  p.line(16, 5);
  p.w(0x60, 0x08, 1); // IRQ 8 is nobody's to route to
  expect([p.level(8), p.level(10)]).toEqual([0, 0]);
  p.w(0x60, 0x8b, 1);
  expect(p.level(11)).toBe(0);
});

it('port 0xCF9 resets when bit 2 rises', () => {
  const p = make();
  expect(p.rig.write(0, 0, 2).machine).toBe(MachineEvent.none);
  expect(p.rig.write(0, 0, 6).machine).toBe(MachineEvent.reset);
  expect(p.rig.write(0, 0, 6).machine).toBe(MachineEvent.none);
  expect(p.rig.read(0, 0)).toBe(6);
});

it('RCBA shows the chipset registers', () => {
  const p = make();
  p.w(0xf0, 0xfed1_c001);
  expect(p.rig.ctx.ranges[0]).toEqual({ space: Space.mmio, region: 1, base: 0xfed1_c000, length: 0x4000 });
  expect([p.rig.read(1, 0x3410, 4), p.rig.read(1, 0, 4)]).toEqual([0x20, 0]);
  p.w(0xf0, 0xfed1_c000);
  expect(p.rig.ctx.ranges[0]!.space).toBe(Space.none);
});
