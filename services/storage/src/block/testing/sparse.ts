/**
 * The bytes of a file in memory. Chunks that nobody wrote to are nowhere, and those of a copy are shared until one side
 * writes: a file of many MiB of which a test touches some KiB costs those.
 */
const CHUNK = 1 << 16;

export class Sparse {
  readonly #chunks: (Uint8Array | undefined)[];
  /** Chunks that are nobody else's. */
  readonly #own: boolean[];

  /** @param size of the file at most, bytes */
  constructor(readonly size: number) {
    const count = Math.ceil(size / CHUNK);
    this.#chunks = new Array(count).fill(undefined);
    this.#own = new Array(count).fill(false);
  }

  /** @param content must not change afterwards */
  static of(content: Uint8Array, size: number): Sparse {
    const s = new Sparse(size);
    const whole = Math.floor(content.length / CHUNK);
    for (let i = 0; i < whole; i++) s.#chunks[i] = content.subarray(i * CHUNK, (i + 1) * CHUNK);
    s.set(content.subarray(whole * CHUNK), whole * CHUNK);
    return s;
  }

  copy(): Sparse {
    const s = new Sparse(this.size);
    for (const [i, chunk] of this.#chunks.entries()) s.#chunks[i] = chunk;
    this.#own.fill(false);
    return s;
  }

  /** The pieces of a range: index of the chunk, first byte in it, bytes. */
  static *#pieces(at: number, bytes: number): Generator<[index: number, from: number, n: number]> {
    for (const end = at + bytes; at < end; ) {
      const from = at % CHUNK;
      const n = Math.min(end - at, CHUNK - from);
      yield [(at - from) / CHUNK, from, n];
      at += n;
    }
  }

  #writable(index: number): Uint8Array {
    const old = this.#chunks[index];
    if (old && this.#own[index]) return old;
    const chunk = old ? old.slice() : new Uint8Array(CHUNK);
    this.#chunks[index] = chunk;
    this.#own[index] = true;
    return chunk;
  }

  /** Writes `bytes`. @throws RangeError beyond the size */
  set(bytes: Uint8Array, at: number): void {
    if (at < 0 || at + bytes.length > this.size) throw new RangeError(`a write at ${at}+${bytes.length}`);
    let done = 0;
    for (const [index, from, n] of Sparse.#pieces(at, bytes.length)) {
      this.#writable(index).set(bytes.subarray(done, done + n), from);
      done += n;
    }
  }

  zero(from: number, to: number): void {
    for (const [index, at, n] of Sparse.#pieces(from, to - from)) {
      if (n === CHUNK) this.#chunks[index] = undefined;
      else if (this.#chunks[index]) this.#writable(index).fill(0, at, at + n);
    }
  }

  /** Reads `to.length` bytes. */
  get(to: Uint8Array, at: number): void {
    let done = 0;
    for (const [index, from, n] of Sparse.#pieces(at, to.length)) {
      const chunk = this.#chunks[index];
      if (chunk) to.set(chunk.subarray(from, from + n), done);
      else to.fill(0, done, done + n);
      done += n;
    }
  }
}
