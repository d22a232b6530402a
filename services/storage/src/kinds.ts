/** The devices that this program can be. */
import type { AnyDeviceKind } from '@nyx/device';
import { ahci } from './ahci/device.ts';
import { openDisk } from './block/open.ts';
import { virtioBlk } from './virtio-blk/device.ts';

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
