/** The files of a disk, in the role of the process that serves it and in ours. */
import { existsSync, readdirSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { close, fileSize } from '@nyx/native';
import { NyxError } from '@nyx/protocol/errors';
import { unlockImage } from '@nyx/protocol/image-lock';
import type { DiskFile } from './disk-files.ts';
import type { ProcessPlan } from './plan.ts';

/**
 * A role says these files from now on; whoever has it already does not know.
 * @param port of the AHCI controller, whose role has the disk's descriptors as `pN.file` ...; undefined: the role is the disk's
 * @param journal of `files[0]`, when it is an image
 * @param old journal of `files[1]`, which was the topmost until now
 */
export function rewire(
  plan: Pick<ProcessPlan, 'role' | 'fds'>,
  name: string,
  port: number | undefined,
  files: readonly DiskFile[],
  journal: number | undefined,
  old?: number,
): void {
  const device = plan.role.devices.find((r) => r.name === (port === undefined ? name : 'ahci'))!;
  const of = port === undefined ? '' : `p${port}.`;
  const [top] = files;
  const wanted = new Map<string, number>(
    files.map((f, i) => [`${of}${i === 0 ? 'file' : `layer${i}`}`, f.fd]),
  );
  if (journal !== undefined && top!.format !== 'raw') wanted.set(`${of}journal`, journal);
  if (top!.direct !== undefined) wanted.set(`${of}direct`, top!.direct);
  if (old !== undefined) wanted.set(`${of}journal1`, old);
  const fds: Record<string, number> = {};
  for (const [as, fd] of wanted) {
    const slot = device.fds[as];
    if (slot === undefined) fds[as] = plan.fds.push(fd) - 1;
    else {
      plan.fds[slot] = fd;
      fds[as] = slot;
    }
  }
  for (const [as, slot] of Object.entries(device.fds)) {
    if (wanted.has(as)) continue;
    // A place that is not named any more: any descriptor that exists fills it.
    if (as.startsWith(of)) plan.fds[slot] = plan.fds[plan.role.ring]!;
    else fds[as] = slot;
  }
  device.fds = fds;
  const content =
    top!.format === 'raw'
      ? { size: top!.bytes, layers: undefined }
      : { size: undefined, layers: files.map((f) => ({ format: f.format, size: f.bytes })) };
  if (port === undefined) device.config = { ...device.config, ...content };
  else {
    const ports = [...(device.config.ports as object[])];
    ports[port] = { ...ports[port], ...content };
    device.config = { ...device.config, ports };
  }
}

/** Others may have it, although its descriptors are open somewhere. */
export function unlock({ fd }: DiskFile): void {
  try {
    unlockImage(fd);
  } catch {
    // A file system without locks.
  }
}

/** Files that are not those of a disk any more. */
export function release(files: readonly DiskFile[]): void {
  for (const f of files) {
    unlock(f);
    close(f.fd);
    if (f.direct !== undefined) close(f.direct);
  }
}

/** A file that is there already may be somebody's. @throws NyxError DISK_INVALID */
export const mustBeNew = (path: string): void => {
  if (existsSync(path))
    throw new NyxError('DISK_INVALID', { expected: 'a file that is not there yet', got: path });
};
export const newName = (path: string): string => {
  for (let i = 0; ; i++) if (!existsSync(`${path}${i}`)) return `${path}${i}`;
};

/** What overlays of checkpoints are called: the image's name, this, a number (disk-checkpoint.ts). */
export const overlaySuffix = '.checkpoint';

/** Overlays that the death of a host or of nyxd left beside an image. */
export const overlaysOf = (path: string): string[] => {
  try {
    const name = `${basename(path)}${overlaySuffix}`;
    return readdirSync(dirname(path)).filter((f) => f.startsWith(name) && /^\d+$/.test(f.slice(name.length)));
  } catch {
    return [];
  }
};

/** Bytes of a file as it is now. */
export const openBytes = (f: DiskFile): number => (f.format === 'raw' ? fileSize(f.fd) : f.bytes);
