/** The devices that this program can be. */
import type { AnyDeviceKind, DeviceContext } from '@nyx/device';
import { ahci } from './ahci/device.ts';
import type { OpenBlock } from './block/block.ts';
import { hostIo } from './block/host.ts';
import { Qcow2Disk } from './block/qcow2/disk.ts';
import { RawDisk } from './block/raw.ts';
import { type BlkConfig, virtioBlk } from './virtio-blk/device.ts';

/** What of a configuration is about the files of a disk. */
export type DiskConfig = Pick<BlkConfig, 'readOnly' | 'discard' | 'direct' | 'size' | 'layers'>;

/**
 * A disk on a file or block device: descriptor `file`. With `layers` in its configuration that is the topmost of several,
 * the others are `layer1`, `layer2` ..., and `journal` is memory that outlives the process.
 */
export const openDisk = (ctx: Pick<DeviceContext, 'fd' | 'has' | 'bulk'>, config: DiskConfig): OpenBlock => {
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
};

export const virtioBlkFile = virtioBlk(openDisk);

/** AHCI: the descriptors of port n are those of a disk with `pn.` before their names; a CD drive without one is empty. */
export const ahciFiles = ahci((ctx, config, port) => {
  const of = (name: string): string => `p${port}.${name}`;
  if (config.type === 'cd' && !ctx.has(of('file'))) return undefined;
  const own = {
    fd: (name: string) => ctx.fd(of(name)),
    has: (name: string) => ctx.has(of(name)),
    bulk: (name: string) => ctx.bulk(of(name)),
  };
  return openDisk(own, config.type === 'cd' ? { ...config, readOnly: true } : config);
});

export const kinds: readonly AnyDeviceKind[] = [virtioBlkFile as AnyDeviceKind, ahciFiles as AnyDeviceKind];
