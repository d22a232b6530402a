import { conformance } from '@nyx/device/conformance';
import { Rig } from '@nyx/device/testing';
import { Space } from '@nyx/ring';
import { expect, it } from 'vitest';
import { mch } from './device.ts';

conformance(mch, { config: {}, runs: 60 });

const make = () => {
  const rig = new Rig(mch, { config: {} });
  return {
    rig,
    r: (at: number, width = 4) => rig.run((d) => d.configRead!(0, at, width)).value,
    w: (at: number, value: number, width = 4) => rig.run((d) => d.configWrite!(0, at, width, value)),
    window: () => rig.ctx.ranges[0]!,
  };
};

it('is a Q35 host bridge', () => {
  const p = make();
  expect([p.r(0), p.r(8), p.r(0x2c), p.r(0x0e, 1)]).toEqual([0x29c0_8086, 0x0600_0000, 0x1100_1af4, 0]);
});

it('ECAM: open at reset, moved, shortened and closed by PCIEXBAR', () => {
  const p = make();
  expect(p.window()).toEqual({ space: Space.ecam, region: 0, base: 0xb000_0000, length: 0x1000_0000 });
  p.w(0x60, 0xe400_0003);
  expect(p.window()).toMatchObject({ base: 0xe000_0000, length: 0x0800_0000 });
  p.w(0x64, 0x1);
  expect(p.window()).toMatchObject({ base: 0x1_e000_0000 });
  p.w(0x60, 0xe000_0000);
  expect(p.window()).toMatchObject({ space: Space.none, length: 0 });
  p.rig.reset();
  expect(p.window()).toMatchObject({ space: Space.ecam, base: 0xb000_0000 });
});

it('PAM is kept; SMRAM can be locked', () => {
  const p = make();
  p.w(0x90, 0x33333330);
  expect(p.r(0x90)).toBe(0x33333330);
  p.w(0x9d, 0x4a, 1);
  expect(p.r(0x9d, 1)).toBe(0x4a);
  p.w(0x9d, 0x5a, 1);
  expect(p.r(0x9d, 1)).toBe(0x1a);
  p.w(0x9d, 0x4a, 1);
  expect(p.r(0x9d, 1)).toBe(0x1a);
});
