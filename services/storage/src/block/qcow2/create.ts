/** Makes a new, empty image in an empty file. */
import { fallocate } from '@nyx/native';
import { blockError, type HostIo, writeAll } from '../host.ts';
import {
  Compatible,
  Extension,
  Incompatible,
  Limit,
  l1EntriesFor,
  l2EntryBytes,
  qcow2Magic,
} from './header.ts';
import { copied } from './image.ts';
import { put64 } from './refcounts.ts';

export interface CreateOptions {
  /** Bytes of the disk. */
  size: number;
  /** 2 or 3 (default). */
  version?: 2 | 3;
  /** 9..21, default 16. */
  clusterBits?: number;
  /** Refcounts of 1 << this bits; 0..6, default 4. */
  refcountOrder?: number;
  lazyRefcounts?: boolean;
  extendedL2?: boolean;
  backing?: string;
  backingFormat?: string;
  /** Of new clusters that are compressed: 0 zlib (default), 1 zstd. */
  compression?: 0 | 1;
  /**
   * Every cluster has its place from the beginning (only without a backing file); with falloc the host's file system keeps
   * room for it, with full it is written.
   */
  preallocation?: Preallocation;
}

export type Preallocation = 'off' | 'metadata' | 'falloc' | 'full';

const wrong = (what: string): Error => blockError('QCOW2_OPTION', `qcow2: ${what}`);

function checkOptions(o: CreateOptions): Required<Omit<CreateOptions, 'backing' | 'backingFormat'>> {
  const full = {
    version: 3 as 2 | 3,
    clusterBits: 16,
    refcountOrder: 4,
    lazyRefcounts: false,
    extendedL2: false,
    compression: 0 as const,
    preallocation: 'off' as Preallocation,
    ...o,
  };
  if (
    !Number.isInteger(full.clusterBits) ||
    full.clusterBits < Limit.minClusterBits ||
    full.clusterBits > Limit.maxClusterBits
  )
    throw wrong('the cluster size must be a power of two from 512 to 2M');
  if (full.version === 2 && full.compression !== 0) throw wrong('version 2 (compat=0.10) has only zlib');
  if (full.version === 2 && (full.refcountOrder !== 4 || full.lazyRefcounts || full.extendedL2))
    throw wrong(
      'version 2 (compat=0.10) has neither refcounts of another width nor lazy ones nor extended L2 entries',
    );
  if (!Number.isInteger(full.refcountOrder) || full.refcountOrder < 0 || full.refcountOrder > 6)
    throw wrong('refcount_bits must be a power of two up to 64');
  if (full.extendedL2 && full.clusterBits < 14)
    throw wrong('extended L2 entries need clusters of 16k or more');
  if (o.backing !== undefined && full.preallocation !== 'off')
    throw wrong('preallocation hides the backing file');
  if (!Number.isSafeInteger(full.size) || full.size < 0) throw wrong(`a disk of ${full.size} bytes`);
  return full;
}

/** @param fd is emptied, when nothing is wrong with the options. @throws QCOW2_OPTION, or the host's error */
export function createImage(io: HostIo, fd: number, options: CreateOptions): void {
  const o = checkOptions(options);
  const cluster = 2 ** o.clusterBits;
  const size = Math.ceil(o.size / 512) * 512;
  const shape = { clusterBits: o.clusterBits, incompatible: o.extendedL2 ? Incompatible.extendedL2 : 0 };
  const l1Entries = l1EntriesFor(shape, size);
  if (l1Entries * 8 > Limit.l1Bytes)
    throw wrong(`clusters of ${cluster} bytes are too small for a disk of ${size} bytes`);
  const perTable = cluster / l2EntryBytes(shape);
  const l1Clusters = Math.max(1, Math.ceil((l1Entries * 8) / cluster));
  const pre = o.preallocation !== 'off';
  const dataClusters = pre ? Math.ceil(size / cluster) : 0;
  const l2Tables = pre ? l1Entries : 0;

  // Header, refcount table, refcount blocks, L1, L2 tables, data.
  const perBlock = (cluster * 8) / 2 ** o.refcountOrder;
  let blocks = 1;
  let tableClusters = 1;
  for (;;) {
    const used = 1 + tableClusters + blocks + l1Clusters + l2Tables + dataClusters;
    const [b, t] = [
      Math.ceil(used / perBlock),
      Math.max(1, Math.ceil((Math.ceil(used / perBlock) * 8) / cluster)),
    ];
    if (b <= blocks && t <= tableClusters) break;
    [blocks, tableClusters] = [Math.max(b, blocks), Math.max(t, tableClusters)];
  }
  const tableAt = cluster;
  const blocksAt = tableAt + tableClusters * cluster;
  const l1At = blocksAt + blocks * cluster;
  const l2At = l1At + l1Clusters * cluster;
  const dataAt = l2At + l2Tables * cluster;
  const used = dataAt / cluster + dataClusters;

  const places = { l1Entries, l1At, tableAt, tableClusters };
  const head = header(o, options, size, shape.incompatible, places);
  try {
    io.truncate(fd, 0);
  } catch (e) {
    // A block device keeps what it had: places that nobody wrote would show it.
    if ((e as { code?: string }).code !== 'EINVAL' || dataClusters > 0) throw e;
  }

  const write = (view: DataView, at: number): void =>
    writeAll(io, fd, view.buffer as ArrayBuffer, view.byteOffset, view.byteLength, at);
  for (let b = 0; b < blocks; b++) {
    const view = new DataView(new ArrayBuffer(cluster));
    const bits = 2 ** o.refcountOrder;
    for (let i = 0; i < perBlock && b * perBlock + i < used; i++) {
      const byte = Math.floor((i * bits) / 8);
      if (bits < 8) view.setUint8(byte, view.getUint8(byte) | (1 << ((i * bits) % 8)));
      else view.setUint8(byte + bits / 8 - 1, 1);
    }
    write(view, blocksAt + b * cluster);
  }
  const table = new DataView(new ArrayBuffer(tableClusters * cluster));
  for (let b = 0; b < blocks; b++) put64(table, 8 * b, blocksAt + b * cluster);
  write(table, tableAt);
  const l1 = new DataView(new ArrayBuffer(l1Clusters * cluster));
  const entry = (view: DataView, at: number, offset: number): void => {
    put64(view, at, offset);
    view.setUint32(at, (view.getUint32(at) | copied) >>> 0);
  };
  for (let t = 0; t < l2Tables; t++) {
    entry(l1, 8 * t, l2At + t * cluster);
    const l2 = new DataView(new ArrayBuffer(cluster));
    for (let i = 0; i < perTable && t * perTable + i < dataClusters; i++) {
      const at = (i * cluster) / perTable;
      entry(l2, at, dataAt + (t * perTable + i) * cluster);
      if (o.extendedL2) l2.setUint32(at + 12, 0xffff_ffff);
    }
    write(l2, l2At + t * cluster);
  }
  write(l1, l1At);
  if (dataClusters > 0) {
    writeAll(io, fd, new ArrayBuffer(1), 0, 1, used * cluster - 1);
    preallocate(io, fd, dataAt, dataClusters * cluster, o.preallocation);
  }
  write(head, 0);
  io.fdatasync(fd);
}

/** Room for a range of a file that is a hole so far. @throws the host's error */
export function preallocate(
  io: HostIo,
  fd: number,
  at: number,
  bytes: number,
  how: Preallocation = 'off',
): void {
  if (how !== 'falloc' && how !== 'full') return;
  if (how === 'falloc')
    try {
      fallocate(fd, 'zeroRange', at, bytes);
      return;
    } catch (e) {
      // Not every file system can: it is written then.
      if ((e as { code?: string }).code !== 'EOPNOTSUPP') throw e;
    }
  const piece = new ArrayBuffer(Math.min(bytes, 1 << 20));
  for (let done = 0; done < bytes; done += piece.byteLength)
    writeAll(io, fd, piece, 0, Math.min(piece.byteLength, bytes - done), at + done);
}

function header(
  o: Required<Omit<CreateOptions, 'backing' | 'backingFormat'>>,
  { backing, backingFormat }: CreateOptions,
  size: number,
  incompatible: number,
  places: { l1Entries: number; l1At: number; tableAt: number; tableClusters: number },
): DataView {
  const view = new DataView(new ArrayBuffer(2 ** o.clusterBits));
  const bytes = new Uint8Array(view.buffer);
  view.setUint32(0, qcow2Magic);
  view.setUint32(4, o.version);
  view.setUint32(20, o.clusterBits);
  put64(view, 24, size);
  view.setUint32(36, places.l1Entries);
  put64(view, 40, places.l1At);
  put64(view, 48, places.tableAt);
  view.setUint32(56, places.tableClusters);
  let at = 72;
  if (o.version === 3) {
    view.setUint32(76, incompatible | (o.compression ? Incompatible.compression : 0));
    view.setUint32(84, o.lazyRefcounts ? Compatible.lazyRefcounts : 0);
    view.setUint32(96, o.refcountOrder);
    at = 112;
    view.setUint32(100, at);
    view.setUint8(104, o.compression);
  }
  const text = new TextEncoder();
  const extension = (type: number, data: Uint8Array): void => {
    view.setUint32(at, type);
    view.setUint32(at + 4, data.length);
    bytes.set(data, at + 8);
    at += 8 + Math.ceil(data.length / 8) * 8;
  };
  if (backing !== undefined) {
    const name = text.encode(backing);
    if (name.length > Limit.backingName)
      throw wrong(`the name of the backing file is longer than ${Limit.backingName} bytes`);
    if (at + 32 + name.length > bytes.length)
      throw wrong('the name of the backing file does not fit in a cluster');
    if (backingFormat !== undefined) extension(Extension.backingFormat, text.encode(backingFormat));
    at += 8;
    put64(view, 8, at);
    view.setUint32(16, name.length);
    bytes.set(name, at);
  }
  return view;
}
