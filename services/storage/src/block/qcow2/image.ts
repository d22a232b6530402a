/**
 * The tables of one qcow2 image ("Cluster mapping", "Extended L2 Entries"): from a position on the virtual disk to
 * what is there. Reading only; `disk.ts` writes.
 */
import { SliceCache } from '../cache.ts';
import { type Extent, type ImageLayer, Kind } from '../extent.ts';
import { blockError, type HostIo, readPadded } from '../host.ts';
import { Incompatible, l2EntryBytes, type Qcow2Header, readHeader } from './header.ts';
import { unpackCluster } from './unpack.ts';

const offsetHigh = 0x00ff_ffff;
export const copied = 0x8000_0000;
export const compressedFlag = 0x4000_0000;

export class Qcow2Image implements ImageLayer {
  readonly header: Qcow2Header;
  readonly cluster: number;
  readonly entryBytes: number;
  /** Entries of an L2 table. */
  readonly perTable: number;
  /** Bytes of the unit that a mapping tells of: a cluster, or a subcluster. */
  readonly granule: number;
  readonly l1: DataView;
  readonly cache: SliceCache;

  /** @throws QCOW2_INVALID, QCOW2_UNSUPPORTED, or the host's error */
  constructor(
    readonly io: HostIo,
    readonly fd: number,
    cacheBytes = 1 << 20,
    loaded?: (position: number, at: number) => void,
  ) {
    const h = readHeader(io, fd);
    this.header = h;
    this.cluster = 2 ** h.clusterBits;
    this.entryBytes = l2EntryBytes(h);
    this.perTable = this.cluster / this.entryBytes;
    this.granule = h.incompatible & Incompatible.extendedL2 ? this.cluster / 32 : this.cluster;
    this.l1 = new DataView(readTable(io, fd, h.l1Offset, h.l1Entries));
    const slice = Math.min(4096, this.cluster);
    this.cache = new SliceCache(io, fd, slice, Math.max(8, cacheBytes / slice), loaded);
  }

  get extended(): boolean {
    return this.entryBytes === 16;
  }
  get size(): number {
    return this.header.size;
  }

  corrupt(what: string): Error {
    return blockError('QCOW2_CORRUPT', `qcow2: ${what}`);
  }

  /** File offset of the L2 table behind an L1 entry, 0 without one. @throws QCOW2_CORRUPT */
  table(index: number): number {
    const hi = this.l1.getUint32(8 * index);
    const lo = this.l1.getUint32(8 * index + 4);
    const offset = (hi & offsetHigh) * 4294967296 + ((lo & ~0x1ff) >>> 0);
    if (offset % this.cluster !== 0 || offset > Number.MAX_SAFE_INTEGER / 2)
      throw this.corrupt(`L2 table ${index} is at 0x${offset.toString(16)}, not at a cluster`);
    return offset;
  }

  /** Host offset of a standard descriptor. @throws QCOW2_CORRUPT */
  hostOf(hi: number, lo: number): number {
    const offset = (hi & offsetHigh) * 4294967296 + ((lo & ~0x1ff) >>> 0);
    if (offset % this.cluster !== 0 || offset > Number.MAX_SAFE_INTEGER / 2)
      throw this.corrupt(`a data cluster is at 0x${offset.toString(16)}, not at a cluster`);
    return offset;
  }

  /** What is at `position`; `out.bytes` of it, at most `bytes`. @throws QCOW2_CORRUPT, or the host's error */
  lookup(position: number, bytes: number, out: Extent): void {
    const { cluster, perTable, entryBytes, granule } = this;
    const index = Math.floor(position / cluster);
    const l2 = index % perTable;
    const table = this.table((index - l2) / perTable);
    const inCluster = position - index * cluster;
    out.fd = this.fd;
    out.kind = Kind.unallocated;
    if (table === 0) {
      out.bytes = Math.min(bytes, (perTable - l2) * cluster - inCluster);
      return;
    }
    let entry = table + l2 * entryBytes;
    let at = this.cache.at(entry);
    const { view } = this.cache;
    const hi = view.getUint32(at);
    const lo = view.getUint32(at + 4);
    if (hi & compressedFlag) {
      out.kind = Kind.compressed;
      out.bytes = Math.min(bytes, cluster - inCluster);
      [out.packed, out.packedBytes] = this.packedRange(hi, lo);
      return;
    }
    const kind = this.#kind(view, at, hi, lo, inCluster);
    const start = this.hostOf(hi, lo);
    out.kind = kind;
    out.host = start + inCluster;
    // As far as it is alike: within the slice, which is at hand.
    let end = granule - (inCluster % granule);
    const sliceEnd = (Math.floor(entry / this.cache.sliceBytes) + 1) * this.cache.sliceBytes;
    let host = start;
    for (let from = inCluster + end; end < bytes; end += granule, from += granule) {
      if (from === cluster) {
        from = 0;
        entry += entryBytes;
        at += entryBytes;
        host += cluster;
        if (entry >= sliceEnd) break;
      }
      const h = view.getUint32(at);
      const l = view.getUint32(at + 4);
      if (h & compressedFlag || this.#kind(view, at, h, l, from) !== kind) break;
      if (kind === Kind.data && this.hostOf(h, l) !== host) break;
    }
    out.bytes = Math.min(bytes, end);
  }

  #kind(view: DataView, at: number, hi: number, lo: number, inCluster: number): number {
    const allocated = (hi & offsetHigh) !== 0 || (lo & ~0x1ff) !== 0;
    if (this.entryBytes === 16) {
      const bit = 1 << Math.floor(inCluster / this.granule);
      const zero = view.getUint32(at + 8) & bit;
      const data = view.getUint32(at + 12) & bit;
      if ((zero && data) || (data && !allocated))
        throw this.corrupt('a subcluster that is two things at once');
      return data ? Kind.data : zero ? Kind.zero : Kind.unallocated;
    }
    if (lo & 1) {
      if (this.header.version === 2) throw this.corrupt('a zero cluster in an image of version 2');
      return Kind.zero;
    }
    return allocated ? Kind.data : Kind.unallocated;
  }

  /** Where a compressed cluster lies ("Compressed Clusters Descriptor"): file offset, bytes at most. */
  packedRange(hi: number, lo: number): [offset: number, bytes: number] {
    const bits = 62 - (this.header.clusterBits - 8);
    const offsetHi = bits >= 56 ? hi & offsetHigh : hi & (2 ** (bits - 32) - 1);
    const offset = offsetHi * 4294967296 + lo;
    if (offset > Number.MAX_SAFE_INTEGER / 2)
      throw this.corrupt('a compressed cluster behind the end of any file');
    return [offset, (((hi & 0x3fff_ffff) >>> (bits - 32)) + 1) * 512 - (offset % 512)];
  }

  /** Decompresses what `lookup` told of into `to`, a cluster. @throws QCOW2_CORRUPT */
  unpack(packed: number, packedBytes: number, to: Uint8Array): void {
    const bytes = new ArrayBuffer(packedBytes);
    readPadded(this.io, this.fd, bytes, 0, packedBytes, packed);
    try {
      unpackCluster(this.header.compression, new Uint8Array(bytes), to);
    } catch (e) {
      throw this.corrupt(`compressed cluster at 0x${packed.toString(16)}: ${(e as Error).message}`);
    }
  }
}

/** A table of 64-bit entries. */
export function readTable(io: HostIo, fd: number, offset: number, entries: number): ArrayBuffer {
  const buffer = new ArrayBuffer(entries * 8);
  if (entries > 0) readPadded(io, fd, buffer, 0, buffer.byteLength, offset);
  return buffer;
}
