import { conformance } from '@nyx/device/conformance';
import { Rig } from '@nyx/device/testing';
import { expect, it } from 'vitest';
import { post } from './device.ts';

conformance(post, { config: {}, runs: 20 });

it('keeps the last code and counts', () => {
  const rig = new Rig(post, { config: {} });
  rig.write(0, 0, 0x55);
  rig.write(0, 0, 0xaa);
  expect([rig.read(0, 0), rig.ctx.state.writes]).toEqual([0xaa, 2]);
});
