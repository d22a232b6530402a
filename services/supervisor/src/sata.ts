/**
 * What is on the machine's AHCI controller: disks with `bus: ahci`, in their order, then CD drives. All of it is one device
 * of one process, `ahci`, PCI function 00:1f.2 as on the chipset.
 */
import { pciGsi } from '@nyx/boot';
import { cdPageBytes } from '@nyx/device/cd-page';
import type { VmSpec } from '@nyx/protocol/spec';
import type { DiskFile } from './disk-files.ts';
import type { Resources } from './resources.ts';
import type { DeviceLine } from './wiring.ts';

export const sataSlot = { device: 31, fn: 2 } as const;

type Plugged = { disk: number } | { cd: number };

/** Drives by port. */
const plugged = (spec: Pick<VmSpec, 'disks' | 'cdroms'>): Plugged[] => [
  ...spec.disks.flatMap((d, disk) => (d.bus === 'ahci' ? [{ disk }] : [])),
  ...spec.cdroms.map((_, cd) => ({ cd })),
];

/** Port of a disk or a CD drive; -1: it is on no port. */
export const sataPort = (spec: Pick<VmSpec, 'disks' | 'cdroms'>, what: Plugged): number =>
  plugged(spec).findIndex((p) =>
    'disk' in p ? 'disk' in what && p.disk === what.disk : 'cd' in what && p.cd === what.cd,
  );

/** What the controller is told of a CD drive; it may change while the machine runs. */
export const cdConfig = (cd: number, file: DiskFile | undefined, generation = 0, ejects = 0) => ({
  type: 'cd',
  serial: `nyx-cd${cd}`,
  generation,
  ejects,
  ...(file ? { size: file.bytes } : {}),
});

/**
 * The line of the controller, if there is something on it.
 * @param disk what the process of a disk is told of its files
 * @param cds the medium of each CD drive
 */
export function sataLine(
  spec: Pick<VmSpec, 'disks' | 'cdroms'>,
  disk: (i: number) => Pick<DeviceLine, 'config' | 'fds'>,
  cds: readonly (DiskFile | undefined)[],
): DeviceLine[] {
  const fds: Record<string, string> = {};
  const ports = plugged(spec).map((p, port) => {
    if ('disk' in p) {
      const of = disk(p.disk);
      for (const [as, name] of Object.entries(of.fds ?? {})) fds[`p${port}.${as}`] = name;
      return { type: 'disk', ...of.config };
    }
    fds[`p${port}.page`] = `cd${p.cd}.page`;
    if (cds[p.cd]) fds[`p${port}.file`] = `cd${p.cd}`;
    return cdConfig(p.cd, cds[p.cd]);
  });
  if (ports.length === 0) return [];
  const { device, fn } = sataSlot;
  return [
    {
      name: 'ahci',
      kind: 'ahci',
      dma: true,
      process: 'ahci',
      service: 'storage',
      bdf: (device << 3) | fn,
      irqs: [`line ${pciGsi(device, 0)}`, 'msi'],
      config: { ports },
      fds,
    },
  ];
}

/** Names the media, which CdDrives owns, and makes the pages by which drives tell their state. */
export function adoptCds(r: Resources, cds: readonly (DiskFile | undefined)[]): ArrayBuffer[] {
  return cds.map((file, i) => {
    if (file) r.named.set(`cd${i}`, file.fd);
    return r.blob(`cd${i}.page`, new Uint8Array(cdPageBytes)).buffer;
  });
}
