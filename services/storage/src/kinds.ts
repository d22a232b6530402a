/** The devices that this program can be. */
import type { AnyDeviceKind } from '@nyx/device';
import { hostIo } from './block/host.ts';
import { Qcow2Disk } from './block/qcow2/disk.ts';
import { RawDisk } from './block/raw.ts';
import { type BlkConfig, virtioBlk } from './virtio-blk/device.ts';

/**
 * virtio-blk on a file or block device: descriptor `file` of the role. With `layers` in its configuration that is the
 * topmost of several, the others are `layer1`, `layer2` ..., and `journal` is memory that outlives the process.
 */
export const virtioBlkFile = virtioBlk((ctx, config: BlkConfig) => {
  const { readOnly = false, discard = true, direct = false, size, layers } = config;
  return (memory, completed) => {
    if (layers?.[0]?.format !== 'qcow2')
      return new RawDisk(
        { fd: ctx.fd('file'), readOnly, discard, direct, ...(size === undefined ? {} : { size }) },
        memory,
        completed,
      );
    const files = layers.map((l, i) => ({
      fd: ctx.fd(i === 0 ? 'file' : `layer${i}`),
      qcow2: l.format === 'qcow2',
      ...(l.format === 'raw' ? { size: l.size } : {}),
    }));
    const journal = ctx.has('journal') ? { journal: ctx.bulk('journal') } : {};
    return new Qcow2Disk(hostIo, { files, readOnly, discard, ...journal }, memory, completed);
  };
});

export const kinds: readonly AnyDeviceKind[] = [virtioBlkFile as AnyDeviceKind];
