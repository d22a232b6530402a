/**
 * The tables of an image that is written: new L2 tables, entries through the journal, and writing the journal out in
 * the order that stands every death (journal.ts).
 */
import { type HostIo, writeAll } from '../host.ts';
import { outdateBitmaps } from './bitmaps.ts';
import { Incompatible } from './header.ts';
import { copied, Qcow2Image } from './image.ts';
import type { Journal } from './journal.ts';
import { put64, Refcounts } from './refcounts.ts';

export class Tables {
  readonly image: Qcow2Image;
  readonly refcounts: Refcounts;
  readonly #entry = new DataView(new ArrayBuffer(4096));
  /** Positions and lengths of what the last `free` gave back to the host's file system. */
  punch = false;

  /** Opens for writing; finishes what a predecessor left in `journal`. @throws coded errors */
  constructor(
    readonly io: HostIo,
    readonly fd: number,
    readonly journal: Journal,
    cacheBytes?: number,
  ) {
    // Before anything is read: the tables lack what the journal has.
    if (!journal.empty) this.#recover();
    this.image = new Qcow2Image(io, fd, cacheBytes, (position, at) => this.#overlay(position, at));
    this.refcounts = new Refcounts(io, fd, this.image.header);
    this.refcounts.reserved = (c) => this.#isMetadata(c);
    // A writer that does not maintain what the bits tell of clears them ("autoclear_features").
    outdateBitmaps(io, fd, this.image.header);
  }

  /** Header, L1, refcount table and blocks are never given away, even when a refcount lies. */
  #isMetadata(c: number): boolean {
    const { cluster, header } = this.image;
    const at = c * cluster;
    const inside = (start: number, bytes: number): boolean => at >= start && at < start + bytes;
    return (
      c === 0 ||
      inside(header.l1Offset, header.l1Entries * 8) ||
      inside(header.refcountTableOffset, header.refcountTableClusters * cluster) ||
      this.refcounts.table[Math.floor(c / this.refcounts.perBlock)] === at
    );
  }

  #overlay(position: number, at: number): void {
    const { journal, image } = this;
    // While the image is being opened its tables need nothing of the journal, which is empty then.
    if (image === undefined) return;
    const { view, sliceBytes } = image.cache;
    for (const half of [journal.active ^ 1, journal.active])
      for (let i = 0; i < journal.count(half); i++) {
        const first = journal.entryAt(half, i);
        const entries = journal.entries(half, i);
        if (first >= position + sliceBytes || first + entries * image.entryBytes <= position) continue;
        for (let k = 0; k < entries; k++) {
          const entry = first + k * image.entryBytes;
          if (entry >= position && entry < position + sliceBytes)
            journal.put(half, i, k, view, at + entry - position, image.extended);
        }
      }
  }

  /** Takes neighbouring clusters, noted in the journal until `link`. Host offset; `count`, `fresh` and `intent` tell. */
  allocate(want: number): number {
    const first = this.refcounts.find(want);
    this.count = this.refcounts.found;
    const host = first * this.image.cluster;
    this.intent = this.journal.intend(host, this.count);
    if (this.intent < 0) return -1;
    try {
      this.fresh = this.refcounts.take(first, this.count);
    } catch (e) {
      // Those that were counted are lost until a check; better than to free what was not.
      this.journal.forget(this.intent);
      throw e;
    }
    return host;
  }
  count = 0;
  intent = -1;
  fresh = false;

  /** Gives back what `allocate` took. */
  giveBack(intent: number): void {
    const first = this.journal.intentHost(intent) / this.image.cluster;
    for (let i = 0; i < this.journal.intentCount(intent); i++) this.refcounts.set(first + i, 0);
    this.journal.forget(intent);
  }

  /**
   * Entries from file position `entryAt` become hi:lo, then each `step` more. @param intent of the clusters that they
   * refer to, or -1. `free`: clusters that are used one time less afterwards.
   */
  link(
    entryAt: number,
    count: number,
    hi: number,
    lo: number,
    step: number,
    intent: number,
    bitmapHi: number,
    bitmapLo: number,
    free: number,
    freeCount: number,
  ): void {
    const { journal, image } = this;
    const host = intent < 0 ? -1 : journal.intentHost(intent);
    journal.add(entryAt, count, hi, lo, step, host, bitmapHi, bitmapLo, free, freeCount);
    if (intent >= 0) journal.forget(intent);
    const half = journal.active;
    const i = journal.count(half) - 1;
    for (let k = 0; k < count; k++) {
      const at = image.cache.peek(entryAt + k * image.entryBytes);
      if (at >= 0) journal.put(half, i, k, image.cache.view, at, image.extended);
    }
  }

  /**
   * File offset of the L2 table of L1 entry `index`, which may be written: a new one, or a copy when a snapshot shares
   * it. -1 when the journal has no room. @throws coded errors
   */
  ownTable(index: number): number {
    const { image } = this;
    const old = image.table(index);
    if (old !== 0 && image.l1.getUint32(8 * index) & copied) return old;
    if (this.journal.room < 2) return -1;
    const host = this.allocate(1);
    if (host < 0) return -1;
    const { intent } = this;
    const content = new ArrayBuffer(image.cluster);
    try {
      if (old !== 0) this.#copyTable(old, new Uint8Array(content));
      writeAll(this.io, this.fd, content, 0, image.cluster, host);
    } catch (e) {
      this.giveBack(intent);
      throw e;
    }
    image.cache.drop(host, image.cluster);
    const hi = (Math.floor(host / 4294967296) | copied) >>> 0;
    const { l1Offset } = image.header;
    this.#l1(l1Offset + 8 * index, hi, host >>> 0, intent, old, old === 0 ? 0 : 1);
    image.l1.setUint32(8 * index, hi);
    image.l1.setUint32(8 * index + 4, host >>> 0);
    return host;
  }

  #copyTable(old: number, to: Uint8Array): void {
    const { cache, cluster } = this.image;
    for (let done = 0; done < cluster; done += cache.sliceBytes) {
      const at = cache.at(old + done);
      to.set(new Uint8Array(cache.buffer, at, cache.sliceBytes), done);
    }
  }

  /** An L1 entry is 8 bytes even where L2 entries have 16: written out as such by its place. */
  #l1(entryAt: number, hi: number, lo: number, intent: number, free: number, freeCount: number): void {
    this.journal.add(entryAt, 1, hi, lo, 0, this.journal.intentHost(intent), 0, 0, free, freeCount);
    this.journal.forget(intent);
  }

  // ---- writing the journal out ----

  /** Second step: data and refcounts are stable, the entries may follow. */
  writeEntries(half: number): void {
    const { extended, header } = this.image;
    this.#writeEntries(half, extended ? 16 : 8, header.l1Offset, header.l1Entries * 8);
  }

  #writeEntries(half: number, entryBytes: number, l1: number, l1Bytes: number): void {
    const { journal } = this;
    const chunk = this.#entry.byteLength / 16;
    for (let i = 0; i < journal.count(half); i++) {
      const first = journal.entryAt(half, i);
      const bytes = first >= l1 && first < l1 + l1Bytes ? 8 : entryBytes;
      const entries = journal.entries(half, i);
      for (let k = 0; k < entries; k += chunk) {
        const n = Math.min(chunk, entries - k);
        for (let j = 0; j < n; j++) journal.put(half, i, k + j, this.#entry, j * bytes, bytes === 16);
        writeAll(this.io, this.fd, this.#entry.buffer as ArrayBuffer, 0, n * bytes, first + k * bytes);
      }
    }
  }

  /** Last step: the entries are stable and nobody reads what they replaced. */
  finish(half: number): void {
    this.#free(half, this.refcounts);
    this.journal.clear(half);
  }

  #free(half: number, refcounts: Refcounts): void {
    const { journal } = this;
    const cluster = refcounts.cluster;
    let n = 0;
    const resume = journal.freeing(half);
    journal.beginFreeing(half);
    for (let i = 0; i < journal.count(half); i++) {
      const first = journal.free(half, i) / cluster;
      const count = journal.freeCount(half, i);
      let gone = 0;
      for (let k = 0; k < count; k++, n++) {
        if (n < resume) continue;
        const c = first + k;
        const now = refcounts.get(c);
        const target = n === resume ? journal.target(n) : Math.max(0, now - 1);
        journal.arm(n, target);
        refcounts.set(c, target);
        if (target === 0) gone++;
      }
      if (this.punch && gone === count && count > 0) {
        try {
          this.io.punchHole(this.fd, first * cluster, count * cluster);
        } catch {
          // A hint.
        }
      }
    }
  }

  /** What a predecessor acknowledged is written out, what it had begun is undone. */
  #recover(): void {
    const { io, fd, journal } = this;
    const image = new Qcow2Image(io, fd, 4096 * 8);
    const { header, cluster } = image;
    const refcounts = new Refcounts(io, fd, header);
    const linked = new Set<number>();
    const halves = [journal.active ^ 1, journal.active];
    for (const half of halves)
      for (let i = 0; i < journal.count(half); i++) linked.add(journal.host(half, i));
    io.fdatasync(fd);
    for (const half of halves)
      this.#writeEntries(half, image.entryBytes, header.l1Offset, header.l1Entries * 8);
    io.fdatasync(fd);
    for (const half of halves) {
      if (journal.count(half) === 0) continue;
      this.#free(half, refcounts);
      journal.clear(half);
    }
    for (let i = 0; i < journal.intentSlots; i++) {
      const count = journal.intentCount(i);
      if (count === 0) continue;
      const host = journal.intentHost(i);
      if (!linked.has(host))
        for (let c = 0; c < count; c++) {
          if (refcounts.get(host / cluster + c) === 1) refcounts.set(host / cluster + c, 0);
        }
      journal.forget(i);
    }
    io.fdatasync(fd);
  }

  /** Says in the header that the image must not be written any more. */
  markCorrupt(): void {
    const { header } = this.image;
    if (header.version < 3 || header.incompatible & Incompatible.corrupt) return;
    header.incompatible |= Incompatible.corrupt;
    put64(this.#entry, 0, header.incompatible);
    writeAll(this.io, this.fd, this.#entry.buffer as ArrayBuffer, 0, 8, 72);
  }
}
