/** The devices that this program can be. */
import type { AnyDeviceKind } from '@nyx/device';
import { RawDisk } from './block/raw.ts';
import { type BlkConfig, virtioBlk } from './virtio-blk/device.ts';

/** virtio-blk on a raw file or block device: descriptor `file` of the role. */
export const virtioBlkRaw = virtioBlk((ctx, config: BlkConfig) => {
  const { readOnly = false, discard = true, direct = false, size } = config;
  return (memory, completed) =>
    new RawDisk(
      { fd: ctx.fd('file'), readOnly, discard, direct, ...(size === undefined ? {} : { size }) },
      memory,
      completed,
    );
});

export const kinds: readonly AnyDeviceKind[] = [virtioBlkRaw as AnyDeviceKind];
