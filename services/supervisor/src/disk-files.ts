/**
 * The files of a disk: an image and what lies under it. The supervisor opens them, so that the process that serves the
 * disk needs no name of any file. Here only that is read of an image which tells what is below; the rest is checked by who
 * serves it.
 *
 * A format is never guessed for a file that a guest may have written: its first bytes are the guest's, and an image names
 * files of the host. So a disk is raw unless the specification says otherwise, and an image says of what format the
 * file under it is.
 */
import { spawnSync } from 'node:child_process';
import { constants, fstatSync, openSync, readSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { memfdCreate } from '@nyx/native';
import { type DiskFormat, isDiskFormat } from '@nyx/protocol/disk-formats';
import { NyxError } from '@nyx/protocol/errors';
import { lockImage } from '@nyx/protocol/image-lock';
import { isNbdUri } from '@nyx/protocol/nbd';
import { built } from './paths.ts';
import type { Resources } from './resources.ts';

export interface DiskFile {
  fd: number;
  /** Of the file; of a null disk, of the disk. */
  bytes: number;
  /** 'null': a disk without content; 'nbd': one that a server has. The descriptor means nothing then. */
  format: DiskFormat | 'null' | 'nbd';
  /** Absent for what is no file. */
  path?: string;
  /** The same file, open with O_DIRECT. */
  direct?: number;
}

type Open = (path: string, what: string, write?: boolean) => { fd: number; bytes: number };

/** Images under one another at most. */
const MOST_LAYERS = 64;
const MAGIC = 0x514649fb;
const BACKING_FORMAT = 0xe2792aca;

const invalid = (expected: string, got: string): NyxError => new NyxError('DISK_INVALID', { expected, got });

/** Up to a cluster from the beginning. */
const head = (fd: number, bytes: number): Buffer => {
  const buffer = Buffer.alloc(bytes);
  return buffer.subarray(0, readSync(fd, buffer, 0, bytes, 0));
};

/** What an image says that it is by its first bytes. */
const looksLike = (fd: number): DiskFormat | undefined => {
  const b = head(fd, 8);
  if (b.toString('latin1') === 'vhdxfile') return 'vhdx';
  return b.length >= 4 && b.readUInt32BE(0) === MAGIC ? 'qcow2' : undefined;
};

/** Name and format of what is under a qcow2 image. @throws NyxError DISK_INVALID */
const below = (fd: number, path: string): { name: string; format: string | undefined } | undefined => {
  const first = head(fd, 104);
  if (first.length < 72 || first.readUInt32BE(0) !== MAGIC) throw invalid('a qcow2 image', path);
  const bits = first.readUInt32BE(20);
  if (bits < 9 || bits > 21) throw invalid('clusters of 512 bytes to 2 MiB', `${path}: cluster_bits ${bits}`);
  const [high, offset, length] = [first.readUInt32BE(8), first.readUInt32BE(12), first.readUInt32BE(16)];
  if ((high === 0 && offset === 0) || length === 0) return undefined;
  const cluster = head(fd, 2 ** bits);
  if (high !== 0 || length > 1023 || offset + length > cluster.length)
    throw invalid('the name of a backing file in the first cluster', `${path}: ${length} bytes at ${offset}`);
  let format: string | undefined;
  let at = first.readUInt32BE(4) === 2 ? 72 : first.length < 104 ? 72 : first.readUInt32BE(100);
  while (at + 8 <= offset) {
    const [type, bytes] = [cluster.readUInt32BE(at), cluster.readUInt32BE(at + 4)];
    if (type === 0 || at + 8 + bytes > offset) break;
    if (type === BACKING_FORMAT) format = cluster.toString('utf8', at + 8, at + 8 + bytes);
    at += 8 + Math.ceil(bytes / 8) * 8;
  }
  return { name: cluster.toString('utf8', offset, offset + length), format };
};

/** A disk that is no file: `null-co://` takes everything and gives zeroes, `memory://` lasts as long as the machine. */
function withoutFile(disk: {
  path: string;
  readonly: boolean;
  size?: number | undefined;
}): DiskFile | undefined {
  if (isNbdUri(disk.path)) return onServer(disk.path, disk.readonly);
  const kind = /^(null-co|memory):\/\/$/.exec(disk.path)?.[1];
  if (kind === undefined) return undefined;
  const { size: bytes } = disk;
  if (bytes === undefined || bytes === 0 || bytes % 512 !== 0)
    throw invalid(`the size of ${disk.path}, in whole sectors (size=1G)`, String(bytes ?? 'none'));
  return kind === 'memory'
    ? { fd: memfdCreate('nyx-disk', bytes), bytes, format: 'raw' }
    : { fd: openSync('/dev/null', 'r'), bytes, format: 'null' };
}

/** A disk that an NBD server has. @throws NyxError BACKEND_MISSING, DISK_INVALID */
function onServer(path: string, readonly: boolean): DiskFile {
  const said = askTool({ command: 'info', path });
  if (said.error?.code === 'BACKEND_MISSING')
    throw new NyxError('BACKEND_MISSING', { expected: 'an NBD server', got: said.error.message });
  const bytes = said.result?.['virtual-size'];
  if (typeof bytes !== 'number') throw invalid('an export of an NBD server', said.error?.message ?? path);
  if (bytes === 0 || bytes % 512 !== 0)
    throw invalid('an export of whole sectors', `${path}: ${bytes} bytes`);
  const specific = said.result['format-specific'] as Record<string, unknown>;
  if (specific['read-only'] && !readonly) throw invalid('an export that can be written, or `readonly`', path);
  return { fd: openSync('/dev/null', 'r'), bytes, format: 'nbd' };
}

/** Runs the storage service's tool and waits: it looks into what is not looked into here. */
function askTool(request: Record<string, unknown>): {
  // biome-ignore lint/suspicious/noExplicitAny: the answers of its commands differ
  result?: any;
  error?: { code: string; message: string };
} {
  const child = spawnSync(
    process.execPath,
    [built('services/storage/dist/disk.cjs'), JSON.stringify(request)],
    { encoding: 'utf8', timeout: 20_000, env: { PATH: '/usr/bin:/bin' } },
  );
  const line = child.stdout?.trim().split('\n').at(-1) ?? '';
  return line === '' ? { error: { code: 'HOST_ERROR', message: child.stderr } } : JSON.parse(line);
}

/**
 * Files under a VHDX image. Its parents are named deep inside of it: the storage service's tool looks, in a process of its
 * own. @throws NyxError DISK_INVALID
 */
function parentsOf(path: string): string[] {
  const said = askTool({ command: 'chain', path, format: 'vhdx' });
  if (said.result) return (said.result as { path: string }[]).slice(1).map((l) => l.path);
  throw invalid('a VHDX image', `${path}: ${said.error?.message}`);
}

/**
 * Opens a disk, the topmost file first, with the locks that keep others from it (image-lock.ts): they are of the open file
 * descriptions, which we keep whoever serves the disk. @throws NyxError FILE_*, DISK_INVALID; what was opened stays open,
 * `open` keeps account of it
 */
export function openDisk(
  open: Open,
  what: string,
  disk: {
    path: string;
    readonly: boolean;
    format?: DiskFormat | undefined;
    forceShare?: boolean | undefined;
    size?: number | undefined;
    bus?: string | undefined;
    direct?: boolean | undefined;
  },
): DiskFile[] {
  // Connections are given to a disk that has a process of its own.
  if (isNbdUri(disk.path) && disk.bus === 'ahci')
    throw invalid('bus=virtio for a disk that a server has', `${disk.path} with bus=ahci`);
  if (disk.direct && (disk.format ?? 'raw') !== 'raw')
    throw invalid('a raw disk, where the page cache is not to be used', `${disk.path}: ${disk.format}`);
  const made = withoutFile(disk);
  if (made && disk.direct) throw invalid('a file, where the page cache is not to be used', disk.path);
  if (made) return [made];
  const format = disk.format ?? 'raw';
  const files: DiskFile[] = [{ ...open(disk.path, what, !disk.readonly), format }];
  const top = files[0]!;
  const paths = [disk.path];
  const lock = (): DiskFile[] => {
    const { forceShare = false } = disk;
    for (const [i, f] of files.entries())
      lockImage(f.fd, paths[i]!, { write: i === 0 && !disk.readonly, forceShare });
    return files.map((f, i) => ({ ...f, path: paths[i]! }));
  };
  if (format === 'raw') {
    if (top.bytes === 0 || top.bytes % 512 !== 0)
      throw invalid('a raw image of whole sectors (512 bytes)', `${disk.path}: ${top.bytes} bytes`);
    const like = disk.format === undefined ? looksLike(top.fd) : undefined;
    if (like !== undefined)
      throw invalid(
        `\`format: raw\` or \`format: ${like}\`, said on purpose`,
        `${disk.path} begins like a ${like} image`,
      );
    if (disk.direct) top.direct = openDirect(top.fd, disk.path, !disk.readonly);
    return lock();
  }
  const addParents = (of: string): void => {
    for (const path of parentsOf(of)) {
      paths.push(path);
      files.push({ ...open(path, `parent of ${what}`), format: 'vhdx' });
    }
  };
  if (format === 'vhdx') addParents(disk.path);
  const identity = (fd: number): string => {
    const { dev, ino } = fstatSync(fd);
    return `${dev}:${ino}`;
  };
  const seen = new Set([identity(top.fd)]);
  for (let path = disk.path; files.at(-1)!.format === 'qcow2'; ) {
    const under = below(files.at(-1)!.fd, path);
    if (under === undefined) break;
    const name = under.name.startsWith('file:') ? under.name.slice(5) : under.name;
    if (/^[a-z+]+:/i.test(name) || name.includes('\0'))
      throw invalid('a backing file on this host', `${path}: ${JSON.stringify(under.name)}`);
    if (!isDiskFormat(under.format))
      throw invalid(
        'an image that says of its backing file whether it is raw or qcow2 (`qemu-img rebase -u -F FORMAT`)',
        `${path}: ${under.format === undefined ? 'it does not say' : `'${under.format}'`}`,
      );
    if (files.length >= MOST_LAYERS)
      throw invalid(`at most ${MOST_LAYERS} images under one another`, disk.path);
    path = resolve(dirname(path), name);
    const file = open(path, `backing file of ${what}`);
    paths.push(path);
    files.push({ ...file, format: under.format });
    if (seen.has(identity(file.fd)))
      throw invalid('a chain of backing files that ends', `${path} is in it twice`);
    seen.add(identity(file.fd));
    if (under.format === 'vhdx') addParents(path);
  }
  return lock();
}

/** @throws NyxError DISK_INVALID where the file system has no O_DIRECT */
function openDirect(fd: number, path: string, write: boolean): number {
  try {
    // This file, whatever its name leads to now.
    return openSync(
      `/proc/self/fd/${fd}`,
      (write ? constants.O_RDWR : constants.O_RDONLY) | constants.O_DIRECT,
    );
  } catch (e) {
    throw invalid(
      'a file system that can do without the page cache (O_DIRECT)',
      `${path}: ${(e as Error).message}`,
    );
  }
}

/** Opens the other backend of a disk: raw, of the same size. @throws NyxError FILE_*, DISK_INVALID */
export function openStandby(
  open: Open,
  what: string,
  disk: Parameters<typeof openDisk>[2],
  first: DiskFile,
): number {
  if (first.format !== 'raw')
    throw invalid('a raw disk, where it has a standby', `${what} is ${first.format}`);
  const [file] = openDisk(open, `standby of ${what}`, { ...disk, direct: false });
  if (file!.bytes !== first.bytes)
    throw invalid(`${first.bytes} bytes, as ${what} has`, `${disk.path}: ${file!.bytes} bytes`);
  return file!.fd;
}

/** Opens an ISO image (raw, only read). @throws NyxError FILE_*, DISK_INVALID */
export function openMedium(open: Open, what: string, path: string): DiskFile {
  const { fd, bytes } = open(path, what);
  if (bytes < 2048) throw invalid('an image of at least one sector (2048 bytes)', `${path}: ${bytes} bytes`);
  lockImage(fd, path, { write: false, forceShare: false });
  return { fd, bytes, format: 'raw' };
}

/** Memory for the journal of an image. */
export const newJournal = (name: string): number => memfdCreate(`nyx-${name}-journal`, journalBytes);

/** What an image's journal needs (services/storage/src/block/qcow2/journal.ts). */
const journalBytes = 256 * 1024;

/**
 * Hands the files of a disk over: `name`, then `name.1` ... under it, and `name.journal`, memory in which the process that
 * serves an image keeps what it has acknowledged and not yet written to the image's tables.
 */
export function adoptDisk(
  r: Pick<Resources, 'adopt'>,
  name: string,
  files: readonly DiskFile[],
  journal?: number,
): void {
  for (const [i, f] of files.entries()) r.adopt(i === 0 ? name : `${name}.${i}`, f.fd);
  const [top] = files;
  if (top?.direct !== undefined) r.adopt(`${name}.direct`, top.direct);
  if (files[0]?.format === 'qcow2' || files[0]?.format === 'vhdx')
    r.adopt(`${name}.journal`, journal ?? newJournal(name));
}
