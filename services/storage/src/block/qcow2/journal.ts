/**
 * What a qcow2 disk has acknowledged but not yet written to its tables, in memory that outlives the process.
 *
 * A mapping may reach the file only after the data and refcounts that it refers to are on stable storage; waiting for
 * that on every write would be slow, and a process may die at any instruction. So each change of a table entry is a
 * record here. A flush makes data and refcounts stable, then writes the records into the tables (which it makes stable
 * too), then frees what they replaced. A successor that finds records does the same before its first request, so that an
 * acknowledged write survives the process, and it gives clusters back that were taken for requests nobody finished.
 *
 * Two halves: one collects records while the other is written out.
 */
export const journalBytes = 256 * 1024;

const HEADER = 64;
/** Clusters taken for requests under way. */
const INTENTS = 256;
const INTENT_BYTES = 16;
const RECORD = 64;
const MAGIC = 0x6a797831;

/** 32-bit words of the header. */
const Word = { magic: 0, active: 1, counts: 2, freeing: 4, armed: 5, targets: 6 } as const;

/** Fields of a record, in doubles (8 bytes). */
const Field = { entryAt: 0, host: 1, free: 2, freeCount: 3, count: 4, step: 5, value: 6, bitmap: 7 } as const;

export class Journal {
  readonly capacity: number;
  readonly #words: Uint32Array;
  readonly #f64: Float64Array;
  readonly #u32: Uint32Array;
  readonly #recordBase: number;
  #intents = 0;

  /** @param buffer `journalBytes` of memory: zeroes, or what a predecessor left */
  constructor(buffer: ArrayBuffer) {
    this.capacity = Math.floor(
      (Math.min(buffer.byteLength, journalBytes) - HEADER - INTENTS * INTENT_BYTES) / RECORD / 2,
    );
    this.#words = new Uint32Array(buffer, 0, HEADER / 4);
    this.#f64 = new Float64Array(buffer, 0, Math.floor(buffer.byteLength / 8));
    this.#u32 = new Uint32Array(buffer, 0, Math.floor(buffer.byteLength / 4));
    this.#recordBase = (HEADER + INTENTS * INTENT_BYTES) / 8;
    if (this.#words[Word.magic] !== MAGIC) {
      this.#u32.fill(0);
      this.#words[Word.magic] = MAGIC;
    }
    for (const i of [Word.counts, Word.counts + 1]) if (this.#words[i]! > this.capacity) this.#words[i] = 0;
    for (let i = 0; i < INTENTS; i++) if (this.intentCount(i) > 0) this.#intents++;
  }

  get active(): number {
    return this.#words[Word.active]! & 1;
  }
  count(half: number): number {
    return this.#words[Word.counts + half]!;
  }
  get empty(): boolean {
    return this.count(0) === 0 && this.count(1) === 0 && this.#intents === 0;
  }
  /** Records that may still be added, beside one for each request under way. */
  get room(): number {
    return this.capacity - this.count(this.active) - this.#intents - 4;
  }

  // ---- intents ----

  /** Says that clusters are about to be counted; -1 when too many requests are under way. */
  intend(host: number, clusters: number): number {
    if (this.#intents === INTENTS) return -1;
    for (let i = 0; ; i++) {
      const at = (HEADER + i * INTENT_BYTES) / 8;
      if (this.#f64[at + 1] !== 0) continue;
      this.#f64[at] = host;
      this.#f64[at + 1] = clusters;
      this.#intents++;
      return i;
    }
  }
  forget(i: number): void {
    this.#f64[(HEADER + i * INTENT_BYTES) / 8 + 1] = 0;
    this.#intents--;
  }
  get intentSlots(): number {
    return INTENTS;
  }
  intentHost(i: number): number {
    return this.#f64[(HEADER + i * INTENT_BYTES) / 8]!;
  }
  intentCount(i: number): number {
    return this.#f64[(HEADER + i * INTENT_BYTES) / 8 + 1]!;
  }

  // ---- records ----

  #at(half: number, i: number): number {
    return this.#recordBase + ((half * this.capacity + i) * RECORD) / 8;
  }

  /**
   * `count` neighbouring table entries from file position `entryAt` become value, value + step, ...; `free` clusters are
   * given back afterwards. `bitmap`: the entries have a second word, this. The record counts from its last store on.
   */
  add(
    entryAt: number,
    count: number,
    hi: number,
    lo: number,
    step: number,
    host: number,
    bitmapHi: number,
    bitmapLo: number,
    free: number,
    freeCount: number,
  ): void {
    const half = this.active;
    const n = this.count(half);
    if (n >= this.capacity) throw new Error('journal: no room, though it was asked for');
    const at = this.#at(half, n);
    this.#f64[at + Field.entryAt] = entryAt;
    this.#f64[at + Field.host] = host;
    this.#f64[at + Field.free] = free;
    this.#f64[at + Field.freeCount] = freeCount;
    this.#f64[at + Field.count] = count;
    this.#f64[at + Field.step] = step;
    this.#u32[2 * (at + Field.value)] = hi;
    this.#u32[2 * (at + Field.value) + 1] = lo;
    this.#u32[2 * (at + Field.bitmap)] = bitmapHi;
    this.#u32[2 * (at + Field.bitmap) + 1] = bitmapLo;
    Atomics.store(this.#words, Word.counts + half, n + 1);
  }

  entryAt(half: number, i: number): number {
    return this.#f64[this.#at(half, i) + Field.entryAt]!;
  }
  entries(half: number, i: number): number {
    return this.#f64[this.#at(half, i) + Field.count]!;
  }
  host(half: number, i: number): number {
    return this.#f64[this.#at(half, i) + Field.host]!;
  }
  free(half: number, i: number): number {
    return this.#f64[this.#at(half, i) + Field.free]!;
  }
  freeCount(half: number, i: number): number {
    return this.#f64[this.#at(half, i) + Field.freeCount]!;
  }

  /** Writes entry k of a record into `view`, 8 bytes, or 16 with `wide`. */
  put(half: number, i: number, k: number, view: DataView, at: number, wide: boolean): void {
    const r = this.#at(half, i);
    const add = this.#f64[r + Field.step]! * k;
    const hi = this.#u32[2 * (r + Field.value)]!;
    const lo = this.#u32[2 * (r + Field.value) + 1]!;
    const sum = lo + add;
    view.setUint32(at, hi + Math.floor(sum / 4294967296));
    view.setUint32(at + 4, sum >>> 0);
    if (wide) {
      view.setUint32(at + 8, this.#u32[2 * (r + Field.bitmap)]!);
      view.setUint32(at + 12, this.#u32[2 * (r + Field.bitmap) + 1]!);
    }
  }

  /** The other half collects from now on. It must be empty. */
  swap(): void {
    Atomics.store(this.#words, Word.active, this.active ^ 1);
  }
  clear(half: number): void {
    Atomics.store(this.#words, Word.counts + half, 0);
    this.#words[Word.freeing] = 0;
    this.#words[Word.armed] = 0;
  }

  // ---- freeing: each cluster exactly once, whoever dies ----

  /** Number of the cluster, among those that the half frees, whose refcount is being written; -1: none was yet. */
  freeing(half: number): number {
    return this.#words[Word.freeing] === half + 1 ? this.#words[Word.armed]! - 1 : -1;
  }
  beginFreeing(half: number): void {
    if (this.#words[Word.freeing] !== half + 1) Atomics.store(this.#words, Word.freeing, half + 1);
  }
  /** The refcount that cluster `n` gets. */
  target(n: number): number {
    return this.#words[Word.targets + (n & 1)]!;
  }
  /** Cluster `n` is about to get this refcount; all before it have theirs. */
  arm(n: number, refcount: number): void {
    this.#words[Word.targets + (n & 1)] = refcount;
    Atomics.store(this.#words, Word.armed, n + 1);
  }
}
