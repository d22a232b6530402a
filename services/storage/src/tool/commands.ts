/** What `nyx disk` does to images. Names and options follow qemu-img. */
import { closeSync, fstatSync, ftruncateSync, openSync, statSync } from 'node:fs';
import { dirname, resolve as resolvePath } from 'node:path';
import { BlockOp } from '../block/block.ts';
import { blockError, hostIo } from '../block/host.ts';
import { check } from '../block/qcow2/check.ts';
import { type CreateOptions, createImage } from '../block/qcow2/create.ts';
import { Compatible, Incompatible, readHeader } from '../block/qcow2/header.ts';
import { growImage } from '../block/qcow2/resize.ts';
import { applySnapshot, createSnapshot, deleteSnapshot } from '../block/qcow2/snapshot-write.ts';
import { readSnapshots } from '../block/qcow2/snapshots.ts';
import { chainOf, type Format, Opened, openLocked, probe } from './open.ts';

export type Progress = (fraction: number) => void;

const CHUNK = 1 << 20;

const withFile = <T>(path: string, write: boolean, use: (fd: number) => T, forceShare = false): T => {
  const fd = openLocked(path, write, forceShare);
  try {
    return use(fd);
  } finally {
    closeSync(fd);
  }
};

export interface CreateRequest extends Omit<CreateOptions, 'size' | 'backing' | 'backingFormat'> {
  path: string;
  format: Format;
  /** Bytes; with a backing file its size by default. */
  size?: number;
  backing?: string;
  backingFormat?: Format;
}

export function create(o: CreateRequest): { path: string; size: number } {
  let { size } = o;
  if (o.backing !== undefined) {
    if (o.format === 'raw') throw blockError('QCOW2_OPTION', 'a raw file has no backing file');
    if (o.backingFormat === undefined)
      throw blockError('QCOW2_OPTION', 'say the format of the backing file (-F raw or -F qcow2)');
    // As it will be found: from the directory of the image.
    const under = new Opened(resolvePath(dirname(o.path), o.backing), o.backingFormat, false, 512);
    size ??= under.disk.size;
    under.close();
  }
  if (size === undefined) throw blockError('QCOW2_OPTION', 'say the size of the disk');
  const bytes = Math.ceil(size / 512) * 512;
  // Emptied only when it is ours.
  closeSync(openSync(o.path, 'a', 0o644));
  withFile(o.path, true, (fd) => {
    ftruncateSync(fd, 0);
    if (o.format === 'raw') ftruncateSync(fd, bytes);
    else createImage(hostIo, fd, { ...o, size: bytes });
  });
  return { path: o.path, size: bytes };
}

export function info(o: { path: string; format?: Format; forceShare?: boolean }): Record<string, unknown> {
  return withFile(
    o.path,
    false,
    (fd) => {
      const format = o.format ?? probe(fd);
      const { blocks, size } = fstatSync(fd);
      const common = { filename: o.path, format, 'actual-size': blocks * 512 };
      if (format === 'raw') return { ...common, 'virtual-size': size };
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
          'refcount-bits': 2 ** h.refcountOrder,
          'lazy-refcounts': (h.compatible & Compatible.lazyRefcounts) !== 0,
          'extended-l2': (h.incompatible & Incompatible.extendedL2) !== 0,
          corrupt: (h.incompatible & Incompatible.corrupt) !== 0,
          bitmaps: h.bitmaps?.count ?? 0,
        },
      };
    },
    o.forceShare,
  );
}

export const checkImage = (o: {
  path: string;
  repair: 'none' | 'leaks' | 'all';
  forceShare?: boolean;
}): unknown => withFile(o.path, o.repair !== 'none', (fd) => check(hostIo, fd, o.repair), o.forceShare);

export function snapshot(o: {
  path: string;
  action: 'list' | 'create' | 'delete' | 'apply';
  name: string;
  forceShare?: boolean;
}): unknown {
  return withFile(
    o.path,
    o.action !== 'list',
    (fd) => {
      if (o.action === 'create') createSnapshot(hostIo, fd, o.name, Date.now() / 1000);
      else if (o.action === 'delete') deleteSnapshot(hostIo, fd, o.name);
      else if (o.action === 'apply') applySnapshot(hostIo, fd, o.name);
      const { list } = readSnapshots(hostIo, fd, readHeader(hostIo, fd));
      return list.map((s) => ({ id: s.id, name: s.name, seconds: s.seconds }));
    },
    o.forceShare,
  );
}

/** @param o.size bytes, or with `relative` how many more */
export function resize(o: { path: string; format: Format; size: number; relative: boolean }): {
  size: number;
} {
  return withFile(o.path, true, (fd) => {
    const now = o.format === 'raw' ? statSync(o.path).size : readHeader(hostIo, fd).size;
    const size = o.relative ? now + o.size : o.size;
    if (size < now) throw blockError('QCOW2_OPTION', `from ${now} to ${size} bytes: a disk can only grow`);
    if (o.format === 'raw') ftruncateSync(fd, size);
    else growImage(hostIo, fd, size);
    return { size };
  });
}

/** Copies the content, not the shape: holes and zeroes take no space. */
export function convert(
  o: { from: string; format?: Format; forceShare?: boolean; to: CreateRequest },
  progress: Progress,
): { size: number } {
  const source = new Opened(o.from, o.format, false, CHUNK, o.forceShare);
  const { size } = source.disk;
  create({ ...o.to, size });
  const target = new Opened(o.to.path, o.to.format, true, CHUNK);
  const [from, to] = [Buffer.from(source.buffer), Buffer.from(target.buffer)];
  const zero = Buffer.alloc(65536);
  for (let at = 0; at < size; at += CHUNK) {
    const n = Math.min(CHUNK, size - at);
    source.do(BlockOp.read, at, n);
    // Runs of what is not zero, in pieces of 64 KiB.
    for (let i = 0; i < n; ) {
      const isZero = (k: number): boolean =>
        from.compare(zero, 0, Math.min(65536, n - k), k, Math.min(n, k + 65536)) === 0;
      if (isZero(i)) {
        i += 65536;
        continue;
      }
      let end = i;
      while (end < n && !isZero(end)) end += 65536;
      end = Math.min(end, n);
      from.copy(to, 0, i, end);
      target.do(BlockOp.write, at + i, end - i);
      i = end;
    }
    progress((at + n) / size);
  }
  source.close();
  target.close();
  return { size };
}
