/**
 * Walks a descriptor chain (VIRTIO 1.2 sections 2.7.4 and 2.7.5) into flat arrays of memory pieces: first those that
 * the device reads, then those that it writes. One object is reused for all chains. Nothing the guest writes can
 * make it throw, loop or leave guest memory.
 */
import type { GuestMemory } from '../memory.ts';
import type { Virtqueue } from './queue.ts';

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;

/** Longest chain that is taken, with the descriptors of its indirect table. */
export const maxChain = 256;

/** One chain, as it was read last. transient: a successor reads it again from the ring. */
export class Chain {
  /** Pieces: offset in the RAM mapping and bytes of each. Pieces 0..readable-1 are read, the rest written. */
  readonly offsets = new Float64Array(maxChain);
  readonly lengths = new Float64Array(maxChain);
  count = 0;
  readable = 0;
  readableBytes = 0;
  writableBytes = 0;
  /** Why the last `read` failed. */
  error = '';

  constructor(private readonly memory: GuestMemory) {}

  #fail(error: string): boolean {
    this.error = error;
    return false;
  }

  /** Reads the chain that begins at `head`. False when it breaks the rules: the device needs a reset. */
  read(queue: Virtqueue, head: number, indirect: boolean): boolean {
    const { memory } = this;
    const { view } = memory;
    this.count = 0;
    this.readable = 0;
    this.readableBytes = 0;
    this.writableBytes = 0;
    let table = queue.descAt;
    let entries = queue.size;
    let inTable = false;
    let index = head;
    for (let seen = 0; ; seen++) {
      if (index >= entries) return this.#fail(`descriptor ${index} of ${entries}`);
      if (seen > maxChain) return this.#fail('chain loops or is too long');
      const at = table + index * 16;
      const address = view.getUint32(at + 4, true) * 4294967296 + view.getUint32(at, true);
      const length = view.getUint32(at + 8, true);
      const word = view.getUint32(at + 12, true);
      const flags = word & 0xffff;
      if (flags & INDIRECT) {
        if (!indirect) return this.#fail('indirect descriptor was not negotiated');
        if (inTable) return this.#fail('indirect descriptor in an indirect table');
        if (flags & NEXT) return this.#fail('indirect descriptor with a next one');
        if (length === 0 || length % 16 !== 0 || length > 16 * maxChain)
          return this.#fail(`indirect table of ${length} bytes`);
        const place = memory.offset(address, length);
        if (place < 0) return this.#fail('indirect table is not in memory');
        table = place;
        entries = length >>> 4;
        inTable = true;
        index = 0;
        continue;
      }
      if (this.count === maxChain) return this.#fail('chain loops or is too long');
      if (length === 0) return this.#fail('descriptor of no bytes');
      const place = memory.offset(address, length);
      if (place < 0) return this.#fail('buffer is not in memory');
      if (flags & WRITE) this.writableBytes += length;
      else if (this.readable !== this.count) return this.#fail('readable descriptor after a writable one');
      else {
        this.readable++;
        this.readableBytes += length;
      }
      this.offsets[this.count] = place;
      this.lengths[this.count] = length;
      this.count++;
      if (!(flags & NEXT)) break;
      index = word >>> 16;
    }
    if (this.readableBytes + this.writableBytes > 4294967296) return this.#fail('chain of more than 4 GiB');
    return true;
  }

  /** 32 bits, little-endian, at byte `at` of the readable part; bytes beyond its end are 0. */
  readable32(at: number): number {
    if (this.readable > 0 && at + 4 <= this.lengths[0]!)
      return this.memory.view.getUint32(this.offsets[0]! + at, true);
    let value = 0;
    for (let i = 0; i < 4; i++) value |= this.#readable8(at + i) << (8 * i);
    return value >>> 0;
  }

  #readable8(at: number): number {
    let skip = at;
    for (let i = 0; i < this.readable; i++) {
      const length = this.lengths[i]!;
      if (skip < length) return this.memory.view.getUint8(this.offsets[i]! + skip);
      skip -= length;
    }
    return 0;
  }

  /** Copies bytes into the writable part at byte `at`; returns how many there was room for. */
  copyIn(at: number, from: Uint8Array): number {
    let skip = at;
    let done = 0;
    for (let i = this.readable; i < this.count && done < from.length; i++) {
      const length = this.lengths[i]!;
      if (skip >= length) {
        skip -= length;
        continue;
      }
      const take = Math.min(length - skip, from.length - done);
      const place = this.offsets[i]! + skip;
      this.memory.dirty(place, take);
      this.memory.bytes(place, take).set(from.subarray(done, done + take));
      done += take;
      skip = 0;
    }
    return done;
  }

  /** Offset in the RAM mapping of byte `at` of the writable part; -1 beyond its end. */
  writableAt(at: number): number {
    let skip = at;
    for (let i = this.readable; i < this.count; i++) {
      const length = this.lengths[i]!;
      if (skip < length) return this.offsets[i]! + skip;
      skip -= length;
    }
    return -1;
  }
}
