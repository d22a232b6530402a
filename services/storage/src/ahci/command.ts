/**
 * One command as a driver left it in memory: header, command FIS, packet and PRD table (AHCI 1.3.1 section 4.2, SATA
 * 10.3.4). Nothing the guest writes can make it throw or leave guest memory. What lies in a slot is the controller's from
 * the write of PxCI until its bits in PxCI and PxSACT are clear, so a successor reads it again.
 */
import type { GuestMemory } from '@nyx/device';
import { BlockRequest, maxPieces } from '../block/block.ts';
import { Fis, Header, Layout, PortIs } from './regs.ts';

/** How the data of a command moves, which decides the FIS that ends it. */
export const Protocol = { none: 0, pioIn: 1, pioOut: 2, dma: 3, queued: 4 } as const;

/** Result of a command that a drive looked at. */
export const Verdict = {
  /** It is finished, well or with an error. */
  done: 0,
  /** The request is prepared: to be submitted. */
  submit: 1,
  /** Guest memory that the table names is not there. */
  fatal: 2,
} as const;

/** PRD table of a command. transient: read again by a successor. */
export class PrdTable {
  /** Place in the RAM mapping, and entries. */
  at = 0;
  entries = 0;

  /** Bytes of entry i, 4.2.3.3: one less is written, and it is even. */
  length(view: DataView, i: number): number {
    return ((view.getUint32(this.at + Layout.prd * i + 12, true) & 0x3f_ffff) | 1) + 1;
  }

  /** Place of entry i in the RAM mapping, -1 when it is no memory. */
  place(memory: GuestMemory, i: number, length: number): number {
    const at = this.at + Layout.prd * i;
    const { view } = memory;
    const address = view.getUint32(at + 4, true) * 4294967296 + view.getUint32(at, true);
    // 4.2.3.3: bit 0 of the address is reserved.
    return memory.offset(address - (address % 2), length);
  }

  /** Whether the table has room for so many bytes. */
  holds(view: DataView, bytes: number): boolean {
    for (let i = 0; i < this.entries && bytes > 0; i++) bytes -= this.length(view, i);
    return bytes <= 0;
  }

  /** Whether one of the first entries, as far as `bytes` reach, asks for an interrupt (DPS). */
  wantsInterrupt(view: DataView, bytes: number): boolean {
    for (let i = 0; i < this.entries && bytes > 0; i++) {
      if (view.getUint32(this.at + Layout.prd * i + 12, true) & 0x8000_0000) return true;
      bytes -= this.length(view, i);
    }
    return false;
  }

  /** Moves bytes between the table's memory and `data`. Bytes moved, or -1: not all is memory. */
  copy(memory: GuestMemory, data: Uint8Array, bytes: number, toGuest: boolean): number {
    let done = 0;
    for (let i = 0; i < this.entries && done < bytes; i++) {
      const length = Math.min(this.length(memory.view, i), bytes - done);
      const place = this.place(memory, i, length);
      if (place < 0) return -1;
      if (toGuest) {
        memory.dirty(place, length);
        memory.bytes(place, length).set(data.subarray(done, done + length));
      } else data.set(memory.bytes(place, length), done);
      done += length;
    }
    return done;
  }
}

/** A request to the disk for one slot. transient: a successor prepares it again. */
export class SlotRequest extends BlockRequest {
  readonly table = new PrdTable();
  protocol = 0;
  /** Entry of the table to go on with, bytes of it that are done, bytes of the whole command that are not. */
  #entry = 0;
  #skip = 0;
  left = 0;
  /** Bytes of the whole command. */
  total = 0;
  /** Ranges of a trim still to do: position and bytes of each. */
  ranges: Float64Array | undefined;
  rangeCount = 0;
  #range = 0;

  /** A transfer of `bytes`, multiple of 512, that the table has room for. @returns false: some of it is no memory */
  transfer(memory: GuestMemory, op: number, position: number, bytes: number, fua: boolean): boolean {
    this.total = bytes;
    this.left = bytes;
    this.#entry = 0;
    this.#skip = 0;
    this.rangeCount = 0;
    this.#range = 0;
    return this.#part(memory, op, position, fua);
  }

  /** A flush, or anything else without memory. */
  plain(op: number, position: number, bytes: number): void {
    this.start(op, position, bytes);
    this.total = 0;
    this.left = 0;
    this.rangeCount = 0;
  }

  /** Discards of the first `count` of `ranges`, at least one. */
  trim(op: number, count: number): void {
    this.plain(op, 0, 0);
    this.rangeCount = count;
    this.#range = 0;
    this.#nextRange(op);
  }
  #nextRange(op: number): void {
    const i = 2 * this.#range++;
    this.start(op, this.ranges![i]!, this.ranges![i + 1]!);
  }

  /** The next piece of work after one was finished: 1 there is one, 0 there is none, -1 some of it is no memory. */
  advance(memory: GuestMemory): number {
    if (this.#range < this.rangeCount) {
      this.#nextRange(this.op);
      return 1;
    }
    if (this.left === 0) return 0;
    return this.#part(memory, this.op, this.position + this.bytes, this.fua) ? 1 : -1;
  }

  /** As much of the rest as one request can hold, whole sectors. */
  #part(memory: GuestMemory, op: number, position: number, fua: boolean): boolean {
    const { table } = this;
    this.start(op, position, 0);
    this.fua = fua;
    let [entry, skip, bytes] = [this.#entry, this.#skip, 0];
    let last = -1;
    while (bytes < this.left && entry < table.entries) {
      const whole = table.length(memory.view, entry);
      const length = Math.min(whole - skip, this.left - bytes);
      const at = table.place(memory, entry, skip + length);
      if (at < 0) return false;
      if (last === at + skip) this.lengths[this.count - 1]! += length;
      else {
        if (this.count === maxPieces) break;
        this.add(at + skip, length);
      }
      last = at + skip + length;
      bytes += length;
      skip += length;
      if (skip === whole) {
        entry++;
        skip = 0;
      }
    }
    // Pieces of 2 bytes and up: 256 of them are at least a sector.
    for (let over = bytes % 512; over > 0; ) {
      const piece = this.count - 1;
      const cut = Math.min(over, this.lengths[piece]!);
      this.lengths[piece]! -= cut;
      if (this.lengths[piece] === 0) this.count--;
      over -= cut;
      bytes -= cut;
    }
    // The table shrank since it was measured: a driver that changes what is not its own.
    if (bytes === 0) return false;
    this.#advanceTo(memory.view, bytes);
    this.bytes = bytes;
    this.left -= bytes;
    return true;
  }

  #advanceTo(view: DataView, bytes: number): void {
    let rest = bytes + this.#skip;
    while (this.#entry < this.table.entries) {
      const whole = this.table.length(view, this.#entry);
      if (rest < whole) break;
      rest -= whole;
      this.#entry++;
    }
    this.#skip = rest;
  }
}

/** The command that is looked at. transient: read again by a successor. */
export class Command {
  slot = 0;
  /** Places in the RAM mapping. */
  headerAt = 0;
  tableAt = 0;
  /** Command header, dword 0. */
  flags = 0;
  readonly table = new PrdTable();

  // The FIS.
  fis = 0;
  /** Bit C: a command, not the control register. */
  isCommand = false;
  control = 0;
  command = 0;
  /** 16 bits. */
  features = 0;
  count = 0;
  /** 24 bits each. */
  lbaLo = 0;
  lbaHi = 0;
  device = 0;

  // The answer: what the FIS at its end carries.
  status = 0;
  error = 0;
  protocol = 0;
  /** Bytes moved. */
  moved = 0;
  /** Bits of PxIS beyond those of the FIS. */
  interrupts = 0;

  /** Reads slot `slot` of the command list. False: header or table is not in memory. */
  read(memory: GuestMemory, listLo: number, listHi: number, slot: number): boolean {
    const { view } = memory;
    this.slot = slot;
    this.headerAt = memory.offset(listHi * 4294967296 + listLo + Layout.header * slot, Layout.header);
    if (this.headerAt < 0) return false;
    this.flags = view.getUint32(this.headerAt, true);
    const entries = this.flags >>> 16;
    const table =
      view.getUint32(this.headerAt + 12, true) * 4294967296 +
      ((view.getUint32(this.headerAt + 8, true) & ~0x7f) >>> 0);
    this.tableAt = memory.offset(table, Layout.prdt + Layout.prd * entries);
    if (this.tableAt < 0) return false;
    this.table.at = this.tableAt + Layout.prdt;
    this.table.entries = entries;
    const w0 = view.getUint32(this.tableAt, true);
    const w1 = view.getUint32(this.tableAt + 4, true);
    const w2 = view.getUint32(this.tableAt + 8, true);
    const w3 = view.getUint32(this.tableAt + 12, true);
    this.fis = w0 & 0xff;
    this.isCommand = (w0 & 0x8000) !== 0;
    this.command = (w0 >>> 16) & 0xff;
    this.features = (w0 >>> 24) | ((w2 >>> 16) & 0xff00);
    this.lbaLo = w1 & 0xff_ffff;
    this.device = w1 >>> 24;
    this.lbaHi = w2 & 0xff_ffff;
    this.count = w3 & 0xffff;
    this.control = w3 >>> 24;
    this.status = 0;
    this.error = 0;
    this.protocol = Protocol.none;
    this.moved = 0;
    this.interrupts = 0;
    return true;
  }

  get isFis(): boolean {
    return this.fis === Fis.hostToDevice;
  }
  get isPacket(): boolean {
    return (this.flags & Header.packet) !== 0;
  }

  /** Byte i of the packet. */
  packet(view: DataView, i: number): number {
    return view.getUint8(this.tableAt + Layout.packet + i);
  }

  /** Hands `request` the table, for what is done later. */
  lend(request: SlotRequest): void {
    request.table.at = this.table.at;
    request.table.entries = this.table.entries;
    request.protocol = this.protocol;
  }

  /** Data for the host, as much as there is room for. False: not all is memory. */
  answer(memory: GuestMemory, data: Uint8Array, bytes = data.length): boolean {
    const moved = this.table.copy(memory, data, bytes, true);
    if (moved < 0) return false;
    this.moved = moved;
    // 3.3.5: the device sent more than the table takes.
    if (moved < bytes) this.interrupts |= PortIs.ofs;
    return true;
  }
}
