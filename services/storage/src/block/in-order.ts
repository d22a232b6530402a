/**
 * A disk that does one request after the other: completions then come in an order that does not depend on how fast the
 * host's disk is (deterministic mode).
 */
import type { BlockDriver, BlockRequest, Completed, OpenBlock } from './block.ts';

class InOrder implements BlockDriver {
  readonly #inner: BlockDriver;
  /** Submitted and not finished, the first of them to the driver. */
  readonly #queue: BlockRequest[] = [];
  #running = false;

  constructor(open: OpenBlock, memory: ArrayBuffer, completed: Completed) {
    this.#inner = open(memory, (requests, count) => {
      this.#queue.shift();
      this.#running = false;
      this.kick();
      completed(requests, count);
    });
  }

  get size(): number {
    return this.#inner.size;
  }
  get readOnly(): boolean {
    return this.#inner.readOnly;
  }
  get physicalBytes(): number {
    return this.#inner.physicalBytes;
  }
  get canDiscard(): boolean {
    return this.#inner.canDiscard;
  }
  submit(r: BlockRequest): void {
    this.#queue.push(r);
  }
  kick(): void {
    const [first] = this.#queue;
    if (this.#running || first === undefined) return;
    this.#running = true;
    this.#inner.submit(first);
    this.#inner.kick();
  }
  poll(): void {
    this.#inner.poll();
  }
  drain(timeoutMs: number): boolean {
    const end = performance.now() + timeoutMs;
    while (this.#queue.length > 0) {
      this.kick();
      if (!this.#inner.drain(Math.max(0, end - performance.now()))) return false;
    }
    return true;
  }
  fence(): void {
    this.#inner.fence();
  }
  close(): void {
    this.#inner.close();
  }
}

/** The disk that `open` opens, one request at a time. */
export const inOrder =
  (open: OpenBlock): OpenBlock =>
  (memory, completed) =>
    new InOrder(open, memory, completed);
