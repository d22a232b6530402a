import { conformance } from '@nyx/device/conformance';
import { Rig } from '@nyx/device/testing';
import { expect, it } from 'vitest';
import { doorbell } from './device.ts';

conformance(doorbell, { config: {} });

it('rings, counts, and is acknowledged', () => {
  const rig = new Rig(doorbell, { config: {} });
  rig.write(0, 8, 3, 4);
  rig.write(0, 8, 4, 4);
  expect([rig.ctx.lines[0], rig.read(0, 0x10, 4), rig.read(0, 0x10, 4)]).toEqual([3, 7, 0]);
  rig.write(0, 0x0c, 1, 4);
  expect(rig.ctx.lines[0]).toBe(2);
  rig.write(0, 0x18, 1000, 8);
  rig.advance(999);
  expect(rig.read(0, 0x0c, 4)).toBe(0);
  rig.advance(1);
  expect([rig.read(0, 0x0c, 4), rig.ctx.lines[0]]).toEqual([2, 5]);
});
