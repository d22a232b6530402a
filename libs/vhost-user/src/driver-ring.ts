/**
 * The driver's side of a split virtqueue (VIRTIO 1.2 section 2.7), for requests that are known by their slot: what the
 * front-end's device lays before a back-end. The back-end is not trusted: what it writes is read once and bounded.
 */
const NEXT = 1;
const INDIRECT = 4;
const NO_NOTIFY = 1; // used.flags

const DESC = 16;

/** Bytes of a ring, and where its parts are. */
export const ringLayout = (size: number) => {
  const avail = DESC * size;
  const used = Math.ceil((avail + 6 + 2 * size) / 4096) * 4096;
  return { desc: 0, avail, used, bytes: Math.ceil((used + 6 + 8 * size) / 4096) * 4096 };
};

/** transient: rings begin anew with every connection. */
export class DriverRing {
  readonly layout;
  readonly #view: DataView;
  readonly #avail: Uint16Array;
  readonly #used: Uint16Array;
  /** Free descriptors, a stack. */
  readonly #free: Uint16Array;
  #freeCount = 0;
  /** By first descriptor: slot + 1, and descriptors of its chain. */
  readonly #slots: Uint16Array;
  readonly #counts: Uint16Array;
  #availIdx = 0;
  #shown = 0;
  #lastUsed = 0;

  /**
   * @param buffer shared with the back-end
   * @param at of the ring in it, `ringLayout(size).bytes` long
   * @param base address of the buffer's first byte in descriptors
   */
  constructor(
    buffer: ArrayBuffer,
    readonly at: number,
    readonly size: number,
    readonly base: number,
  ) {
    this.layout = ringLayout(size);
    this.#view = new DataView(buffer);
    this.#avail = new Uint16Array(buffer, at + this.layout.avail, 3 + size);
    this.#used = new Uint16Array(buffer, at + this.layout.used, 3 + 4 * size);
    this.#free = new Uint16Array(size);
    this.#slots = new Uint16Array(size);
    this.#counts = new Uint16Array(size);
    this.reset();
  }

  /** Empty: a back-end will begin at index 0. */
  reset(): void {
    this.#avail.fill(0);
    this.#used.fill(0);
    this.#slots.fill(0);
    for (let i = 0; i < this.size; i++) this.#free[i] = this.size - 1 - i;
    this.#freeCount = this.size;
    this.#availIdx = 0;
    this.#shown = 0;
    this.#lastUsed = 0;
  }

  /**
   * Offers a chain, the `count` descriptors at byte `table` of the buffer, without showing it.
   * @param indirect the table itself is offered; else it is copied into the ring
   * @returns false when there is no room now
   */
  add(slot: number, table: number, count: number, indirect: boolean): boolean {
    const need = indirect ? 1 : count;
    if (this.#freeCount < need) return false;
    const v = this.#view;
    const head = this.#free[this.#freeCount - 1]!;
    if (indirect) this.#describe(head, this.base + table, DESC * count, INDIRECT, 0);
    else
      for (let i = 0; i < count; i++) {
        const from = table + DESC * i;
        const last = i + 1 === count;
        const next = last ? 0 : this.#free[this.#freeCount - 2 - i]!;
        const address = v.getUint32(from + 4, true) * 2 ** 32 + v.getUint32(from, true);
        const flags = v.getUint16(from + 12, true) & ~NEXT;
        this.#describe(
          this.#free[this.#freeCount - 1 - i]!,
          address,
          v.getUint32(from + 8, true),
          last ? flags : flags | NEXT,
          next,
        );
      }
    this.#freeCount -= need;
    this.#slots[head] = slot + 1;
    this.#counts[head] = need;
    this.#avail[2 + (this.#availIdx & (this.size - 1))] = head;
    this.#availIdx = (this.#availIdx + 1) & 0xffff;
    return true;
  }

  #describe(i: number, address: number, length: number, flags: number, next: number): void {
    const at = this.at + DESC * i;
    const v = this.#view;
    v.setUint32(at, address >>> 0, true);
    v.setUint32(at + 4, Math.floor(address / 2 ** 32), true);
    v.setUint32(at + 8, length, true);
    v.setUint16(at + 12, flags, true);
    v.setUint16(at + 14, next, true);
  }

  /** Shows what was added. True: the back-end wants a kick. */
  publish(eventIdx: boolean): boolean {
    const old = this.#shown;
    const now = this.#availIdx;
    if (old === now) return false;
    // Sequentially consistent: the wish below is not read before it.
    Atomics.store(this.#avail, 1, now);
    this.#shown = now;
    if (!eventIdx) return (Atomics.load(this.#used, 0) & NO_NOTIFY) === 0;
    const event = Atomics.load(this.#used, 2 + 4 * this.size);
    return ((now - event - 1) & 0xffff) < ((now - old) & 0xffff);
  }

  /**
   * Reports what was used, then asks for a call with the next one and looks again.
   * @returns false when the back-end broke the rules
   */
  harvest(done: (slot: number, length: number) => void): boolean {
    for (;;) {
      const idx = Atomics.load(this.#used, 1);
      let ahead = (idx - this.#lastUsed) & 0xffff;
      if (ahead > this.size) return false;
      for (; ahead > 0; ahead--) {
        const at = 2 + 4 * (this.#lastUsed & (this.size - 1));
        const head = this.#used[at]! + this.#used[at + 1]! * 65536;
        const length = this.#used[at + 2]! + this.#used[at + 3]! * 65536;
        const slot = head < this.size ? this.#slots[head]! - 1 : -1;
        if (slot < 0) return false;
        this.#release(head);
        this.#lastUsed = (this.#lastUsed + 1) & 0xffff;
        done(slot, length);
      }
      if (this.#avail[2 + this.size] !== this.#lastUsed)
        Atomics.store(this.#avail, 2 + this.size, this.#lastUsed);
      if (Atomics.load(this.#used, 1) === this.#lastUsed) return true;
    }
  }

  /** The chain's descriptors are free again; `next` is read from what we wrote, if the back-end left it so. */
  #release(head: number): void {
    this.#slots[head] = 0;
    let i = head;
    for (let n = this.#counts[head]!; n > 0 && this.#freeCount < this.size; n--) {
      this.#free[this.#freeCount++] = i;
      i = this.#view.getUint16(this.at + DESC * i + 14, true) & (this.size - 1);
    }
  }
}
