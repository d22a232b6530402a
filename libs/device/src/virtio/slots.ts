/**
 * Requests in flight. A slot of the state says which chain of which queue it holds; whether this process has the
 * request under way is known to this object only, so that a successor finds what is to be run again.
 */
import type { VirtioView } from './device.ts';

/** transient: what this process has under way a successor has not, and begins again. */
export class Slots {
  readonly length: number;
  readonly #state: VirtioView;
  /** Per slot: 1 while this process has the request under way. */
  readonly #begun: Uint8Array;
  /** Requests that this process has under way. */
  begunCount = 0;
  #hint = 0;

  constructor(state: VirtioView) {
    this.#state = state;
    this.length = state.owners.length;
    this.#begun = new Uint8Array(this.length);
  }

  /** A slot that nobody uses, or -1. */
  free(): number {
    const { owners } = this.#state;
    for (let n = 0; n < this.length; n++) {
      const slot = (this.#hint + n) % this.length;
      if (owners.get(slot) === 0 && !this.#begun[slot]) {
        this.#hint = slot;
        return slot;
      }
    }
    return -1;
  }

  /** Queue whose chain the slot holds, or -1. */
  queueOf(slot: number): number {
    return this.#state.owners.get(slot) - 1;
  }
  head(slot: number): number {
    return this.#state.heads.get(slot);
  }

  /** In a handler: the slot holds this chain from the commit on. */
  hold(slot: number, queue: number, head: number): void {
    const v = this.#state.virtio.at(0);
    this.#state.heads.set(slot, head);
    this.#state.orders.set(slot, v.order);
    this.#state.owners.set(slot, queue + 1);
    v.order = (v.order + 1) & 0xffff;
  }
  /** In a handler: the slot is free from the commit on. */
  release(slot: number): void {
    this.#state.owners.set(slot, 0);
  }
  releaseAll(): void {
    this.#state.owners.fill(0);
  }

  begin(slot: number): void {
    this.#begun[slot] = 1;
    this.begunCount++;
  }
  end(slot: number): void {
    this.#begun[slot] = 0;
    this.begunCount--;
  }
  isBegun(slot: number): boolean {
    return this.#begun[slot] === 1;
  }

  /** Slots of a predecessor's requests, oldest first. */
  leftover(): number[] {
    const { owners, orders } = this.#state;
    const { order } = this.#state.virtio.at(0);
    const slots: number[] = [];
    for (let slot = 0; slot < this.length; slot++)
      if (owners.get(slot) !== 0 && !this.#begun[slot]) slots.push(slot);
    const age = (slot: number): number => (order - orders.get(slot)) & 0xffff;
    return slots.sort((a, b) => age(b) - age(a));
  }
}
