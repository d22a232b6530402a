/** A driver over another one: passes everything on, so that a filter says only what it does differently. */
import type { BlockDriver, BlockOrder, BlockRequest, Completed, OpenBlock } from './block.ts';

export abstract class Filter implements BlockDriver {
  protected readonly inner: BlockDriver;

  constructor(
    open: OpenBlock,
    memory: ArrayBuffer,
    protected readonly completed: Completed,
  ) {
    this.inner = open(memory, (requests, count) => this.finished(requests, count));
  }

  get size(): number {
    return this.inner.size;
  }
  get readOnly(): boolean {
    return this.inner.readOnly;
  }
  get physicalBytes(): number {
    return this.inner.physicalBytes;
  }
  get canDiscard(): boolean {
    return this.inner.canDiscard;
  }

  submit(r: BlockRequest): void {
    this.inner.submit(r);
  }
  /** What the driver below reports. */
  protected finished(requests: readonly BlockRequest[], count: number): void {
    this.completed(requests, count);
  }
  kick(): void {
    this.inner.kick();
  }
  poll(): void {
    this.inner.poll();
  }
  drain(timeoutMs: number): boolean {
    return this.inner.drain(timeoutMs);
  }
  fence(): void {
    this.inner.fence();
  }
  order(order: BlockOrder, fds: readonly number[]): void {
    this.inner.order?.(order, fds);
  }
  close(): void {
    this.inner.close();
  }
}
