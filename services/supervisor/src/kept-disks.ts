/**
 * What the keeper holds of disks and CD drives. Their files are in two places, in the role of who serves them and here, and
 * both change one after the other: so the next set is kept beside the present one, and the role tells which of them is true.
 */
import { fstatSync } from 'node:fs';
import type { Role } from '@nyx/protocol';
import type { VmSpec } from '@nyx/protocol/spec';
import type { DiskFile } from './disk-files.ts';
import { type Estate, isCount, isObject } from './estate.ts';
import { sataPort } from './sata.ts';

export interface DiskSet {
  files: DiskFile[];
  journal: number | undefined;
}
export interface InheritedDisk extends DiskSet {
  retired: number | undefined;
  /** Its image was being changed by a tool. */
  mending: boolean;
}

interface KeptSet {
  files: FileMeta[];
  journal: boolean;
}
interface KeptDisk {
  now: KeptSet;
  next?: KeptSet;
  retired: boolean;
  mending: boolean;
}

/** What is known of a file; `direct`: it has a second descriptor, which comes next to the first. */
type FileMeta = Omit<DiskFile, 'fd' | 'direct'> & { direct?: true };

const metaOf = ({ fd: _, direct, ...rest }: DiskFile): FileMeta => ({
  ...rest,
  ...(direct === undefined ? {} : { direct: true }),
});
const keptSet = (s: DiskSet): KeptSet => ({ files: s.files.map(metaOf), journal: s.journal !== undefined });
const fdsOf = (s: DiskSet): number[] =>
  [...s.files.flatMap((f) => [f.fd, f.direct]), s.journal].filter((fd) => fd !== undefined);

export const keepDisk = (d: {
  now: DiskSet;
  next?: DiskSet | undefined;
  retired?: number | undefined;
  mending?: boolean | undefined;
}): { value: KeptDisk; fds: number[] } => ({
  value: {
    now: keptSet(d.now),
    ...(d.next ? { next: keptSet(d.next) } : {}),
    retired: d.retired !== undefined,
    mending: d.mending === true,
  },
  fds: [...fdsOf(d.now), ...(d.next ? fdsOf(d.next) : []), ...(d.retired === undefined ? [] : [d.retired])],
});

const isSet = (v: unknown): boolean =>
  isObject(v) &&
  Array.isArray(v.files) &&
  v.files.length > 0 &&
  v.files.every((f) => isObject(f) && isCount(f.bytes));
const countOf = (s: KeptSet | undefined): number =>
  s ? s.files.reduce((n, f) => n + (f.direct ? 2 : 1), s.journal ? 1 : 0) : 0;

/** The file that a role gives to a device, as the file system knows it. */
const inRole = (estate: Estate, disk: number, port: number): string | undefined => {
  const [process, as] = port < 0 ? [`disk${disk}`, 'file'] : ['ahci', `p${port}.file`];
  const place = estate.peek(`place/${process}`);
  const fd = place?.fds[(place.value as { role: Role }).role.devices[0]!.fds[as] ?? -1];
  return fd === undefined ? undefined : identity(fd);
};
const identity = (fd: number): string => {
  const { dev, ino } = fstatSync(fd);
  return `${dev}:${ino}`;
};

/** @throws NyxError ADOPTION_FAILED */
export const inheritDisks = (estate: Estate, spec: Pick<VmSpec, 'disks' | 'cdroms'>): InheritedDisk[] =>
  spec.disks.map((_, i) => {
    const { value, fds } = estate.take<KeptDisk>(`disk/${i}`, (v, given) => {
      if (!isObject(v) || !isSet(v.now) || (v.next !== undefined && !isSet(v.next))) return false;
      const k = v as unknown as KeptDisk;
      return countOf(k.now) + countOf(k.next) + (k.retired ? 1 : 0) === given.length;
    });
    const read = (s: KeptSet): DiskSet => ({
      files: s.files.map(({ direct, ...f }) => {
        const file: DiskFile = { ...f, fd: fds.shift()! };
        if (direct) file.direct = fds.shift()!;
        return file;
      }),
      journal: s.journal ? fds.shift() : undefined,
    });
    const now = read(value.now);
    const next = value.next && read(value.next);
    const retired = value.retired ? fds.shift() : undefined;
    const serves = next && inRole(estate, i, sataPort(spec, { disk: i }));
    // An overlay's successor has the journal of the image below as its second one.
    const set = next && serves === identity(next.files[0]!.fd) ? next : now;
    return { ...set, retired: set === next ? now.journal : retired, mending: value.mending };
  });

/** The medium of a CD drive. */
export interface KeptCd {
  path?: string;
  bytes?: number;
  generation: number;
  ejects: number;
}
export interface InheritedCd extends Omit<KeptCd, 'bytes'> {
  medium: DiskFile | undefined;
}

/** @throws NyxError ADOPTION_FAILED */
export const inheritCds = (estate: Estate, spec: Pick<VmSpec, 'disks' | 'cdroms'>): InheritedCd[] =>
  spec.cdroms.map((_, cd) => {
    const { value, fds } = estate.take<{ now: KeptCd; before?: KeptCd }>(
      `cd/${cd}`,
      (v, given) =>
        isObject(v) &&
        isObject(v.now) &&
        isCount((v.now as unknown as KeptCd).generation) &&
        given.length <= 2,
    );
    const place = estate.peek('place/ahci')?.value as { role: Role } | undefined;
    const ports = (place?.role.devices.find((d) => d.kind === 'ahci')?.config.ports ?? []) as KeptCd[];
    const known = ports[sataPort(spec, { cd })];
    const read = (k: KeptCd | undefined): InheritedCd | undefined =>
      k && {
        ...k,
        medium: k.bytes === undefined ? undefined : { fd: fds.shift()!, bytes: k.bytes, format: 'raw' },
      };
    const now = read(value.now)!;
    const before = read(value.before);
    return before && known?.generation === before.generation && known.ejects === before.ejects ? before : now;
  });
