/**
 * One split virtqueue (VIRTIO 1.2 section 2.7) as the device sees it, over guest memory and `QueueState`.
 *
 * The used element of a finished request is written at `usedIdx` before the commit, where the driver does not look
 * yet; the ring's idx is published after it, from the state. So a crash between any two steps either repeats the
 * element at the same place or publishes the same idx again.
 *
 * The driver is hostile: every value is read once and bounded; `next` and the chain walker say why they stop.
 */
import type { View } from '@nyx/layout';
import type { GuestMemory } from '../memory.ts';
import type { QueueState } from './regs.ts';

const NO_INTERRUPT = 1; // avail.flags
const EMPTY16 = new Uint16Array(0);
const EMPTY32 = new Uint32Array(0);

/** 2.7.10: the new index passed the event index since `old`. */
const passed = (event: number, now: number, old: number): boolean =>
  ((now - event - 1) & 0xffff) < ((now - old) & 0xffff);

/**
 * One queue over its state and the rings in guest memory.
 * transient: views of the rings, mapped again by `map`; what was published and looked at is found in them anew.
 */
export class Virtqueue {
  /** Rings are mapped; `map` does it. */
  mapped = false;
  /** Offset of the descriptor table in the RAM mapping. */
  descAt = 0;
  #avail = EMPTY16;
  #used = EMPTY32;
  #used16 = EMPTY16;
  #usedAt = 0;
  #size = 0;
  /** idx that the ring shows, as far as this process knows; -1: unknown. */
  #published = -1;
  /** Used index up to which the driver was found to want no interrupt; -1: not looked. */
  #quiet = -1;

  constructor(
    readonly index: number,
    readonly maxSize: number,
    readonly state: View<typeof QueueState>,
    readonly memory: GuestMemory,
  ) {}

  get size(): number {
    return this.state.size || this.maxSize;
  }

  /** Finds the rings in guest memory. False when they are not all RAM, or not aligned as 2.7 demands. */
  map(): boolean {
    const { state: s, memory } = this;
    const size = this.size;
    const desc = s.desc % 16 === 0 ? memory.offset(s.desc, 16 * size) : -1;
    const avail = s.driver % 2 === 0 ? memory.offset(s.driver, 6 + 2 * size) : -1;
    const used = s.device % 4 === 0 ? memory.offset(s.device, 6 + 8 * size) : -1;
    if (desc < 0 || avail < 0 || used < 0) return false;
    this.descAt = desc;
    this.#avail = new Uint16Array(memory.buffer, avail, 3 + size);
    this.#used = new Uint32Array(memory.buffer, used, 1 + 2 * size);
    this.#used16 = new Uint16Array(memory.buffer, used, 3 + 4 * size);
    this.#usedAt = used;
    this.#size = size;
    this.#published = -1;
    this.#quiet = -1;
    this.mapped = true;
    return true;
  }

  unmap(): void {
    this.mapped = false;
    this.#avail = EMPTY16;
    this.#used = EMPTY32;
    this.#used16 = EMPTY16;
  }

  /** Head of the next available chain; -1: none; -2: the driver broke the ring (idx ran ahead, head out of range). */
  next(): number {
    const s = this.state;
    const ahead = (Atomics.load(this.#avail, 1) - s.availIdx) & 0xffff;
    if (ahead === 0) return -1;
    if (ahead > this.#size) return -2;
    const head = this.#avail[2 + (s.availIdx & (this.#size - 1))]!;
    if (head >= this.#size) return -2;
    s.availIdx = (s.availIdx + 1) & 0xffff;
    return head;
  }

  /**
   * Asks for a doorbell with the next chain. True when one came meanwhile: then call `next` again. Without the
   * event index the driver always rings, and nothing is written.
   */
  listen(eventIdx: boolean): boolean {
    if (!eventIdx) return false;
    const at = 2 + 4 * this.#size;
    const { availIdx } = this.state;
    if (this.#used16[at] !== availIdx) {
      this.memory.dirty(this.#usedAt + 2 * at, 2);
      // A sequentially consistent store is a full fence: the index below is not read before it.
      Atomics.store(this.#used16, at, availIdx);
    }
    return Atomics.load(this.#avail, 1) !== availIdx;
  }

  /** Writes the used element of a finished chain. In a handler; `settle` shows it to the driver. */
  push(head: number, length: number): void {
    const s = this.state;
    const at = 1 + 2 * (s.usedIdx & (this.#size - 1));
    this.memory.dirty(this.#usedAt + 4 * at, 8);
    this.#used[at] = head;
    this.#used[at + 1] = length;
    s.usedIdx = (s.usedIdx + 1) & 0xffff;
  }

  /** Whether the driver wants an interrupt for what was used since the last one (2.7.7.2). */
  wants(eventIdx: boolean): boolean {
    const { usedIdx, signalled } = this.state;
    const old = this.#quiet >= 0 ? this.#quiet : signalled;
    if (old === usedIdx) return false;
    if (eventIdx) return passed(Atomics.load(this.#avail, 2 + this.#size), usedIdx, old);
    return (Atomics.load(this.#avail, 0) & NO_INTERRUPT) === 0;
  }

  /** The interrupt was decided on, in a handler. */
  signal(): void {
    this.state.signalled = this.state.usedIdx;
    this.#quiet = -1;
  }

  /** Shows the driver the used index of the state: how many chains it had not seen. */
  show(): number {
    const { usedIdx } = this.state;
    if (usedIdx === this.#published) return 0;
    const shown = this.#used16[1]!;
    this.#published = usedIdx;
    if (shown === usedIdx) return 0;
    this.memory.dirty(this.#usedAt + 2, 2);
    Atomics.store(this.#used16, 1, usedIdx);
    return (usedIdx - shown) & 0xffff;
  }

  /**
   * Shows the driver the used index of the state, then looks again whether it wants an interrupt that was not
   * decided on: it may have asked between the decision and the index. True: call `signal` in an event.
   */
  settle(eventIdx: boolean): boolean {
    this.show();
    const { usedIdx, signalled } = this.state;
    if (signalled === usedIdx || this.#quiet === usedIdx) return false;
    if (this.wants(eventIdx)) return true;
    this.#quiet = usedIdx;
    return false;
  }

  /** Before a decision: what is known of the driver's wish is made part of the state. In a handler. */
  remember(): void {
    if (this.#quiet >= 0) this.state.signalled = this.#quiet;
    this.#quiet = -1;
  }
}
