/** Guest RAM as the loaders see it: the mapped RAM memfd, by guest-physical address. */
import { BootError } from './errors.ts';

export const FOUR_GIB = 0x1_0000_0000;

export class GuestRam {
  /**
   * @param buffer the whole RAM memfd, mapped
   * @param lowBytes bytes that lie at guest address 0; the rest lies at 4 GiB
   */
  constructor(
    readonly buffer: ArrayBuffer | SharedArrayBuffer,
    readonly lowBytes: number,
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
    return new Uint8Array(this.buffer, address, length);
  }

  view(address: number, length: number): DataView {
    return new DataView(this.buffer, address, length);
  }

  write(address: number, data: Uint8Array): void {
    this.bytes(address, data.length).set(data);
  }

  zero(address: number, length: number): void {
    this.bytes(address, length).fill(0);
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
