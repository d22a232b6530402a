/**
 * Requests of the guest on their way to a back-end and back. The back-end works on rings of ours, in memory that it
 * shares with us alone; their descriptors name guest memory. So whatever becomes of the back-end, we know which
 * requests it had not finished, and hand them to the next one: the specification's in-flight region is not needed, and a
 * back-end that offers none loses nothing either.
 *
 *   take -> chain into the slot's table -> offered on the ring of its queue -> used -> finished
 *                        ^------------------- back-end gone: offered again, oldest first
 */
import type { Chain, GuestMemory } from '@nyx/device';
import { eventfdWrite } from '@nyx/native';
import { DriverRing, ringLayout } from '@nyx/vhost-user';
import { VhostLimit } from './regs.ts';

const NEXT = 1;
const WRITE = 2;
/** Descriptors of the longest chain. */
const CHAIN = 256;
const TABLE = 16 * CHAIN;

const layout = ringLayout(VhostLimit.ringSize);
const tablesAt = VhostLimit.queues * layout.bytes;
/** Bytes of the memory that is shared with the back-end. */
export const relayBytes = tablesAt + VhostLimit.slots * TABLE;

export interface RelayEvents {
  finish(slot: number, written: number): void;
}

/** transient: a successor takes the guest's requests again. */
export class Relay {
  readonly rings: readonly DriverRing[];
  /** The back-end takes requests. */
  running = false;
  indirect = false;
  eventIdx = false;
  readonly #memory: GuestMemory;
  readonly #view: DataView;
  readonly #kicks: readonly number[];
  readonly #finish: RelayEvents['finish'];
  /** Per slot: its queue + 1 (0: free), length of its chain, writable bytes, order of arrival, 1 while offered. */
  readonly #queues = new Uint8Array(VhostLimit.slots);
  readonly #counts = new Uint16Array(VhostLimit.slots);
  readonly #writable = new Float64Array(VhostLimit.slots);
  readonly #orders = new Float64Array(VhostLimit.slots);
  readonly #offered = new Uint8Array(VhostLimit.slots);
  #order = 0;
  #waiting = 0;
  readonly #done = (slot: number, length: number): void => this.#finished(slot, length);

  /**
   * @param buffer of `relayBytes`
   * @param base address of it in descriptors
   * @param kicks eventfd of each queue
   */
  constructor(
    memory: GuestMemory,
    buffer: ArrayBuffer,
    base: number,
    kicks: readonly number[],
    events: RelayEvents,
  ) {
    this.#memory = memory;
    this.#view = new DataView(buffer);
    this.#kicks = kicks;
    this.#finish = (slot, written) => events.finish(slot, written);
    this.rings = kicks.map((_, q) => new DriverRing(buffer, q * layout.bytes, VhostLimit.ringSize, base));
  }

  /** Under way, offered or not. */
  get count(): number {
    let n = 0;
    for (const q of this.#queues) if (q > 0) n++;
    return n;
  }

  /** A chain of the guest. Its addresses are offsets in guest memory, which is how the back-end sees it. */
  take(slot: number, queue: number, chain: Chain): void {
    const v = this.#view;
    let at = tablesAt + slot * TABLE;
    for (let i = 0; i < chain.count; i++, at += 16) {
      const address = chain.offsets[i]!;
      const write = i >= chain.readable;
      if (write) this.#memory.dirty(address, chain.lengths[i]!);
      v.setUint32(at, address >>> 0, true);
      v.setUint32(at + 4, Math.floor(address / 2 ** 32), true);
      v.setUint32(at + 8, chain.lengths[i]!, true);
      v.setUint16(at + 12, (write ? WRITE : 0) | (i + 1 < chain.count ? NEXT : 0), true);
      v.setUint16(at + 14, i + 1 < chain.count ? i + 1 : 0, true);
    }
    this.#queues[slot] = queue + 1;
    this.#counts[slot] = chain.count;
    this.#writable[slot] = chain.writableBytes;
    this.#orders[slot] = this.#order++;
    this.#offered[slot] = 0;
    this.#waiting++;
  }

  /** Offers what waits, oldest first. */
  submit(): void {
    if (!this.running) return;
    if (this.#waiting > 0) {
      const slots: number[] = [];
      for (let s = 0; s < VhostLimit.slots; s++) if (this.#queues[s]! > 0 && !this.#offered[s]) slots.push(s);
      slots.sort((a, b) => this.#orders[a]! - this.#orders[b]!);
      /** Queues without room: what comes later may not overtake. */
      let full = 0;
      for (const s of slots) {
        const q = this.#queues[s]! - 1;
        if (full & (1 << q)) continue;
        if (this.rings[q]!.add(s, tablesAt + s * TABLE, this.#counts[s]!, this.indirect)) {
          this.#offered[s] = 1;
          this.#waiting--;
        } else full |= 1 << q;
      }
    }
    for (const [q, ring] of this.rings.entries())
      if (ring.publish(this.eventIdx)) eventfdWrite(this.#kicks[q]!);
  }

  /** Takes back what the back-end has finished. False when it broke the rules. In a handler. */
  harvest(): boolean {
    for (const ring of this.rings) if (!ring.harvest(this.#done)) return false;
    return true;
  }

  #finished(slot: number, length: number): void {
    if (this.#queues[slot] === 0 || !this.#offered[slot]) return;
    const v = this.#view;
    // What it wrote, the CPUs are to see: code among it too.
    let at = tablesAt + slot * TABLE;
    for (let i = 0; i < this.#counts[slot]!; i++, at += 16)
      if (v.getUint16(at + 12, true) & WRITE)
        this.#memory.dirty(
          v.getUint32(at + 4, true) * 2 ** 32 + v.getUint32(at, true),
          v.getUint32(at + 8, true),
        );
    this.#queues[slot] = 0;
    this.#offered[slot] = 0;
    this.#finish(slot, Math.min(length, this.#writable[slot]!));
  }

  /** The back-end is gone, or about to be: rings begin anew, what it had is to be offered again. */
  stopped(): void {
    this.running = false;
    this.#waiting = 0;
    for (let s = 0; s < VhostLimit.slots; s++) {
      this.#offered[s] = 0;
      if (this.#queues[s]! > 0) this.#waiting++;
    }
    for (const ring of this.rings) ring.reset();
  }

  /** Forgets a request that nobody waits for any more; the back-end does not have it. */
  drop(): number[] {
    const slots: number[] = [];
    for (let s = 0; s < VhostLimit.slots; s++)
      if (this.#queues[s]! > 0) {
        slots.push(s);
        this.#queues[s] = 0;
      }
    this.#waiting = 0;
    return slots;
  }
}
