/** virtio-blk in two versions to come: the next has fields before and after, the one after it has the real layout again. */
import { type AnyDeviceKind, serveDevices } from '@nyx/device';
import { array, struct, u32, u64 } from '@nyx/layout';
import type { Migration } from '@nyx/ring';
import { virtioBlkFile } from '../../services/storage/src/kinds.ts';
import { syscalls } from '../../services/storage/src/syscalls.ts';

const first = virtioBlkFile as AnyDeviceKind;
const now = first.stateVersion;

export const State2 = struct('VirtioBlkState', {
  upgrades: u64('times that the state was migrated', { max: 1000 }),
  ...first.state.fields,
  history: array('u32', 6),
  pad2: u32(),
  last: u32(),
});

const to2: Migration = {
  version: now,
  state: first.state,
  step: (_from, to) => {
    to.upgrades = 1;
    to.history.set(0, 0x600d);
  },
};
const to3: Migration = {
  version: now + 1,
  state: State2,
  step: (from) => {
    if (from.upgrades !== 1 || from.history.get(0) !== 0x600d)
      throw new Error('what the version before kept is gone');
  },
};

export const second: AnyDeviceKind = { ...first, state: State2, stateVersion: now + 1, migrations: [to2] };
export const third: AnyDeviceKind = { ...first, stateVersion: now + 2, migrations: [to2, to3] };
/** A step that gives an illegal value. */
export const wrong: AnyDeviceKind = {
  ...second,
  migrations: [{ ...to2, step: (_from, to) => (to.upgrades = 5000) }],
};
/** It can load the state, and dies of it. */
export const fragile: AnyDeviceKind = {
  ...second,
  create: () => {
    throw new Error('this build is broken');
  },
  early: () => false,
};

export const serve = (kind: AnyDeviceKind): void => serveDevices([kind], syscalls);
