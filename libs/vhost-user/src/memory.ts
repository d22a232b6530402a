/**
 * Guest memory as a front-end hands it over: regions, each a piece of a file, mapped side by side into one window of
 * address space, so that a place in guest memory is one offset whatever region it is in. Writes to it are told to the
 * front-end's dirty log while there is one.
 */
import { GuestMemory } from '@nyx/device';
import { createWindow, fileSize, mapInto, mmap, munmap, unmapFrom } from '@nyx/native';
import { Limit, type Region, vhostError } from './protocol.ts';

/** Address space for 16 TiB of guest memory; nothing is behind it until a region is. */
const WINDOW = 2 ** 44;
/** Regions begin at multiples of it in window and file, so that huge pages of any size can be mapped. */
const GRANULE = 2 ** 30;

interface Mapped extends Region {
  /** Of the region's first byte in the window. */
  at: number;
  /** Of its mapping, and how long that is. */
  from: number;
  length: number;
}

const overlaps = (a: number, aBytes: number, b: number, bBytes: number): boolean =>
  a < b + bBytes && b < a + aBytes;

export class RegionMemory extends GuestMemory {
  #regions: Mapped[] = [];
  /** The one of the last look-up: nearly always that of the next. */
  #last: Mapped | undefined;
  #log: { buffer: ArrayBuffer; bits: Uint8Array } | undefined;
  /** Writes are to be logged (VHOST_F_LOG_ALL). */
  logging = false;

  constructor() {
    super(createWindow(WINDOW), 0);
  }

  get regions(): readonly Region[] {
    return this.#regions;
  }

  protected override find(address: number, length: number): number {
    const last = this.#last;
    if (last && address >= last.guest && address + length <= last.guest + last.bytes)
      return last.at + (address - last.guest);
    for (const r of this.#regions)
      if (address >= r.guest && address + length <= r.guest + r.bytes) {
        this.#last = r;
        return r.at + (address - r.guest);
      }
    return -1;
  }

  /** Guest address of an address of the front-end; -1 when it is in no region. */
  guestOf(user: number): number {
    for (const r of this.#regions)
      if (user >= r.user && user < r.user + r.bytes) return r.guest + (user - r.user);
    return -1;
  }

  /** Maps a region. The descriptor may be closed afterwards. @throws VHOST_REGION, or errno of mmap */
  add(r: Region, fd: number): void {
    // Neither place nor length need be whole pages: libblkio's rings are as long as they are.
    if (r.bytes === 0) throw vhostError('VHOST_REGION', `no bytes at 0x${r.guest.toString(16)}`);
    if (r.guest + r.bytes > Number.MAX_SAFE_INTEGER || r.user + r.bytes > Number.MAX_SAFE_INTEGER)
      throw vhostError('VHOST_REGION', 'a region beyond 2^53');
    if (this.#regions.length >= Limit.memSlots)
      throw vhostError('VHOST_REGION', `more than ${Limit.memSlots} regions`);
    for (const o of this.#regions)
      if (overlaps(r.guest, r.bytes, o.guest, o.bytes) || overlaps(r.user, r.bytes, o.user, o.bytes))
        throw vhostError('VHOST_REGION', `0x${r.guest.toString(16)} overlaps 0x${o.guest.toString(16)}`);
    const skew = r.offset % GRANULE;
    const length = skew + r.bytes;
    if (r.offset + r.bytes > fileSize(fd))
      throw vhostError('VHOST_REGION', `0x${r.guest.toString(16)}: its file is too short`);
    const from = this.#place(length);
    mapInto(this.buffer, from, length, fd, r.offset - skew);
    this.#regions.push({ ...r, at: from + skew, from, length });
  }

  /** First room for so many bytes. @throws VHOST_REGION */
  #place(length: number): number {
    const taken = [...this.#regions].sort((a, b) => a.from - b.from);
    let at = 0;
    for (const r of taken) {
      if (at + length <= r.from) return at;
      at = Math.ceil((r.from + r.length) / GRANULE) * GRANULE;
    }
    if (at + length > WINDOW) throw vhostError('VHOST_REGION', `no room for ${length} bytes in ${WINDOW}`);
    return at;
  }

  /** Nothing may be under way in the region. @throws VHOST_REGION when there is none like it */
  remove(r: Region): void {
    const i = this.#regions.findIndex((o) => o.guest === r.guest && o.bytes === r.bytes && o.user === r.user);
    if (i < 0) throw vhostError('VHOST_REGION', `no region at 0x${r.guest.toString(16)} to remove`);
    this.#unmap(this.#regions[i]!);
    this.#regions.splice(i, 1);
  }

  clear(): void {
    for (const r of this.#regions) this.#unmap(r);
    this.#regions = [];
  }

  #unmap(r: Mapped): void {
    this.#last = undefined;
    unmapFrom(this.buffer, r.from, r.length);
  }

  /** The dirty log: a bit for each 4 KiB of guest addresses. @throws errno of mmap */
  setLog(log: { bytes: number; offset: number; fd: number } | undefined): void {
    const old = this.#log;
    this.#log = undefined;
    if (log !== undefined) {
      if (log.bytes === 0) throw vhostError('VHOST_LOG', 'a log of no bytes');
      const skew = log.offset % 4096;
      const buffer = mmap(log.fd, skew + log.bytes, { offset: log.offset - skew });
      this.#log = { buffer, bits: new Uint8Array(buffer, skew, log.bytes) };
    }
    if (old) munmap(old.buffer);
  }

  override dirty(at: number, length: number): void {
    if (!this.logging || this.#log === undefined || length === 0) return;
    const r = this.#regions.find((x) => at >= x.at && at < x.at + x.bytes);
    if (r === undefined) return;
    const { bits } = this.#log;
    const address = r.guest + (at - r.at);
    const last = Math.floor((address + length - 1) / 4096);
    // What the front-end reads and clears meanwhile must lose no bit.
    for (let page = Math.floor(address / 4096); page <= last; page++) {
      const byte = Math.floor(page / 8);
      if (byte < bits.length) Atomics.or(bits, byte, 1 << (page % 8));
    }
  }

  /** Unmaps all. */
  close(): void {
    this.setLog(undefined);
    this.clear();
    munmap(this.buffer);
  }
}
