/**
 * A disk in qcow2 images: requests of the guest become host I/O into its memory.
 *
 *     read   -> lookup through the chain -> host reads, zeroes, decompressed clusters
 *     write  -> cluster is ours: host write
 *            -> else: take clusters, read what the write does not cover, write all of it, link (journal)
 *     flush  -> commit: data stable, journal into the tables, tables stable; then replaced clusters are free
 *
 * Metadata is read and written synchronously (it is in the page cache nearly always), data through the queue. A request
 * that touches a cluster being allocated waits for it.
 *
 * Length: reading, allocating, zeroing and committing change the same private state at every step.
 */
import { ioOp } from '@nyx/native';
import { type BlockDriver, BlockOp, type BlockRequest, BlockResult, type Completed } from '../block.ts';
import { blockError, type HostIo } from '../host.ts';
import { Allocation, Bounces } from './allocation.ts';
import { Chain, type Layer } from './chain.ts';
import { rebuild } from './check.ts';
import { Incompatible } from './header.ts';
import { compressedFlag, copied, Extent, Kind, Qcow2Image } from './image.ts';
import { Journal, journalBytes } from './journal.ts';
import { type Op, Ops } from './ops.ts';
import { Tables } from './tables.ts';

const Tag = { part: 0, cowRead: 1, cowWrite: 2, dataSync: 3, tableSync: 4 } as const;

/** Clusters that one allocation takes at most. */
const MOST_CLUSTERS = 256;
/** Allocations under way at most. */
const MOST_ALLOCATIONS = 64;
/** Acknowledged changes wait at most this long for their place in the tables, ms. */
const IDLE_COMMIT_MS = 1000;

export interface Qcow2Options {
  /** The image, then what lies under it. Only the first is written. */
  files: readonly { fd: number; qcow2: boolean; size?: number }[];
  readOnly?: boolean;
  discard?: boolean;
  depth?: number;
  /** Memory that outlives this process (journal.ts); default: of this process alone. */
  journal?: ArrayBuffer;
  cacheBytes?: number;
}

export class Qcow2Disk implements BlockDriver {
  readonly size: number;
  readonly readOnly: boolean;
  readonly physicalBytes: number;
  readonly canDiscard: boolean;
  readonly image: Qcow2Image;
  readonly #tables: Tables | undefined;
  readonly #chain: Chain;
  readonly #ops: Ops;
  readonly #memory: Uint8Array;
  readonly #bounces: Bounces;
  readonly #completed: Completed;
  readonly #extent = new Extent();
  readonly #done: BlockRequest[] = [];
  #doneCount = 0;
  #told = false;
  #polling = false;
  readonly #allocations: Allocation[] = [];
  readonly #spare: Allocation[] = [];
  /** Requests that wait for an allocation, room in the journal or a buffer, and how far they are. */
  #blocked: BlockRequest[] = [];
  #blockedFrom: number[] = [];
  /** Flushes and forced writes: those of the commit under way, and those that came later. */
  #flushing: BlockRequest[] = [];
  #flushes: BlockRequest[] = [];
  /** Half that is written out, -1: none. */
  #sealed = -1;
  #committing = false;
  #commitWanted = false;
  /** Epoch whose operations must end before the sealed half's clusters are free. */
  #freeAfter = 0;
  /** The sealed half is in the tables, which are stable. */
  #stable = false;
  #idle: NodeJS.Timeout | undefined;
  #broken = false;
  readonly counters = { allocations: 0, commits: 0, blocked: 0 };

  /** @throws QCOW2_*, or the host's error */
  constructor(
    readonly io: HostIo,
    o: Qcow2Options,
    memory: ArrayBuffer,
    completed: Completed,
  ) {
    this.readOnly = o.readOnly ?? false;
    const [top, ...rest] = o.files;
    if (!top?.qcow2) throw blockError('QCOW2_INVALID', 'the topmost file is not a qcow2 image');
    if (this.readOnly) this.image = new Qcow2Image(io, top.fd, o.cacheBytes);
    else {
      const journal = new Journal(o.journal ?? new ArrayBuffer(journalBytes));
      this.#tables = openTables(io, top.fd, journal, o.cacheBytes);
      this.#tables.punch = o.discard ?? true;
      this.image = this.#tables.image;
    }
    const lower = rest.map(
      (f): Layer => (f.qcow2 ? new Qcow2Image(io, f.fd) : { fd: f.fd, size: f.size ?? io.size(f.fd) }),
    );
    this.#chain = new Chain([this.image, ...lower]);
    this.size = Math.floor(this.image.size / 512) * 512;
    this.physicalBytes = Math.max(4096, Math.min(65536, this.image.granule));
    this.canDiscard = !this.readOnly && (o.discard ?? true);
    this.#completed = completed;
    this.#memory = new Uint8Array(memory);
    this.#ops = new Ops(
      io,
      memory,
      o.depth ?? 128,
      () => this.poll(),
      (op, result) => this.#opDone(op, result),
    );
    this.#ops.memory = this.#memory;
    this.#bounces = new Bounces(this.#ops.queue, this.image.cluster);
    this.#ops.buffer = (i) => this.#bounces.bytes(i);
  }

  // ---- requests ----

  submit(r: BlockRequest): void {
    // Parts under way, and this one.
    r.progress = 1;
    r.result = BlockResult.ok;
    this.#go(r, 0);
  }

  #go(r: BlockRequest, from: number): void {
    try {
      switch (r.op) {
        case BlockOp.read:
          this.#read(r);
          break;
        case BlockOp.flush:
          this.#flushes.push(r);
          this.#commit();
          return;
        default:
          if (!this.#tables || this.#broken) throw blockError('EROFS', 'not written');
          for (let at = from; at < r.bytes; ) {
            const n = r.op === BlockOp.write ? this.#write(r, at, r.bytes - at, false) : this.#zero(r, at);
            if (n === 0) {
              this.#block(r, at);
              return;
            }
            at += n;
          }
      }
    } catch (e) {
      this.#failed(r, e);
    }
    this.#partDone(r, BlockResult.ok);
  }

  #failed(r: BlockRequest, e: unknown): void {
    const { code } = e as { code?: string };
    if (code === undefined) throw e;
    r.result = code === 'ENOSPC' || code === 'QCOW2_FULL' ? BlockResult.noSpace : BlockResult.io;
    if (code === 'QCOW2_CORRUPT' && r.op !== BlockOp.read && this.#tables) {
      this.#broken = true;
      try {
        this.#tables.markCorrupt();
      } catch {
        // It stays unwritten by us.
      }
    }
  }

  #block(r: BlockRequest, from: number): void {
    this.counters.blocked++;
    this.#blocked.push(r);
    this.#blockedFrom.push(from);
    if (this.#tables!.journal.room < 16) this.#commit();
  }

  /** Something that requests waited for has changed. */
  #wake(): void {
    if (this.#blocked.length === 0) return;
    const [requests, from] = [this.#blocked, this.#blockedFrom];
    this.#blocked = [];
    this.#blockedFrom = [];
    for (const [i, r] of requests.entries()) this.#go(r, from[i]!);
    this.#ops.kick();
  }

  #partDone(r: BlockRequest, result: number): void {
    if (result !== BlockResult.ok && r.result === BlockResult.ok) r.result = result;
    if (--r.progress > 0) return;
    if (r.fua && r.result === BlockResult.ok && r.op !== BlockOp.read) {
      this.#flushes.push(r);
      this.#commit();
    } else this.#report(r);
  }

  #report(r: BlockRequest): void {
    this.#done[this.#doneCount++] = r;
    if (this.#told || this.#polling) return;
    // Nothing of the host may be under way that would call us.
    this.#told = true;
    setImmediate(this.#tell);
  }
  readonly #tell = (): void => {
    this.#told = false;
    this.poll();
  };

  // ---- reading ----

  #read(r: BlockRequest): void {
    const e = this.#extent;
    for (let from = 0; from < r.bytes; from += e.bytes) {
      this.#chain.lookup(0, r.position + from, r.bytes - from, e);
      if (e.kind === Kind.zero) this.#eachPiece(r, from, e.bytes, undefined, 0);
      else if (e.kind === Kind.compressed) {
        const bytes = this.#chain.unpack(e);
        this.#eachPiece(r, from, e.bytes, bytes, (r.position + from) % bytes.length);
      } else this.#part(ioOp.read, r, from, e.bytes, e.fd, e.host);
    }
  }

  #part(
    io: typeof ioOp.read | typeof ioOp.write,
    r: BlockRequest,
    from: number,
    bytes: number,
    fd: number,
    at: number,
    zero = false,
  ): void {
    const op = this.#ops.take(io, Tag.part, fd, at, r);
    op.from = from;
    op.middle = op.bytes = bytes;
    op.zero = zero;
    r.progress++;
    this.#ops.start(op);
  }

  /** Copies into the request's memory, zeroes without a source. */
  #eachPiece(r: BlockRequest, from: number, bytes: number, source: Uint8Array | undefined, at: number): void {
    for (let i = 0; bytes > 0; i++) {
      const length = r.lengths[i]!;
      if (from >= length) {
        from -= length;
        continue;
      }
      const n = Math.min(length - from, bytes);
      const to = r.offsets[i]! + from;
      if (source) this.#memory.set(source.subarray(at, at + n), to);
      else this.#memory.fill(0, to, to + n);
      at += n;
      bytes -= n;
      from = 0;
    }
  }

  // ---- writing ----

  /** Bytes from `position` on that no allocation under way touches; 0: it is in one. */
  #unlocked(position: number, bytes: number): number {
    for (const a of this.#allocations) {
      if (a.start >= position + bytes || a.end <= position) continue;
      if (a.start <= position) return 0;
      bytes = a.start - position;
    }
    return bytes;
  }

  /** Starts writing at `from`: how many bytes, 0 when it must wait. `zero`: zeroes instead of the request's bytes. */
  #write(r: BlockRequest, from: number, bytes: number, zero: boolean): number {
    const { image } = this;
    const tables = this.#tables!;
    const position = r.position + from;
    const { cluster, perTable, entryBytes, granule } = image;
    const first = Math.floor(position / cluster);
    // Never past an allocation, nor past a table.
    bytes =
      this.#unlocked(first * cluster, position - first * cluster + bytes) - (position - first * cluster);
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
    this.#part(ioOp.write, r, from, bytes, this.image.fd, host, zero);
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
    const { image } = this;
    const tables = this.#tables!;
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
    this.counters.allocations++;
    r.progress++;
    const zeroHead = this.#fill(a, head, position - head, 0);
    const zeroTail = this.#fill(a, end, tail - end, cluster);
    // A cluster that was never written reads as zeroes by itself.
    const op = this.#ops.take(ioOp.write, Tag.cowWrite, image.fd, 0, r);
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
        const op = this.#ops.take(ioOp.read, Tag.cowRead, e.fd, e.host);
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
    const tables = this.#tables!;
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
          this.image.cluster,
          a.intent,
          a.bitmapHi,
          a.bitmapLo,
          a.free,
          a.freeCount,
        );
        this.#later();
      } else if (a.intent >= 0) tables.giveBack(a.intent);
    } catch (e) {
      if ((e as { code?: string }).code === undefined) throw e;
      result = BlockResult.io;
    }
    const r = a.request!;
    a.request = undefined;
    a.write = undefined;
    this.#spare.push(a);
    this.#partDone(r, result);
    this.#wake();
  }

  // ---- zeroes and discard ----

  /** Goes on at `from`: how many bytes are done or under way, 0 when it must wait. */
  #zero(r: BlockRequest, from: number): number {
    const { image } = this;
    const tables = this.#tables!;
    const { cluster, granule, perTable, entryBytes, extended } = image;
    const position = r.position + from;
    const discard = r.op === BlockOp.discard;
    const end = Math.min(r.position + r.bytes, image.size);
    const v2 = image.header.version === 2;
    const backed = this.#chain.layers.length > 1;
    const e = this.#extent;
    // The last cluster of a disk counts as whole.
    const whole = (at: number, unit: number): boolean =>
      at % unit === 0 && (end - at >= unit || end === image.size);
    if (!whole(position, granule) || (v2 && !discard)) {
      const n = Math.min(end - position, v2 ? end - position : granule - (position % granule));
      if (discard) return n;
      this.#chain.lookup(0, position, n, e);
      const unlocked = this.#unlocked(Math.floor(position / cluster) * cluster, (position % cluster) + n);
      if (unlocked === 0) return 0;
      if (e.kind === Kind.zero) return Math.min(e.bytes, unlocked - (position % cluster));
      return this.#write(r, from, Math.min(n, e.bytes), true);
    }
    const first = Math.floor(position / cluster);
    const inCluster = position - first * cluster;
    const l2 = first % perTable;
    const l1 = (first - l2) / perTable;
    const unlocked = this.#unlocked(first * cluster, cluster);
    if (unlocked === 0) return 0;
    const toTable = (first - l2 + perTable) * cluster - position;
    if (image.table(l1) === 0 && !backed) {
      const n = Math.min(end - position, toTable);
      return this.#unlocked(position, n);
    }
    if (discard && v2 && backed) return Math.min(end - position, toTable);
    if (tables.journal.room < 2) return 0;
    const table = tables.ownTable(l1);
    if (table < 0) return 0;
    const entryAt = table + l2 * entryBytes;
    const at = image.cache.at(entryAt);
    const { view } = image.cache;
    const hi = view.getUint32(at);
    const lo = view.getUint32(at + 4);
    const packed = (hi & compressedFlag) !== 0;
    const n = Math.min(end - position, cluster - inCluster);
    const all = whole(position, cluster);
    const host = packed ? 0 : image.hostOf(hi, lo);
    const unmap = discard || r.unmap;
    if (!all) {
      // Some subclusters of an extended entry.
      const span = n - (end === image.size ? 0 : n % granule);
      const mask = granules(inCluster, span, granule);
      const zeroes = view.getUint32(at + 8);
      if (!packed && (zeroes & mask) >>> 0 === mask) return span;
      if (packed || !(hi & copied)) {
        if (host === 0 && !packed) tables.link(entryAt, 1, hi, lo, 0, -1, (zeroes | mask) >>> 0, 0, 0, 0);
        else return discard ? span : this.#write(r, from, span, true);
      } else
        tables.link(
          entryAt,
          1,
          hi,
          lo,
          0,
          -1,
          (zeroes | mask) >>> 0,
          (view.getUint32(at + 12) & ~mask) >>> 0,
          0,
          0,
        );
      this.#later();
      return span;
    }
    const zeroHi = extended ? 0xffff_ffff : 0;
    const flag = extended || v2 ? 0 : 1;
    if (host === 0 && !packed) {
      const already = extended ? view.getUint32(at + 8) === 0xffff_ffff : (lo & 1) !== 0;
      if (!already && (backed || !discard) && !v2) {
        tables.link(entryAt, 1, 0, flag, 0, -1, zeroHi, 0, 0, 0);
        this.#later();
      }
      return n;
    }
    if (!unmap && hi & copied) {
      if (!extended && lo & 1) return n;
      tables.link(entryAt, 1, hi, (lo | flag) >>> 0, 0, -1, zeroHi, 0, 0, 0);
      this.#later();
      return n;
    }
    let free = host;
    let freeCount = 1;
    if (packed) {
      image.lookup(position, 1, e);
      free = Math.floor(e.packed / cluster) * cluster;
      freeCount = Math.floor((e.packed + e.packedBytes - 1) / cluster) - free / cluster + 1;
    }
    tables.link(entryAt, 1, 0, v2 ? 0 : flag, 0, -1, zeroHi, 0, free, freeCount);
    this.#later();
    return n;
  }

  // ---- commit ----

  /** Acknowledged changes do not stay in the journal for ever. */
  #later(): void {
    if (this.#tables!.journal.room < this.#tables!.journal.capacity / 4) this.#commit();
    if (this.#idle !== undefined) return;
    this.#idle = setTimeout(() => {
      this.#idle = undefined;
      this.#commit();
      this.#ops.kick();
    }, IDLE_COMMIT_MS);
    this.#idle.unref();
  }

  #commit(): void {
    if (this.#committing) {
      this.#commitWanted = true;
      return;
    }
    this.#committing = true;
    this.#commitWanted = false;
    this.counters.commits++;
    [this.#flushing, this.#flushes] = [this.#flushes, this.#flushing];
    if (this.#tables && this.#sealed < 0) {
      const { journal } = this.#tables;
      if (journal.count(journal.active) > 0) {
        this.#sealed = journal.active;
        journal.swap();
        this.#freeAfter = this.#ops.epoch++;
      }
    }
    if (this.readOnly) this.#committed(BlockResult.ok);
    else this.#sync(Tag.dataSync);
  }

  #sync(tag: number): void {
    this.#ops.start(this.#ops.take(ioOp.fdatasync, tag, this.image.fd, 0));
  }

  #synced(tag: number, result: number): void {
    if (result !== BlockResult.ok || this.#sealed < 0 || tag === Tag.tableSync) {
      this.#committed(result, tag === Tag.tableSync);
      return;
    }
    try {
      this.#tables!.writeEntries(this.#sealed);
    } catch (e) {
      if ((e as { code?: string }).code === undefined) throw e;
      this.#committed(BlockResult.io);
      return;
    }
    this.#sync(Tag.tableSync);
  }

  #committed(result: number, stable = false): void {
    const list = this.#flushing;
    for (const r of list) {
      r.result = result;
      this.#report(r);
    }
    list.length = 0;
    // A failed half stays as it is, and is written again by the next commit.
    if (stable && result === BlockResult.ok) {
      this.#stable = true;
      this.#tryFree();
    } else this.#nextCommit();
  }

  /** Replaced clusters become free when nobody that began before reads or writes them any more. */
  #tryFree(): void {
    if (this.#ops.inEpoch[this.#freeAfter & 1]! > 0) return;
    this.#stable = false;
    try {
      this.#tables!.finish(this.#sealed);
    } catch (e) {
      if ((e as { code?: string }).code === undefined) throw e;
      this.#broken = true;
    }
    this.#sealed = -1;
    this.#nextCommit();
    this.#wake();
  }

  #nextCommit(): void {
    this.#committing = false;
    if (this.#commitWanted || this.#flushes.length > 0) this.#commit();
    this.#ops.kick();
  }

  // ---- completions ----

  #opDone(op: Op, result: number): void {
    switch (op.tag) {
      case Tag.part:
        this.#partDone(op.request!, result);
        break;
      case Tag.cowRead: {
        const a = op.owner as Allocation;
        if (result !== BlockResult.ok) a.failed = result;
        this.#cowReady(a);
        break;
      }
      case Tag.cowWrite:
        this.#allocated(op.owner as Allocation, result);
        break;
      default:
        this.#synced(op.tag, result);
    }
    if (this.#stable) this.#tryFree();
  }

  kick(): void {
    this.#ops.kick();
  }

  poll(): void {
    this.#polling = true;
    this.#ops.poll();
    this.#polling = false;
    if (this.#doneCount === 0) return;
    const count = this.#doneCount;
    this.#doneCount = 0;
    this.#completed(this.#done, count);
  }

  drain(timeoutMs: number): boolean {
    const end = Date.now() + timeoutMs;
    const pause = new Int32Array(new SharedArrayBuffer(4));
    for (;;) {
      this.kick();
      this.poll();
      if (
        this.#ops.idle &&
        this.#allocations.length === 0 &&
        this.#blocked.length === 0 &&
        !this.#committing &&
        this.#doneCount === 0
      )
        return true;
      if (Date.now() > end) return false;
      if (!this.#ops.idle) Atomics.wait(pause, 0, 0, 1);
    }
  }

  fence(): void {}

  /** Writes out what was acknowledged, when nothing is under way. */
  close(): void {
    clearTimeout(this.#idle);
    if (this.#tables && !this.#broken) {
      this.#commit();
      this.drain(10_000);
    }
    this.#ops.queue.close();
  }
}

/** Bits of the granules that bytes touch. */
function granules(at: number, bytes: number, granule: number): number {
  const first = Math.floor(at / granule);
  const last = Math.floor((at + bytes - 1) / granule);
  const upto = last >= 31 ? 0xffff_ffff : (1 << (last + 1)) - 1;
  return (upto & ~((1 << first) - 1)) >>> 0;
}

/** For writing: an image that says of itself that its refcounts may be wrong gets them anew. */
function openTables(io: HostIo, fd: number, journal: Journal, cacheBytes?: number): Tables {
  const { incompatible } = new Qcow2Image(io, fd, 4096 * 8).header;
  if (incompatible & Incompatible.corrupt)
    throw blockError(
      'QCOW2_CORRUPT',
      'qcow2: the image is marked as corrupt: check and repair it, or open it read-only',
    );
  if (incompatible & Incompatible.dirty) rebuild(io, fd);
  return new Tables(io, fd, journal, cacheBytes);
}
