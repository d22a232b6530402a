/** What `nyx disk` does to images. Names and options follow qemu-img. */
import { closeSync, existsSync, fstatSync, ftruncateSync, openSync, unlinkSync } from 'node:fs';
import { dirname, resolve as resolvePath } from 'node:path';
import { close, fileSize, mmap } from '@nyx/native';
import { unlockImage } from '@nyx/protocol/image-lock';
import { connectNbd, isNbdUri, parseNbdUri } from '@nyx/protocol/nbd';
import { blockError, hostIo } from '../block/host.ts';
import { handshake, Transmission } from '../block/nbd/protocol.ts';
import { check } from '../block/qcow2/check.ts';
import { type CreateOptions, createImage, preallocate } from '../block/qcow2/create.ts';
import { Compatible, Incompatible, readHeader } from '../block/qcow2/header.ts';
import { Journal as Qcow2Journal } from '../block/qcow2/journal.ts';
import { growImage } from '../block/qcow2/resize.ts';
import { applySnapshot, createSnapshot, deleteSnapshot } from '../block/qcow2/snapshot-write.ts';
import { readSnapshots } from '../block/qcow2/snapshots.ts';
import { Tables as Qcow2Tables } from '../block/qcow2/tables.ts';
import { checkVhdx } from '../block/vhdx/check.ts';
import { createVhdx, growVhdx, type VhdxCreateOptions } from '../block/vhdx/create.ts';
import { readerOf, readFileHeader } from '../block/vhdx/header.ts';
import { VhdxImage } from '../block/vhdx/image.ts';
import { Journal as VhdxJournal } from '../block/vhdx/journal.ts';
import { Tables as VhdxTables } from '../block/vhdx/tables.ts';
import { chainOf, type Format, type Layer, layersOf, Opened, openLocked, probe, withLayers } from './open.ts';

export type Progress = (fraction: number) => void;

/** An image by its path, or by a descriptor of whoever has it open and locked, with its journal. */
export interface Target {
  path: string;
  fd?: number;
  journalFd?: number;
  forceShare?: boolean;
}

export const withFile = <T>(o: Target, write: boolean, use: (fd: number) => T): T => {
  if (o.fd !== undefined) {
    if (o.journalFd !== undefined) settle(o.fd, o.journalFd);
    return use(o.fd);
  }
  const fd = openLocked(o.path, write, o.forceShare);
  try {
    return use(fd);
  } finally {
    unlockImage(fd);
    closeSync(fd);
  }
};

/** Writes out what the process that served an image has acknowledged. */
function settle(fd: number, journalFd: number): void {
  const journal = mmap(journalFd, fileSize(journalFd));
  const format = probe(fd);
  if (format === 'qcow2') new Qcow2Tables(hostIo, fd, new Qcow2Journal(journal));
  else if (format === 'vhdx') new VhdxTables(hostIo, fd, new VhdxJournal(journal)).close();
}

export interface CreateRequest
  extends Omit<CreateOptions, 'size' | 'backing' | 'backingFormat' | 'preallocation'>,
    Omit<VhdxCreateOptions, 'size' | 'parent'> {
  preallocation?: CreateOptions['preallocation'];
  path: string;
  format: Format;
  /** Bytes; with a backing file its size by default. */
  size?: number;
  backing?: string;
  backingFormat?: Format;
  /** The backing file need not be there, or is the caller's own. */
  unchecked?: boolean;
  /** The backing file may be in use. */
  forceShare?: boolean;
}

export function create(o: CreateRequest): { path: string; size: number } {
  let { size } = o;
  let parent: VhdxCreateOptions['parent'];
  if (o.backing !== undefined) {
    if (o.format === 'raw') throw blockError('QCOW2_OPTION', 'a raw file has no backing file');
    if (o.backingFormat === undefined)
      throw blockError('QCOW2_OPTION', 'say the format of the backing file (-F raw, qcow2 or vhdx)');
    if (o.format === 'vhdx' && o.backingFormat !== 'vhdx')
      throw blockError('QCOW2_OPTION', 'under a VHDX image there is another one');
    if (size === undefined || o.format === 'vhdx' || !o.unchecked) {
      // As it will be found: from the directory of the image.
      const path = resolvePath(dirname(o.path), o.backing);
      const under = new Opened({ path, format: o.backingFormat, forceShare: o.forceShare }, false, 512);
      size ??= under.disk.size;
      under.close();
      if (o.format === 'vhdx')
        parent = {
          path: o.backing,
          guid: withFile({ path }, false, (fd) => readFileHeader(readerOf(hostIo, fd)).dataWriteGuid),
        };
    }
  }
  if (size === undefined) throw blockError('QCOW2_OPTION', 'say the size of the disk');
  const bytes = Math.ceil(size / 512) * 512;
  // Emptied only when it is ours, and when nothing is wrong with the options.
  const made = !existsSync(o.path);
  if (made) closeSync(openSync(o.path, 'a', 0o644));
  try {
    withFile({ path: o.path }, true, (fd) => {
      if (o.format === 'raw') createRaw(fd, o.path, bytes, o.preallocation);
      else if (o.format === 'vhdx')
        createVhdx(hostIo, fd, { ...o, size: bytes, ...(parent ? { parent } : {}) });
      else createImage(hostIo, fd, { ...(o as CreateOptions), size: bytes });
    });
  } catch (e) {
    if (made) unlinkSync(o.path);
    throw e;
  }
  return { path: o.path, size: bytes };
}

function createRaw(
  fd: number,
  path: string,
  bytes: number,
  preallocation: CreateRequest['preallocation'],
): void {
  if (preallocation === 'metadata') throw blockError('QCOW2_OPTION', 'a raw file has no metadata');
  // A block device is as large as it is.
  if (fstatSync(fd).isBlockDevice()) {
    if (fileSize(fd) < bytes)
      throw blockError('QCOW2_OPTION', `${path} has ${fileSize(fd)} bytes, ${bytes} are needed`);
    return;
  }
  ftruncateSync(fd, 0);
  ftruncateSync(fd, bytes);
  preallocate(hostIo, fd, 0, bytes, preallocation);
}

/** What an NBD server says of an export. */
export async function nbdInfo(path: string): Promise<Record<string, unknown>> {
  const address = parseNbdUri(path);
  if (!address)
    throw blockError('NBD_URI', `${path}: expected nbd://HOST/EXPORT or nbd+unix:///EXPORT?socket=PATH`);
  const fd = await connectNbd(address);
  try {
    const e = handshake(fd, address.exportName, 5000);
    return {
      filename: path,
      format: 'nbd',
      'virtual-size': e.size,
      'format-specific': {
        'read-only': (e.flags & Transmission.readOnly) !== 0,
        'structured-replies': e.structured,
        'maximum-request': e.most,
      },
    };
  } finally {
    close(fd);
  }
}

export function info(
  o: Target & { format?: Format },
): Record<string, unknown> | Promise<Record<string, unknown>> {
  if (isNbdUri(o.path)) return nbdInfo(o.path);
  return withFile(o, false, (fd) => {
    const format = o.format ?? probe(fd);
    const { blocks } = fstatSync(fd);
    const common = { filename: o.path, format, 'actual-size': blocks * 512 };
    if (format === 'raw') return { ...common, 'virtual-size': fileSize(fd) };
    if (format === 'vhdx') {
      const { geometry: g, pending } = new VhdxImage(hostIo, fd);
      return {
        ...common,
        'virtual-size': g.size,
        'cluster-size': g.blockBytes,
        'dirty-flag': pending !== undefined,
        chain: chainOf(o.path, format).map((l) => l.path),
        'format-specific': {
          subformat: g.hasParent ? 'differencing' : g.leaveAllocated ? 'fixed' : 'dynamic',
          'logical-sector-size': g.logicalSector,
          'physical-sector-size': g.physicalSector,
        },
      };
    }
    const h = readHeader(hostIo, fd);
    const { list } = readSnapshots(hostIo, fd, h);
    const chain = chainOf(o.path, format);
    return {
      ...common,
      'virtual-size': h.size,
      'cluster-size': 2 ** h.clusterBits,
      ...(h.backing === undefined
        ? {}
        : { 'backing-filename': h.backing, 'backing-filename-format': h.backingFormat }),
      'dirty-flag': (h.incompatible & Incompatible.dirty) !== 0,
      chain: chain.map((l) => l.path),
      snapshots: list.map((s) => ({
        id: s.id,
        name: s.name,
        'vm-state-size': s.vmStateBytes,
        'date-sec': s.seconds,
      })),
      'format-specific': {
        compat: h.version === 2 ? '0.10' : '1.1',
        'compression-type': h.compression === 0 ? 'zlib' : 'zstd',
        'refcount-bits': 2 ** h.refcountOrder,
        'lazy-refcounts': (h.compatible & Compatible.lazyRefcounts) !== 0,
        'extended-l2': (h.incompatible & Incompatible.extendedL2) !== 0,
        corrupt: (h.incompatible & Incompatible.corrupt) !== 0,
        bitmaps: h.bitmaps?.count ?? 0,
      },
    };
  });
}

export const checkImage = (
  o: Target & { format?: Format; repair: 'none' | 'leaks' | 'all' },
  progress: Progress = () => {},
): unknown =>
  withFile(o, o.repair !== 'none', (fd) => {
    const format = o.format ?? probe(fd);
    if (format === 'raw') throw blockError('QCOW2_OPTION', 'a raw file has nothing to be checked');
    if (format === 'qcow2') return check(hostIo, fd, o.repair, progress);
    // Opened for writing its log is replayed, which is all that can be repaired.
    if (o.repair === 'all') new VhdxTables(hostIo, fd, new VhdxJournal(new ArrayBuffer(4096))).close();
    const { log, leaks, ...r } = checkVhdx(hostIo, fd, progress);
    const problems = log ? [...r.problems, 'the log must be replayed (-r all)'] : r.problems;
    // Space between blocks is nobody's loss: others make images like that too.
    return { ...r, problems, leaks: 0, flags: 0, leaksFixed: 0, corruptionsFixed: 0, compressed: 0 };
  });

export function snapshot(
  o: Target & {
    action: 'list' | 'create' | 'delete' | 'apply';
    name: string;
  },
): unknown {
  return withFile(o, o.action !== 'list', (fd) => {
    if (o.action === 'create') createSnapshot(hostIo, fd, o.name, Date.now() / 1000);
    else if (o.action === 'delete') deleteSnapshot(hostIo, fd, o.name);
    else if (o.action === 'apply') applySnapshot(hostIo, fd, o.name);
    const { list } = readSnapshots(hostIo, fd, readHeader(hostIo, fd));
    return list.map((s) => ({ id: s.id, name: s.name, seconds: s.seconds }));
  });
}

/**
 * @param o.size bytes, or with `relative` how many more; whole sectors are made of it
 * @param o.format by default what the image says
 * @param o.under with `fd`: what lies under the image
 */
export function resize(
  o: Target & { format?: Format; size: number; relative: boolean; under?: readonly Layer[] },
): { size: number } {
  return withFile(o, true, (fd) => {
    const format = o.format ?? probe(fd);
    const now =
      format === 'raw'
        ? fileSize(fd)
        : format === 'vhdx'
          ? new VhdxImage(hostIo, fd).size
          : readHeader(hostIo, fd).size;
    const size = Math.ceil((o.relative ? now + o.size : o.size) / 512) * 512;
    if (size < now) throw blockError('QCOW2_OPTION', `from ${now} to ${size} bytes: a disk can only grow`);
    if (format === 'raw') ftruncateSync(fd, size);
    else if (format === 'vhdx') growVhdx(hostIo, fd, size);
    else if (o.fd !== undefined) growImage(hostIo, fd, size, layersOf(o.under ?? []));
    else
      withLayers(chainOf(o.path, 'qcow2').slice(1), o.forceShare ?? false, (under) =>
        growImage(hostIo, fd, size, layersOf(under)),
      );
    return { size };
  });
}

/** Files of a disk, the topmost first. */
export const chain = (o: { path: string; format?: Format }): unknown => chainOf(o.path, o.format);

/** Makes an image whole: what its journal has is in its tables afterwards. */
export const settled = (o: Target): unknown => withFile(o, true, () => ({}));
