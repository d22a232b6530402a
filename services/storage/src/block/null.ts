/** A disk that takes everything and gives zeroes, for measuring what is above it (QEMU's `null-co`). */
import {
  type BlockDriver,
  BlockOp,
  type BlockRequest,
  BlockResult,
  type Completed,
  RamBytes,
} from './block.ts';

export class NullDisk implements BlockDriver {
  readonly physicalBytes = 4096;
  readonly canDiscard = true;
  readonly #memory: RamBytes;
  readonly #done: BlockRequest[] = [];
  #count = 0;
  #told = false;

  constructor(
    readonly size: number,
    readonly readOnly: boolean,
    memory: ArrayBuffer,
    private readonly completed: Completed,
  ) {
    this.#memory = new RamBytes(memory);
  }

  submit(r: BlockRequest): void {
    r.result = BlockResult.ok;
    if (r.op === BlockOp.read)
      for (let i = 0; i < r.count; i++) this.#memory.fill(0, r.offsets[i]!, r.offsets[i]! + r.lengths[i]!);
    this.#done[this.#count++] = r;
  }
  kick(): void {
    if (this.#told || this.#count === 0) return;
    this.#told = true;
    setImmediate(this.#tell);
  }
  readonly #tell = (): void => {
    this.#told = false;
    this.poll();
  };
  poll(): void {
    if (this.#count === 0) return;
    const count = this.#count;
    this.#count = 0;
    this.completed(this.#done, count);
  }
  drain(): boolean {
    while (this.#count > 0) this.poll();
    return true;
  }
  fence(): void {}
  close(): void {}
}
