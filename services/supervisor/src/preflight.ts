/** What can be known to be wrong before anything is started: files, memory. Opens what the machine needs. */
import { closeSync, constants, fstatSync, openSync, readFileSync, readSync } from 'node:fs';
import { NyxError } from '@nyx/protocol/errors';
import type { VmSpec } from '@nyx/protocol/spec';
import { type DiskFile, openDisk, openMedium, openStandby } from './disk-files.ts';
import { overlaysOf } from './disk-role.ts';
import { openTpm, type TpmFiles } from './tpm.ts';

/** Size of a block device, from sysfs (512-byte sectors whatever the device's own). */
const blockBytes = (rdev: number): number => {
  const major = (rdev >>> 8) & 0xfff;
  const minor = (rdev & 0xff) | ((rdev >>> 12) & 0xfff00);
  return Number(readFileSync(`/sys/dev/block/${major}:${minor}/size`, 'utf8')) * 512;
};

/** Opens a regular file (or block device). @throws NyxError FILE_MISSING, FILE_DENIED, FILE_KIND */
export const openFile = (path: string, what: string, write = false): { fd: number; bytes: number } => {
  let fd: number;
  try {
    // Not blocking: opening a FIFO must not wait for its other end.
    fd = openSync(path, (write ? constants.O_RDWR : constants.O_RDONLY) | constants.O_NONBLOCK);
  } catch (e) {
    const code = (e as NodeJS.ErrnoException).code;
    const got = `${path} (${code})`;
    if (code === 'ENOENT' || code === 'ENOTDIR')
      throw new NyxError('FILE_MISSING', { expected: `a file for the ${what}`, got });
    if (code === 'EACCES' || code === 'EPERM' || code === 'EROFS')
      throw new NyxError('FILE_DENIED', {
        expected: `leave to ${write ? 'read and write' : 'read'} the ${what}`,
        got,
      });
    throw new NyxError('FILE_KIND', { expected: `a file for the ${what}`, got });
  }
  const s = fstatSync(fd);
  if (s.isFile()) return { fd, bytes: s.size };
  if (s.isBlockDevice()) return { fd, bytes: blockBytes(s.rdev) };
  closeSync(fd);
  throw new NyxError('FILE_KIND', {
    expected: `a regular file or a block device for the ${what}`,
    got: `${path} (${s.isDirectory() ? 'a directory' : 'something else'})`,
  });
};

/** Reads a whole file from the start, however its offset stands: boot files are read again at each reset. */
export const readWhole = (fd: number): Buffer => {
  const bytes = Buffer.allocUnsafe(fstatSync(fd).size);
  let at = 0;
  while (at < bytes.length) {
    const n = readSync(fd, bytes, at, bytes.length - at, at);
    if (n === 0) break;
    at += n;
  }
  return bytes.subarray(0, at);
};

const meminfo = (field: string): number => {
  const m = new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(readFileSync('/proc/meminfo', 'utf8'));
  return m ? Number(m[1]) * 1024 : Number.POSITIVE_INFINITY;
};

/** The control group's limit, version 2 or 1; Infinity when there is none. */
const cgroupLimit = (): number => {
  for (const path of ['/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes']) {
    try {
      const n = Number(readFileSync(path, 'utf8'));
      if (Number.isFinite(n)) return n;
    } catch {}
  }
  return Number.POSITIVE_INFINITY;
};

export interface HostMemory {
  total: number;
  available: number;
}
export const hostMemory = (): HostMemory => ({
  total: Math.min(meminfo('MemTotal'), cgroupLimit()),
  available: meminfo('MemAvailable'),
});

const mib = (n: number): string => `${Math.floor(n / 2 ** 20)} MiB`;

/**
 * A machine that is larger than the host can never be used in full, and one larger than what is free would drive the host
 * out of memory while its guest only zeroes pages. @throws NyxError MEMORY_TOO_LARGE
 */
export const checkMemory = (bytes: number, host: HostMemory = hostMemory()): void => {
  if (bytes > host.total)
    throw new NyxError('MEMORY_TOO_LARGE', {
      expected: `at most ${mib(host.total)}, what this host has`,
      got: mib(bytes),
    });
  if (bytes > host.available)
    throw new NyxError('MEMORY_TOO_LARGE', {
      expected: `at most ${mib(host.available)}, what is free on this host`,
      got: mib(bytes),
    });
};

export interface OpenedFiles {
  kernel?: number;
  initrd?: number;
  bios?: number;
  /** Of each disk, the topmost file first. */
  disks: DiskFile[][];
  /** The other backend of a disk that has one. */
  standbys: Map<number, number>;
  /** Of each CD drive; undefined: it is empty. */
  cds: (DiskFile | undefined)[];
  tpm?: TpmFiles;
}

/** Opens everything that the specification names. @throws NyxError FILE_*, DISK_INVALID, MEMORY_TOO_LARGE; nothing stays open then. */
export const preflight = (spec: VmSpec): OpenedFiles => {
  checkMemory(spec.memory);
  const opened: number[] = [];
  const open = (path: string, what: string, write = false): { fd: number; bytes: number } => {
    const f = openFile(path, what, write);
    opened.push(f.fd);
    return f;
  };
  try {
    const files: OpenedFiles = { disks: [], standbys: new Map(), cds: [] };
    if (spec.kernel !== undefined) files.kernel = open(spec.kernel, 'kernel').fd;
    if (spec.initrd !== undefined) files.initrd = open(spec.initrd, 'initrd').fd;
    if (spec.bios !== undefined) files.bios = open(spec.bios, 'bios').fd;
    spec.disks.forEach((d, i) => void files.disks.push(openDisk(open, `disk ${i}`, d)));
    for (const d of spec.disks) {
      const left = d.readonly ? [] : overlaysOf(d.path);
      if (left.length > 0)
        throw new NyxError('CHECKPOINT_LEFT', {
          expected: `${d.path} alone`,
          got: `${left.join(', ')} beside it`,
        });
    }
    for (const [i, d] of spec.disks.entries())
      if (d.standby !== undefined)
        files.standbys.set(i, openStandby(open, `disk ${i}`, { ...d, path: d.standby }, files.disks[i]![0]!));
    for (const [i, cd] of spec.cdroms.entries())
      files.cds.push(cd.path === undefined ? undefined : openMedium(open, `CD ${i}`, cd.path));
    if (spec.tpm) files.tpm = openTpm(spec.tpm, open);
    return files;
  } catch (e) {
    for (const fd of opened) closeSync(fd);
    throw e;
  }
};
