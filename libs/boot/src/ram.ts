/** Guest RAM as the loaders see it: the mapped RAM memfd, by guest-physical address. */
import { writeSync } from 'node:fs';
import { BootError } from './errors.ts';
import type { BootFile } from './file.ts';

export const FOUR_GIB = 0x1_0000_0000;

/** What is read and written at a time: it stays in the second-level cache. */
const CHUNK_BYTES = 1 << 18;
const zeros = Buffer.alloc(CHUNK_BYTES);

export class GuestRam {
  /** Nobody has written to it but the loader: it need not be cleared. */
  isFresh = false;
  /** Hears of every piece that the loader is about to write to, or may be. */
  changing: ((address: number, length: number) => void) | undefined;

  /**
   * @param buffer the whole RAM memfd, mapped
   * @param lowBytes bytes that lie at guest address 0; the rest lies at 4 GiB
   * @param fd the memfd, if large pieces are to go through write(): pages are then not cleared before they are filled and do
   *   not fault one by one, which halves the time that a kernel takes
   */
  constructor(
    readonly buffer: ArrayBuffer | SharedArrayBuffer,
    readonly lowBytes: number,
    readonly fd?: number,
  ) {
    if (lowBytes % 4096 !== 0 || lowBytes < 1 << 20 || lowBytes > buffer.byteLength || lowBytes > 0x8000_0000)
      throw new BootError(
        'MEMORY_BAD_SIZE',
        'low memory of 1 MiB to 2 GiB in whole pages, within the RAM file',
        `${lowBytes} of ${buffer.byteLength} bytes`,
        'Give the machine a memory size in MiB.',
      );
  }

  /** Bytes at 4 GiB. */
  get highBytes(): number {
    return this.buffer.byteLength - this.lowBytes;
  }

  /** Low memory at an address; the caller has checked that it is there. */
  bytes(address: number, length: number): Uint8Array {
    this.changing?.(address, length);
    return new Uint8Array(this.buffer, address, length);
  }

  view(address: number, length: number): DataView {
    this.changing?.(address, length);
    return new DataView(this.buffer, address, length);
  }

  write(address: number, data: Uint8Array): void {
    this.bytes(address, data.length).set(data);
  }

  /** Copies a piece of a file; the caller has checked both places. Zeros do not use memory in fresh RAM. @throws BootError KERNEL_TRUNCATED */
  load(address: number, file: BootFile, at: number, length: number): void {
    if (this.fd === undefined) {
      file.read(at, this.bytes(address, length));
      return;
    }
    this.changing?.(address, length);
    const chunk = Buffer.allocUnsafeSlow(Math.min(CHUNK_BYTES, length));
    for (let done = 0; done < length; done += chunk.length) {
      const part = chunk.subarray(0, Math.min(chunk.length, length - done));
      file.read(at + done, part);
      if (this.isFresh && part.equals(zeros.subarray(0, part.length))) continue;
      for (let n = 0; n < part.length; )
        n += writeSync(this.fd, part, n, part.length - n, address + done + n);
    }
  }

  zero(address: number, length: number): void {
    if (!this.isFresh) this.bytes(address, length).fill(0);
  }
}

/** CPU state to start with, in the words of the machine description (`MachineHeader`). Plain data: apply it again after a reset. */
export interface BootPlan {
  /** `BootMode` */
  bootMode: number;
  rip: number;
  rsp: number;
  rsi: number;
  rbx: number;
  cr3: number;
  gdtBase: number;
  gdtLimit: number;
  codeSelector: number;
  dataSelector: number;
}
