/**
 * Writing: in place where the cluster is ours, else into clusters taken for it, with what the write does not cover read
 * from below. A write that touches a cluster being allocated waits.
 */
import { ioOp } from '@nyx/native';
import { type BlockRequest, BlockResult } from '../block.ts';
import type { Chain } from '../chain.ts';
import { Extent, Kind } from '../extent.ts';
import type { Op, Ops } from '../ops.ts';
import type { Reader } from '../read.ts';
import { Allocation, Bounces } from './allocation.ts';
import { compressedFlag, copied } from './image.ts';
import type { Tables } from './tables.ts';

/** Clusters that one allocation takes at most. */
const MOST_CLUSTERS = 256;
/** Allocations under way at most. */
const MOST_ALLOCATIONS = 64;

export interface WriteEvents {
  /** A part of the request is over: BlockResult. */
  partDone(r: BlockRequest, result: number): void;
  /** What requests waited for may be there. */
  wake(): void;
  /** The journal has something to commit. */
  later(): void;
}

export class Writer {
  readonly #allocations: Allocation[] = [];
  readonly #spare: Allocation[] = [];
  readonly #extent = new Extent();
  readonly #bounces: Bounces;
  readonly #chain: Chain;
  readonly #ops: Ops;
  counted = 0;

  /** @param tags of the reads and writes of an allocation; their owner is the Allocation */
  constructor(
    readonly tables: Tables,
    readonly reader: Reader,
    private readonly tags: { read: number; write: number },
    private readonly events: WriteEvents,
  ) {
    this.#chain = reader.chain;
    this.#ops = reader.ops;
    this.#bounces = new Bounces(this.#ops.queue, tables.image.cluster);
    this.#ops.buffer = (i) => this.#bounces.bytes(i);
  }

  get idle(): boolean {
    return this.#allocations.length === 0;
  }

  /** Bytes from `position` on that no allocation under way touches; 0: it is in one. */
  unlocked(position: number, bytes: number): number {
    for (const a of this.#allocations) {
      if (a.start >= position + bytes || a.end <= position) continue;
      if (a.start <= position) return 0;
      bytes = a.start - position;
    }
    return bytes;
  }

  /** Starts writing at `from`: how many bytes, 0 when it must wait. `zero`: zeroes instead of the request's bytes. */
  write(r: BlockRequest, from: number, bytes: number, zero: boolean): number {
    const { tables } = this;
    const { image } = tables;
    const position = r.position + from;
    const { cluster, perTable, entryBytes, granule } = image;
    const first = Math.floor(position / cluster);
    // Never past an allocation, nor past a table.
    bytes = this.unlocked(first * cluster, position - first * cluster + bytes) - (position - first * cluster);
    if (bytes <= 0) return 0;
    const l2 = first % perTable;
    bytes = Math.min(bytes, (first - l2 + perTable) * cluster - position);
    const l1 = (first - l2) / perTable;
    const table = tables.ownTable(l1);
    if (table < 0) return 0;
    const entryAt = table + l2 * entryBytes;
    let at = image.cache.at(entryAt);
    const { view } = image.cache;
    const hi = view.getUint32(at);
    const lo = view.getUint32(at + 4);
    const inCluster = position - first * cluster;
    const within = Math.min(bytes, cluster - inCluster);
    const packed = (hi & compressedFlag) !== 0;
    const host = packed ? 0 : image.hostOf(hi, lo);
    const ours = (hi & copied) !== 0 && host !== 0;
    if (image.extended) {
      const mask = granules(inCluster, within, granule);
      const data = packed ? 0 : view.getUint32(at + 12);
      if (ours && (data & mask) >>> 0 === mask) return this.#inPlace(r, from, within, host + inCluster, zero);
      return this.#allocate(
        r,
        from,
        within,
        zero,
        entryAt,
        hi,
        lo,
        packed ? 0 : view.getUint32(at + 8),
        data,
        ours ? host : 0,
      );
    }
    if (ours && !(lo & 1)) {
      let n = cluster - inCluster;
      const sliceEnd = (Math.floor(entryAt / image.cache.sliceBytes) + 1) * image.cache.sliceBytes;
      for (
        let next = entryAt + 8, want = host + cluster;
        n < bytes && next < sliceEnd;
        next += 8, want += cluster
      ) {
        at += 8;
        const h = view.getUint32(at);
        const l = view.getUint32(at + 4);
        if (!(h & copied) || h & compressedFlag || l & 1 || image.hostOf(h, l) !== want) break;
        n += cluster;
      }
      return this.#inPlace(r, from, Math.min(n, bytes), host + inCluster, zero);
    }
    let run = within;
    if (hi === 0 && lo === 0) {
      // Neighbours that are not there either are allocated together.
      const sliceEnd = (Math.floor(entryAt / image.cache.sliceBytes) + 1) * image.cache.sliceBytes;
      for (
        let next = entryAt + 8, n = 1;
        run < bytes && next < sliceEnd && n < MOST_CLUSTERS;
        next += 8, n++
      ) {
        at += 8;
        if (view.getUint32(at) !== 0 || view.getUint32(at + 4) !== 0) break;
        run += cluster;
      }
    }
    return this.#allocate(r, from, Math.min(run, bytes), zero, entryAt, hi, lo, 0, 0, ours ? host : 0);
  }

  #inPlace(r: BlockRequest, from: number, bytes: number, host: number, zero: boolean): number {
    this.reader.part(ioOp.write, r, from, bytes, this.tables.image.fd, host, zero);
    return bytes;
  }

  /**
   * Writes where nothing of ours is yet. `reuse`: host cluster that is ours, but does not hold this part.
   * @param zeroes, data the bitmaps of an extended entry
   */
  #allocate(
    r: BlockRequest,
    from: number,
    bytes: number,
    zero: boolean,
    entryAt: number,
    hi: number,
    lo: number,
    zeroes: number,
    data: number,
    reuse: number,
  ): number {
    const { tables } = this;
    const { image } = tables;
    const { cluster, granule, extended } = image;
    if (this.#allocations.length >= MOST_ALLOCATIONS || tables.journal.room < 2) return 0;
    const buffer = this.#bounces.take();
    if (buffer < 0) return 0;
    const position = r.position + from;
    const start = Math.floor(position / cluster) * cluster;
    let clusters = Math.ceil((position + bytes - start) / cluster);
    const a = this.#spare.pop() ?? new Allocation();
    a.intent = -1;
    a.free = a.freeCount = 0;
    const packed = (hi & compressedFlag) !== 0;
    if (packed) {
      image.lookup(position, 1, this.#extent);
      const { packed: at, packedBytes } = this.#extent;
      a.free = Math.floor(at / cluster) * cluster;
      a.freeCount = Math.floor((at + packedBytes - 1) / cluster) - a.free / cluster + 1;
    }
    let fresh = false;
    if (reuse !== 0) a.host = reuse;
    else {
      try {
        a.host = tables.allocate(clusters);
      } catch (e) {
        this.#bounces.give(buffer);
        throw e;
      }
      if (a.host < 0) {
        this.#bounces.give(buffer);
        this.#spare.push(a);
        return 0;
      }
      a.intent = tables.intent;
      fresh = tables.fresh;
      clusters = tables.count;
      const old = packed ? 0 : image.hostOf(hi, lo);
      if (old !== 0) {
        a.free = old;
        a.freeCount = 1;
      }
    }
    bytes = Math.min(bytes, start + clusters * cluster - position);
    a.request = r;
    a.start = start;
    a.end = start + clusters * cluster;
    a.clusters = clusters;
    a.entryAt = entryAt;
    a.buffer = buffer;
    a.failed = BlockResult.ok;
    // What must be there beside what is written.
    const end = position + bytes;
    let head = start;
    let tail = a.end;
    a.bitmapHi = a.bitmapLo = 0;
    if (extended) {
      const mask = granules(position - start, bytes, granule);
      if (packed || (reuse === 0 && data !== 0)) {
        a.bitmapLo = 0xffff_ffff;
      } else {
        a.bitmapLo = (data | mask) >>> 0;
        a.bitmapHi = (zeroes & ~mask) >>> 0;
        const has = (at: number): boolean => (data & granules(at - start, 1, granule)) !== 0;
        head = position - (position % granule);
        if (reuse !== 0 && has(head)) head = position;
        tail = Math.ceil(end / granule) * granule;
        if (reuse !== 0 && has(end - 1)) tail = end;
      }
    }
    a.parts = 1;
    this.#allocations.push(a);
    this.counted++;
    r.progress++;
    const zeroHead = this.#fill(a, head, position - head, 0);
    const zeroTail = this.#fill(a, end, tail - end, cluster);
    // A cluster that was never written reads as zeroes by itself.
    const op = this.#ops.take(ioOp.write, this.tags.write, image.fd, 0, r);
    const keepHead = fresh && zeroHead ? 0 : position - head;
    const keepTail = fresh && zeroTail ? 0 : tail - end;
    op.owner = a;
    op.buffer = this.#bounces.index(buffer);
    op.from = from;
    op.zero = zero;
    op.head = keepHead;
    op.middle = bytes;
    op.bytes = keepHead + bytes + keepTail;
    op.headAt = 0;
    op.tailAt = cluster;
    op.position = a.host + position - keepHead - start;
    a.write = op;
    this.#cowReady(a);
    return bytes;
  }

  /** Reads a range of the disk into the allocation's buffer; true when it is all zeroes. */
  #fill(a: Allocation, position: number, bytes: number, at: number): boolean {
    const e = this.#extent;
    let zero = true;
    const buffer = this.#bounces.bytes(this.#bounces.index(a.buffer));
    try {
      for (let done = 0; done < bytes; done += e.bytes) {
        this.#chain.lookup(0, position + done, bytes - done, e);
        if (e.kind === Kind.zero) {
          buffer.fill(0, at + done, at + done + e.bytes);
          continue;
        }
        zero = false;
        if (e.kind === Kind.compressed) {
          const plain = this.#chain.unpack(e);
          const from = (position + done) % plain.length;
          buffer.set(plain.subarray(from, from + e.bytes), at + done);
          continue;
        }
        const op = this.#ops.take(ioOp.read, this.tags.read, e.fd, e.host);
        op.owner = a;
        op.buffer = this.#bounces.index(a.buffer);
        op.head = op.bytes = e.bytes;
        op.headAt = at + done;
        a.parts++;
        this.#ops.start(op);
      }
    } catch (e) {
      if ((e as { code?: string }).code === undefined) throw e;
      a.failed = BlockResult.io;
    }
    return zero;
  }

  /** One of the things that the write waits for is there. */
  #cowReady(a: Allocation): void {
    if (--a.parts > 0) return;
    if (a.failed !== BlockResult.ok) this.#allocated(a, a.failed);
    else {
      a.parts = 1;
      this.#ops.start(a.write!);
    }
  }

  /** The data are written: the guest's table may show them. */
  #allocated(a: Allocation, result: number): void {
    const { tables } = this;
    this.#allocations.splice(this.#allocations.indexOf(a), 1);
    this.#bounces.give(a.buffer);
    try {
      if (result === BlockResult.ok) {
        const hi = (Math.floor(a.host / 4294967296) | copied) >>> 0;
        tables.link(
          a.entryAt,
          a.clusters,
          hi,
          a.host >>> 0,
          this.tables.image.cluster,
          a.intent,
          a.bitmapHi,
          a.bitmapLo,
          a.free,
          a.freeCount,
        );
        this.events.later();
      } else if (a.intent >= 0) tables.giveBack(a.intent);
    } catch (e) {
      if ((e as { code?: string }).code === undefined) throw e;
      result = BlockResult.io;
    }
    const r = a.request!;
    a.request = undefined;
    a.write = undefined;
    this.#spare.push(a);
    this.events.partDone(r, result);
    this.events.wake();
  }

  /** A read or write of an allocation is over. */
  opDone(op: Op, result: number): void {
    const a = op.owner as Allocation;
    if (op.tag === this.tags.write) this.#allocated(a, result);
    else {
      if (result !== BlockResult.ok) a.failed = result;
      this.#cowReady(a);
    }
  }
}

/** Bits of the granules that bytes touch. */
export function granules(at: number, bytes: number, granule: number): number {
  const first = Math.floor(at / granule);
  const last = Math.floor((at + bytes - 1) / granule);
  const upto = last >= 31 ? 0xffff_ffff : (1 << (last + 1)) - 1;
  return (upto & ~((1 << first) - 1)) >>> 0;
}
