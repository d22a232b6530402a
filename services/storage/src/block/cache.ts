/**
 * A bounded cache of metadata: slices of tables, four ways a set, written through by its users. Nothing is allocated
 * after it was made.
 */
import { type HostIo, readPadded } from './host.ts';

const WAYS = 4;

export class SliceCache {
  readonly view: DataView;
  readonly #buffer: ArrayBuffer;
  readonly #tags: Float64Array;
  readonly #used: Float64Array;
  readonly #sets: number;
  #clock = 0;
  misses = 0;

  /**
   * @param sliceBytes power of two
   * @param slices multiple of 4, power of two
   * @param loaded called after a slice was read, with its file position and where it lies in `view`
   */
  constructor(
    private readonly io: HostIo,
    private readonly fd: number,
    readonly sliceBytes: number,
    slices: number,
    private readonly loaded?: (position: number, at: number) => void,
  ) {
    this.#buffer = new ArrayBuffer(sliceBytes * slices);
    this.view = new DataView(this.#buffer);
    this.#tags = new Float64Array(slices).fill(-1);
    this.#used = new Float64Array(slices);
    this.#sets = slices / WAYS;
  }

  get buffer(): ArrayBuffer {
    return this.#buffer;
  }

  /** Where in `view` the byte at a file position lies; valid until the next call. @throws the host's error */
  at(position: number): number {
    const tag = Math.floor(position / this.sliceBytes);
    const first = (tag % this.#sets) * WAYS;
    let victim = first;
    for (let i = first; i < first + WAYS; i++) {
      if (this.#tags[i] === tag) {
        this.#used[i] = ++this.#clock;
        return i * this.sliceBytes + (position - tag * this.sliceBytes);
      }
      if (this.#used[i]! < this.#used[victim]!) victim = i;
    }
    this.misses++;
    this.#tags[victim] = -1;
    const at = victim * this.sliceBytes;
    readPadded(this.io, this.fd, this.#buffer, at, this.sliceBytes, tag * this.sliceBytes);
    this.loaded?.(tag * this.sliceBytes, at);
    this.#tags[victim] = tag;
    this.#used[victim] = ++this.#clock;
    return at + (position - tag * this.sliceBytes);
  }

  /** Where it lies if it is here, else -1. */
  peek(position: number): number {
    const tag = Math.floor(position / this.sliceBytes);
    const first = (tag % this.#sets) * WAYS;
    for (let i = first; i < first + WAYS; i++)
      if (this.#tags[i] === tag) return i * this.sliceBytes + (position - tag * this.sliceBytes);
    return -1;
  }

  /** Forgets a range of the file. */
  drop(position: number, bytes: number): void {
    const from = Math.floor(position / this.sliceBytes);
    const to = Math.floor((position + bytes - 1) / this.sliceBytes);
    for (let i = 0; i < this.#tags.length; i++)
      if (this.#tags[i]! >= from && this.#tags[i]! <= to) this.#tags[i] = -1;
  }
}
