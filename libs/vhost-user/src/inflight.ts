/**
 * In-flight tracking of a split ring (INFLIGHT_SHMFD): memory that outlives the back-end and says which chains it had
 * taken from the available ring and not yet put into the used ring. One region per ring:
 *
 *     0 features, 64 bits: 0     8 version: 1    10 desc_num    12 last_batch_head    14 used_idx
 *    16 for each descriptor: inflight (8 bits), 5 bytes of padding, next (16 bits), counter (64 bits)
 *
 * The order of the stores is the specification's; a process that is killed between any two of them leaves what
 * `recover` can tell apart.
 */
const HEAD = 16;
const ENTRY = 16;
const VERSION = 1;

/** Bytes of the region of a ring. */
export const inflightBytes = (queueSize: number): number => Math.ceil((HEAD + ENTRY * queueSize) / 64) * 64;

export class Inflight {
  readonly #view: DataView;
  readonly #size: number;
  #counter = 1;
  /** Heads of the batch whose used index is not shown yet. */
  readonly #batch: Uint16Array;
  #batchCount = 0;

  /** @param at of the ring's region, which must have room for `queueSize` */
  constructor(buffer: ArrayBuffer, at: number, queueSize: number) {
    this.#view = new DataView(buffer, at, inflightBytes(queueSize));
    this.#size = queueSize;
    this.#batch = new Uint16Array(queueSize);
  }

  /**
   * What a predecessor left: heads it had taken, in that order; undefined when nobody used the region before.
   * @param usedIdx that the used ring shows
   */
  recover(usedIdx: number): number[] | undefined {
    const v = this.#view;
    this.#batchCount = 0;
    if (v.getUint16(8, true) === 0) {
      v.setUint16(10, this.#size, true);
      v.setUint16(14, usedIdx, true);
      v.setUint16(8, VERSION, true);
      return undefined;
    }
    const before = v.getUint16(14, true);
    if (before !== usedIdx) {
      // Killed between showing the used index and clearing the batch.
      let head = v.getUint16(12, true);
      for (let n = (usedIdx - before) & 0xffff; n > 0 && n <= this.#size && head < this.#size; n--) {
        v.setUint8(HEAD + ENTRY * head, 0);
        head = v.getUint16(HEAD + ENTRY * head + 6, true);
      }
      v.setUint16(14, usedIdx, true);
    }
    const found: { head: number; counter: number }[] = [];
    for (let head = 0; head < this.#size; head++) {
      const at = HEAD + ENTRY * head;
      if (v.getUint8(at) !== 1) continue;
      const counter = v.getUint32(at + 12, true) * 2 ** 32 + v.getUint32(at + 8, true);
      found.push({ head, counter });
      if (counter >= this.#counter) this.#counter = counter + 1;
    }
    return found.sort((a, b) => a.counter - b.counter).map((f) => f.head);
  }

  /** The chain was taken from the available ring; before anything is done for it. */
  take(head: number): void {
    const at = HEAD + ENTRY * head;
    const v = this.#view;
    const counter = this.#counter++;
    v.setUint32(at + 8, counter >>> 0, true);
    v.setUint32(at + 12, Math.floor(counter / 2 ** 32), true);
    v.setUint8(at, 1);
  }

  /** The chain is done: before its used element is shown. */
  finish(head: number): void {
    const v = this.#view;
    v.setUint16(HEAD + ENTRY * head + 6, v.getUint16(12, true), true);
    v.setUint16(12, head, true);
    // A guest that offers a chain again before it got it back must not overflow what is sized for one that does not.
    if (this.#batchCount < this.#size) this.#batch[this.#batchCount++] = head;
  }

  /** The used ring shows the batch. */
  shown(usedIdx: number): void {
    if (this.#batchCount === 0) return;
    for (let i = 0; i < this.#batchCount; i++) this.#view.setUint8(HEAD + ENTRY * this.#batch[i]!, 0);
    this.#batchCount = 0;
    this.#view.setUint16(14, usedIdx, true);
  }
}
