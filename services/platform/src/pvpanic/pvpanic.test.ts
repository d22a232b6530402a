import { conformance } from '@nyx/device/conformance';
import { Rig } from '@nyx/device/testing';
import { MachineEvent } from '@nyx/ring';
import { expect, it } from 'vitest';
import { pvpanic } from './device.ts';

conformance(pvpanic, { config: {}, runs: 30 });

it('says which events it understands', () => {
  expect(new Rig(pvpanic, { config: {} }).read(0, 0)).toBe(7);
});

it.each([
  [1, MachineEvent.panic],
  [2, MachineEvent.crashLoaded],
  [4, MachineEvent.shutdown],
  // A kernel that panicked and has a crash kernel tells one or the other; both is a panic.
  [3, MachineEvent.panic],
  [0, MachineEvent.none],
  [0x80, MachineEvent.none],
])('%i written is machine event %i', (events, event) => {
  expect(new Rig(pvpanic, { config: {} }).write(0, 0, events).machine).toBe(event);
});
