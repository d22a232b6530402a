/**
 * Guest memory for DMA: one mapping of the RAM memfd, seen through guest-physical addresses. Addresses are
 * numbers (exact below 2^53). Nothing throws on an address that the guest chose: `offset` says -1.
 */
import { Memory } from '@nyx/layout';

const FOUR_GIB = 0x1_0000_0000;

/** A checkpoint's store of pages. */
export interface PageKeeper {
  /** There is a checkpoint. */
  readonly saving: boolean;
  save(at: number, length: number): void;
}

export class GuestMemory {
  readonly view: DataView;
  /** Pages (4 KiB) the vCPU process decoded instructions from; see wire.PageMap. Empty without a soft CPU. */
  #code: Uint8Array = new Uint8Array(0);
  #dirty: Uint8Array = new Uint8Array(0);
  #attend: () => void = () => {};
  #store: PageKeeper | undefined;
  /** Faults on purpose: may put another place, or -1, for the one that was found. */
  inject: ((address: number, length: number, at: number) => number) | undefined;
  /** Hears of every address that was asked for and is not memory. */
  refused: ((address: number, length: number) => void) | undefined;

  /**
   * @param buffer the whole RAM memfd, mapped
   * @param lowBytes size of the part that lies at guest address 0; the rest lies at 4 GiB
   */
  constructor(
    readonly buffer: ArrayBuffer,
    readonly lowBytes: number,
  ) {
    this.view = new DataView(buffer);
  }

  /**
   * Connects the page map; `attend` makes all vCPUs look at the dirty bitmap. What `store` has is asked to save pages before they
   * are written.
   */
  attachPageMap(code: Uint8Array, dirty: Uint8Array, attend: () => void, store?: PageKeeper): void {
    this.#store = store;
    this.#code = code;
    this.#dirty = dirty;
    this.#attend = attend;
  }

  /** Offset in the memfd of `length` bytes at a guest address, or -1 when they are not all RAM. */
  offset(address: number, length: number): number {
    const found = this.find(address, length);
    const at = this.inject === undefined ? found : this.inject(address, length, found);
    if (at < 0) this.refused?.(address, length);
    return at;
  }

  /** Where it lies; a memory of another shape than low and high part has its own. */
  protected find(address: number, length: number): number {
    if (address + length <= this.lowBytes) return address;
    if (address >= FOUR_GIB) {
      const at = address - FOUR_GIB + this.lowBytes;
      if (at + length <= this.buffer.byteLength) return at;
    }
    return -1;
  }

  /** Tells that DMA is about to change `length` bytes at memfd offset `at`. Call it before writing. */
  dirty(at: number, length: number): void {
    const dirty = this.#dirty;
    if (dirty.length === 0 || length === 0) return;
    if (this.#store?.saving) this.#store.save(at, length);
    const last = Math.floor((at + length - 1) / 4096);
    let hit = 0;
    for (let page = Math.floor(at / 4096); page <= last; page++) {
      const byte = page >>> 3;
      const bit = 1 << (page & 7);
      // Several device processes share the bitmap.
      Atomics.or(dirty, byte, bit);
      hit |= this.#code[byte]! & bit;
    }
    if (hit) this.#attend();
  }

  /** Bytes at memfd offset `at`; the caller has asked `offset` first. */
  bytes(at: number, length: number): Uint8Array {
    return new Uint8Array(this.buffer, at, length);
  }
}

/** Private memory for tests. */
export const testMemory = (bytes: number): GuestMemory =>
  new GuestMemory(new Memory(new ArrayBuffer(bytes)).buffer as ArrayBuffer, bytes);
