/**
 * What a VHDX disk has acknowledged and not yet written to its tables, in memory that outlives the process: entries of the
 * allocation table, and ranges of sector bitmaps. A successor that finds records writes them out before its first request.
 * Two halves: one collects records while the other is written out. Records say what is to be, so that writing them out
 * again changes nothing.
 */
import { BlockState, MiB, SECTOR } from './format.ts';

export const journalBytes = 256 * 1024;

const HEADER = 64;
/** Doubles of a record. */
const RECORD = 4;
const MAGIC = 0x7668_6a31;
/** 32-bit words of the header. */
const Word = { magic: 0, active: 1, counts: 2 } as const;
const Type = { entry: 0, bits: 1 } as const;

export class Journal {
  readonly capacity: number;
  readonly #words: Uint32Array;
  readonly #f64: Float64Array;

  /** @param buffer `journalBytes` of memory, or less: zeroes, or what a predecessor left */
  constructor(buffer: ArrayBuffer) {
    const bytes = Math.min(buffer.byteLength, journalBytes);
    this.capacity = Math.floor((bytes - HEADER) / (8 * RECORD) / 2);
    this.#words = new Uint32Array(buffer, 0, HEADER / 4);
    this.#f64 = new Float64Array(buffer, HEADER, 2 * this.capacity * RECORD);
    if (this.#words[Word.magic] !== MAGIC) {
      this.#words.fill(0);
      this.#words[Word.magic] = MAGIC;
    }
    for (const half of [0, 1]) if (this.count(half) > this.capacity) this.clear(half);
  }

  get active(): number {
    return this.#words[Word.active]! & 1;
  }
  count(half: number): number {
    return this.#words[Word.counts + half]!;
  }
  get empty(): boolean {
    return this.count(0) === 0 && this.count(1) === 0;
  }
  /** Records that may still be added. */
  get room(): number {
    return this.capacity - this.count(this.active);
  }

  #add(type: number, at: number, a: number, b: number): void {
    const half = this.active;
    const n = this.count(half);
    if (n >= this.capacity) throw new Error('journal: no room, though it was asked for');
    this.#f64.set([type, at, a, b], (half * this.capacity + n) * RECORD);
    Atomics.store(this.#words, Word.counts + half, n + 1);
  }
  /** The entry at file position `at` becomes this. @param offset of the block in the file, whole MiB */
  entry(at: number, state: number, offset: number): void {
    this.#add(Type.entry, at, state, offset);
  }
  /** `count` bits from bit `first` of the bitmap at file position `at` are set. */
  bits(at: number, first: number, count: number): void {
    this.#add(Type.bits, at, first, count);
  }

  /** The other half collects from now on. It must be empty. */
  swap(): void {
    Atomics.store(this.#words, Word.active, this.active ^ 1);
  }
  clear(half: number): void {
    Atomics.store(this.#words, Word.counts + half, 0);
  }

  /** File positions of the sectors that a half changes. */
  sectors(half: number): number[] {
    const list = new Set<number>();
    for (let i = 0; i < this.count(half); i++) {
      const [type, at, a, b] = this.#record(half, i);
      if (type === Type.entry) list.add(Math.floor(at / SECTOR));
      else
        for (
          let s = Math.floor((at + Math.floor(a / 8)) / SECTOR);
          s <= Math.floor((at + Math.floor((a + b - 1) / 8)) / SECTOR);
          s++
        )
          list.add(s);
    }
    return [...list].map((s) => s * SECTOR);
  }

  #record(half: number, i: number): [type: number, at: number, a: number, b: number] {
    const r = (half * this.capacity + i) * RECORD;
    return [this.#f64[r]!, this.#f64[r + 1]!, this.#f64[r + 2]!, this.#f64[r + 3]!];
  }

  /** Does what a half says to the sector at file position `position`, which lies at `to` of `view`. */
  apply(half: number, position: number, view: DataView, to: number): void {
    for (let i = 0; i < this.count(half); i++) {
      const [type, at, a, b] = this.#record(half, i);
      if (type === Type.entry) {
        if (at >= position && at < position + SECTOR) putEntry(view, to + at - position, a, b);
      } else setBits(view, to, (at - position) * 8 + a, b);
    }
  }
}

/** 2.5.1: state in bits 0..2, offset in MiB in bits 20..63. */
export function putEntry(view: DataView, at: number, state: number, offset: number): void {
  const mib = offset / MiB;
  view.setUint32(at, (state | ((mib % 4096) << 20)) >>> 0, true);
  view.setUint32(at + 4, Math.floor(mib / 4096), true);
}
export const stateOf = (view: DataView, at: number): number => view.getUint32(at, true) & 7;
export const offsetOf = (view: DataView, at: number): number =>
  (view.getUint32(at + 4, true) * 4096 + (view.getUint32(at, true) >>> 20)) * MiB;

/** States in which a block has a place in the file. */
export const hasPlace = (state: number): boolean =>
  state === BlockState.present || state === BlockState.partial;

/** Sets bits first..first+count-1 of the sector at `to`, as far as they are in it; both may lie outside. */
export function setBits(view: DataView, to: number, first: number, count: number): void {
  const end = Math.min(first + count, SECTOR * 8);
  for (let bit = Math.max(0, first); bit < end; ) {
    const at = to + (bit >> 3);
    if (bit % 8 === 0 && end - bit >= 8) {
      view.setUint8(at, 0xff);
      bit += 8;
    } else {
      view.setUint8(at, view.getUint8(at) | (1 << (bit % 8)));
      bit++;
    }
  }
}
