/**
 * Reference counts of host clusters ("Host cluster management"), and the allocator over them. Every change is written
 * through at once. A new refcount block lies at the first cluster that it describes, and a new table describes itself,
 * so that each becomes reachable by one write: a death between two writes leaves nothing half done.
 */

import { SliceCache } from '../cache.ts';
import { blockError, type HostIo, readPadded, writeAll } from '../host.ts';
import { Limit, type Qcow2Header } from './header.ts';

/** Clusters behind the end of a file that may be counted: preallocated, not yet written. */
const FAR = 1 << 20;

const corrupt = (what: string): Error => blockError('QCOW2_CORRUPT', `qcow2 refcounts: ${what}`);

export class Refcounts {
  /** Offsets of the blocks, 0: none. */
  table: Float64Array;
  readonly cluster: number;
  readonly #order: number;
  /** Clusters that a block describes. */
  readonly perBlock: number;
  readonly #max: number;
  readonly #cache: SliceCache;
  #hint = 1;
  /** File bytes that may hold something: whatever lies behind reads as zeroes. */
  highWater: number;
  /** Clusters that must never be given away, whatever their refcount says. */
  reserved: (cluster: number) => boolean = () => false;

  constructor(
    private readonly io: HostIo,
    private readonly fd: number,
    private readonly header: Qcow2Header,
  ) {
    this.cluster = 2 ** header.clusterBits;
    this.#order = header.refcountOrder;
    this.perBlock = (this.cluster * 8) / 2 ** this.#order;
    this.#max = 2 ** Math.min(53, 2 ** this.#order) - 1;
    this.#cache = new SliceCache(io, fd, Math.min(4096, this.cluster), 64);
    this.highWater = io.size(fd);
    this.table = this.#readTable();
  }

  #readTable(): Float64Array {
    const bytes = this.header.refcountTableClusters * this.cluster;
    const raw = new DataView(new ArrayBuffer(bytes));
    readPadded(this.io, this.fd, raw.buffer as ArrayBuffer, 0, bytes, this.header.refcountTableOffset);
    const table = new Float64Array(bytes / 8);
    for (let i = 0; i < table.length; i++) {
      const offset = raw.getUint32(8 * i) * 4294967296 + raw.getUint32(8 * i + 4);
      if (offset % this.cluster !== 0 || offset > Number.MAX_SAFE_INTEGER)
        throw corrupt(`block ${i} is at 0x${offset.toString(16)}, not at a cluster`);
      table[i] = offset;
    }
    return table;
  }

  /** Refcount of a cluster; beyond the table 0. */
  get(cluster: number): number {
    const block = this.table[Math.floor(cluster / this.perBlock)];
    if (!block) return 0;
    const i = cluster % this.perBlock;
    const byte = Math.floor((i * 2 ** this.#order) / 8);
    const at = this.#cache.at(block + byte);
    const { view } = this.#cache;
    switch (this.#order) {
      case 3:
        return view.getUint8(at);
      case 4:
        return view.getUint16(at);
      case 5:
        return view.getUint32(at);
      case 6:
        return view.getUint32(at) * 4294967296 + view.getUint32(at + 4);
      default: {
        const width = 1 << this.#order;
        return (view.getUint8(at) >> ((i * width) % 8)) & ((1 << width) - 1);
      }
    }
  }

  /** @throws QCOW2_CORRUPT when the value does not fit, or no block describes the cluster */
  set(cluster: number, value: number): void {
    if (value < 0 || value > this.#max)
      throw value < 0
        ? corrupt(`cluster ${cluster} is freed more often than it is used`)
        : blockError(
            'QCOW2_REFCOUNT',
            `qcow2: ${value} references need wider refcounts (now ${2 ** this.#order} bits)`,
          );
    const block = this.table[Math.floor(cluster / this.perBlock)];
    if (!block) throw corrupt(`no block describes cluster ${cluster}`);
    const i = cluster % this.perBlock;
    const bits = 2 ** this.#order;
    const byte = Math.floor((i * bits) / 8);
    const at = this.#cache.at(block + byte);
    const { view } = this.#cache;
    if (bits < 8) {
      const shift = (i * bits) % 8;
      const mask = ((1 << bits) - 1) << shift;
      view.setUint8(at, (view.getUint8(at) & ~mask) | (value << shift));
    } else if (bits === 8) view.setUint8(at, value);
    else if (bits === 16) view.setUint16(at, value);
    else if (bits === 32) view.setUint32(at, value);
    else {
      view.setUint32(at, Math.floor(value / 4294967296));
      view.setUint32(at + 4, value >>> 0);
    }
    try {
      writeAll(this.io, this.fd, this.#cache.buffer, at, Math.max(1, bits / 8), block + byte);
    } catch (e) {
      this.#cache.drop(block + byte, 1);
      throw e;
    }
    if (value === 0 && cluster < this.#hint) this.#hint = cluster;
  }

  /**
   * Finds up to `want` neighbouring free clusters and sees to it that a block describes them; their refcounts stay
   * as they are: `take` counts them. Returns the first; `found` is how many.
   */
  find(want: number): number {
    for (let c = this.#hint; ; c++) {
      const index = Math.floor(c / this.perBlock);
      // Refcounts of what was never there are a lie; without end, if one let them.
      if (c > this.highWater / this.cluster + FAR) throw corrupt('no free cluster near the end of the file');
      if (!this.table[index]) {
        this.#hint = c;
        this.#addBlock(index);
        c--;
        continue;
      }
      if (this.get(c) !== 0 || this.reserved(c)) continue;
      const end = Math.min(c + want, (index + 1) * this.perBlock);
      let n = 1;
      while (c + n < end && this.get(c + n) === 0 && !this.reserved(c + n)) n++;
      this.#hint = c;
      this.found = n;
      return c;
    }
  }
  found = 0;

  /** Counts clusters that `find` gave; true when the host has never stored anything in them. */
  take(first: number, count: number): boolean {
    for (let c = first; c < first + count; c++) this.set(c, 1);
    if (this.#hint === first) this.#hint = first + count;
    const fresh = first * this.cluster >= this.highWater;
    this.highWater = Math.max(this.highWater, (first + count) * this.cluster);
    return fresh;
  }

  /** Neighbouring clusters, exactly `count`, counted; for tables that must be in one piece. */
  takeRun(count: number): number {
    if (count > this.perBlock / 4) return this.#takeBehind(count);
    for (let run = 0, first = 0; ; ) {
      const at = this.find(count - run);
      if (run > 0 && at === first + run) run += this.found;
      else [first, run] = [at, this.found];
      if (run >= count) {
        for (let c = first; c < first + count; c++) this.set(c, 1);
        this.highWater = Math.max(this.highWater, (first + count) * this.cluster);
        this.#hint = 1;
        return first;
      }
      this.#hint = at + this.found;
    }
  }

  /** A long run: behind everything that blocks describe, after the blocks that describe it. */
  #takeBehind(count: number): number {
    let blocks = 1;
    while (blocks * this.perBlock < blocks + count) blocks++;
    let index = this.table.findLastIndex((b) => b !== 0) + 1;
    if (index + blocks > this.table.length) {
      this.#grow(index + blocks);
      index = this.table.findLastIndex((b) => b !== 0) + 1;
    }
    const first = index * this.perBlock;
    const entries = new DataView(new ArrayBuffer(8 * blocks));
    for (let b = 0; b < blocks; b++) {
      const block = new ArrayBuffer(this.cluster);
      for (let i = 0; i < this.perBlock && b * this.perBlock + i < blocks + count; i++)
        this.#one(new DataView(block), i);
      writeAll(this.io, this.fd, block, 0, this.cluster, (first + b) * this.cluster);
      put64(entries, 8 * b, (first + b) * this.cluster);
    }
    this.io.fdatasync(this.fd);
    const at = this.header.refcountTableOffset + 8 * index;
    writeAll(this.io, this.fd, entries.buffer as ArrayBuffer, 0, 8 * blocks, at);
    this.#cache.drop(first * this.cluster, blocks * this.cluster);
    for (let b = 0; b < blocks; b++) this.table[index + b] = (first + b) * this.cluster;
    this.highWater = Math.max(this.highWater, (first + blocks + count) * this.cluster);
    return first + blocks;
  }

  /** One more, or one fewer, for each of the clusters. */
  add(first: number, count: number, delta: number): void {
    for (let c = first; c < first + count; c++) this.set(c, this.get(c) + delta);
  }

  #addBlock(index: number): void {
    if (index >= this.table.length) {
      this.#grow(index);
      return;
    }
    let own = index * this.perBlock;
    while (own === 0 || this.reserved(own)) own++;
    if (own >= (index + 1) * this.perBlock) throw corrupt(`nothing describes the clusters of block ${index}`);
    const block = new ArrayBuffer(this.cluster);
    this.#one(new DataView(block), own % this.perBlock);
    writeAll(this.io, this.fd, block, 0, this.cluster, own * this.cluster);
    this.io.fdatasync(this.fd);
    const entry = new DataView(new ArrayBuffer(8));
    put64(entry, 0, own * this.cluster);
    writeAll(
      this.io,
      this.fd,
      entry.buffer as ArrayBuffer,
      0,
      8,
      this.header.refcountTableOffset + 8 * index,
    );
    this.#cache.drop(own * this.cluster, this.cluster);
    this.table[index] = own * this.cluster;
    this.highWater = Math.max(this.highWater, (own + 1) * this.cluster);
  }

  /** Sets an entry of a new block to 1. */
  #one(view: DataView, i: number): void {
    const bits = 2 ** this.#order;
    const byte = Math.floor((i * bits) / 8);
    if (bits < 8) view.setUint8(byte, view.getUint8(byte) | (1 << ((i * bits) % 8)));
    else view.setUint8(byte + bits / 8 - 1, 1);
  }

  /** A longer table, behind everything that the old one describes, with the blocks that describe it. */
  #grow(index: number): void {
    const { cluster, perBlock } = this;
    const first = this.table.length * perBlock;
    const entries = Math.max(index + 1, Math.ceil(this.table.length * 1.5)) + 1;
    const tableClusters = Math.ceil((entries * 8) / cluster);
    let blocks = 1;
    while (blocks * perBlock < tableClusters + blocks) blocks++;
    const length = (tableClusters * cluster) / 8;
    if (tableClusters * cluster > Limit.refcountTableBytes || this.table.length + blocks > length)
      throw blockError('QCOW2_FULL', 'qcow2: the image has as many clusters as its refcount table can count');
    const table = new Float64Array(length);
    table.set(this.table);
    for (let b = 0; b < blocks; b++) {
      const block = new ArrayBuffer(cluster);
      for (let i = 0; i < perBlock && b * perBlock + i < blocks + tableClusters; i++)
        this.#one(new DataView(block), i);
      table[this.table.length + b] = (first + b) * cluster;
      writeAll(this.io, this.fd, block, 0, cluster, (first + b) * cluster);
    }
    const raw = new DataView(new ArrayBuffer(length * 8));
    for (let i = 0; i < length; i++) put64(raw, 8 * i, table[i]!);
    const at = (first + blocks) * cluster;
    writeAll(this.io, this.fd, raw.buffer as ArrayBuffer, 0, raw.byteLength, at);
    this.io.fdatasync(this.fd);
    const fields = new DataView(new ArrayBuffer(12));
    put64(fields, 0, at);
    fields.setUint32(8, tableClusters);
    writeAll(this.io, this.fd, fields.buffer as ArrayBuffer, 0, 12, 48);
    this.io.fdatasync(this.fd);
    const old = this.header.refcountTableOffset / cluster;
    const oldClusters = this.header.refcountTableClusters;
    this.#cache.drop(first * cluster, blocks * cluster);
    this.table = table;
    this.header.refcountTableOffset = at;
    this.header.refcountTableClusters = tableClusters;
    this.highWater = Math.max(this.highWater, at + tableClusters * cluster);
    this.add(old, oldClusters, -1);
  }
}

export function put64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / 4294967296));
  view.setUint32(at + 4, value >>> 0);
}
