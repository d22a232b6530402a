/** What an allocating write holds while it is under way, and its private buffers. */
import type { BlockRequest } from '../block.ts';
import type { HostQueue } from '../host.ts';
import type { Op } from '../ops.ts';

export class Allocation {
  request: BlockRequest | undefined;
  /** Whole clusters on the disk: first byte, and the one behind. */
  start = 0;
  end = 0;
  clusters = 0;
  /** File offset of the first table entry. */
  entryAt = 0;
  host = 0;
  /** Of the journal; -1: the cluster was there. */
  intent = -1;
  bitmapHi = 0;
  bitmapLo = 0;
  free = 0;
  freeCount = 0;
  buffer = 0;
  /** Reads that the write waits for. */
  parts = 0;
  failed = 0;
  write: Op | undefined;
}

/** Buffers of two clusters each: what comes before the guest's bytes, and what comes after. Bounded. */
export class Bounces {
  readonly #buffers: Uint8Array[] = [];
  readonly #index: number[] = [];
  readonly #byIndex = new Map<number, Uint8Array>();
  readonly #free: number[] = [];
  readonly #most: number;

  constructor(
    private readonly queue: HostQueue,
    private readonly cluster: number,
  ) {
    this.#most = Math.max(2, Math.min(64, Math.floor((8 << 20) / (2 * cluster))));
  }

  /** -1 when all are in use. */
  take(): number {
    const free = this.#free.pop();
    if (free !== undefined) return free;
    if (this.#buffers.length === this.#most) return -1;
    const buffer = new ArrayBuffer(2 * this.cluster);
    const bytes = new Uint8Array(buffer);
    this.#buffers.push(bytes);
    const index = this.queue.addMemory(buffer);
    this.#index.push(index);
    this.#byIndex.set(index, bytes);
    return this.#buffers.length - 1;
  }
  give(i: number): void {
    this.#free.push(i);
  }
  /** As the queue knows it. */
  index(i: number): number {
    return this.#index[i]!;
  }
  bytes(index: number): Uint8Array {
    return this.#byIndex.get(index)!;
  }
}
