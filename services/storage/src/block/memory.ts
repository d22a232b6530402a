/** A disk in private memory, for tests and benchmarks. */
import {
  type BlockDriver,
  BlockOp,
  type BlockRequest,
  BlockResult,
  type Completed,
  RamBytes,
} from './block.ts';

export interface MemoryDiskOptions {
  readOnly?: boolean;
  /** Requests are finished when `poll` is called; else only by `complete` and `drain`. */
  eager?: boolean;
  /** Called before a request takes effect; a BlockResult other than ok makes it fail. */
  before?(request: BlockRequest): number;
}

/** The bytes, which outlive the drivers over them as a file outlives the processes that open it. */
export class MemoryDisk implements BlockDriver {
  readonly physicalBytes = 4096;
  readonly canDiscard = true;
  readonly readOnly: boolean;
  readonly #memory: RamBytes;
  readonly #pending: BlockRequest[] = [];
  #done: BlockRequest[] = [];

  constructor(
    readonly content: Uint8Array,
    memory: ArrayBuffer,
    private readonly completed: Completed,
    private readonly options: MemoryDiskOptions = {},
  ) {
    this.#memory = new RamBytes(memory);
    this.readOnly = options.readOnly ?? false;
  }

  get size(): number {
    return this.content.length;
  }
  get pending(): number {
    return this.#pending.length;
  }

  submit(request: BlockRequest): void {
    this.#pending.push(request);
  }
  kick(): void {}

  /** Finishes the n oldest, or in the order that `pick` gives; reports them as one batch. */
  complete(n = this.#pending.length, pick: (pending: number) => number = () => 0): void {
    for (let i = 0; i < n && this.#pending.length > 0; i++) {
      const [request] = this.#pending.splice(pick(this.#pending.length), 1) as [BlockRequest];
      this.execute(request);
      this.#done.push(request);
    }
    const done = this.#done;
    this.#done = [];
    if (done.length > 0) this.completed(done, done.length);
  }

  /** The effect of one request. */
  execute(r: BlockRequest): void {
    r.result = this.options.before?.(r) ?? BlockResult.ok;
    if (r.result !== BlockResult.ok) return;
    if (r.op === BlockOp.discard || r.op === BlockOp.writeZeroes)
      this.content.fill(0, r.position, r.position + r.bytes);
    if (r.op !== BlockOp.read && r.op !== BlockOp.write) return;
    let at = r.position;
    for (let i = 0; i < r.count; i++) {
      const [offset, length] = [r.offsets[i]!, r.lengths[i]!];
      if (r.op === BlockOp.read) this.#memory.set(this.content.subarray(at, at + length), offset);
      else this.content.set(this.#memory.subarray(offset, offset + length), at);
      at += length;
    }
  }

  /** The process that submitted them died: each request under way is lost (0), done (1), or half done (0.5). */
  abandon(fate: () => number): void {
    for (const r of this.#pending.splice(0)) {
      const done = fate();
      if (done === 1) this.execute(r);
      else if (done > 0 && r.op === BlockOp.write && r.count > 0) {
        const half = Math.floor(r.lengths[0]! / 2);
        this.content.set(this.#memory.subarray(r.offsets[0]!, r.offsets[0]! + half), r.position);
      }
    }
    this.#done = [];
  }

  poll(): void {
    if (this.options.eager) this.complete();
  }
  drain(): boolean {
    this.complete();
    return true;
  }
  fence(): void {}
  close(): void {}
}
