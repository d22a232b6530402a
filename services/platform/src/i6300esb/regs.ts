/**
 * Watchdog timer of the Intel 6300ESB I/O controller hub (order number 300641, chapter 16), as a PCI function 8086:25ab. Two
 * stages count down, one after the other; when the second is over, the machine is reset. What locks it is locked until reset.
 */
import { PciState } from '@nyx/device';
import { pad, type RegisterSpec, registers, struct, structs, u8, u16, u32, u64 } from '@nyx/layout';

export const identity = {
  vendorId: 0x8086,
  deviceId: 0x25ab,
  revision: 0,
  /** Base system peripheral, other. */
  classCode: 0x088000,
  subsystemVendorId: 0x1af4,
  subsystemId: 0x1100,
} as const;

export const windowBytes = 16;
export const Window = { timer1: 0, timer2: 4, interrupt: 8, reload: 12 } as const;

/** WDT configuration, 0x60. */
export const Config = {
  /** 00 interrupt, 10 SMI, 11 none: at the end of the first stage. */
  interruptType: 0x03,
  /** The timer's clock: 0: PCI clock / 2^15, about 1 kHz; 1: PCI clock / 2^5, about 1 MHz. */
  fast: 0x04,
  /** 1: the end of the second stage does nothing. */
  noOutput: 0x20,
} as const;
/** WDT lock, 0x68. */
export const Lock = { locked: 1, enabled: 2, free: 4 } as const;
/** Reload register, offset 12. */
export const Reload = { reload: 0x100, timeout: 0x200, unlock1: 0x80, unlock2: 0x86 } as const;
export const PRELOAD_MASK = 0xfffff;

/** The PCI clock. */
export const pciHz = 33_000_000;

const timer = (at: number, doc: string): RegisterSpec => ({
  at,
  width: 4,
  doc,
  mask: PRELOAD_MASK,
  reset: PRELOAD_MASK,
});
export const windowRegisters = registers('i6300esb', windowBytes, {
  timer1: timer(Window.timer1, 'Preload of the first stage; writable when unlocked'),
  timer2: timer(Window.timer2, 'Preload of the second stage; writable when unlocked'),
  interrupt: {
    at: Window.interrupt,
    width: 4,
    doc: 'Bit 0: the first stage is over',
    mask: 0,
    w1c: 1,
    reset: 0,
  },
  reload: {
    at: Window.reload,
    width: 2,
    doc: 'Bit 8 reloads, bit 9: the second stage was over once; unlocks',
    reset: 0,
  },
});
export const configRegisters = registers('i6300esb', 0x100, {
  config: { at: 0x60, width: 2, doc: 'Interrupt type, clock, output', mask: 0x27, reset: 0 },
  lock: { at: 0x68, width: 1, doc: 'Lock, enable, free running', mask: 7, reset: 0 },
});

export const I6300State = struct(
  'I6300State',
  {
    pci: structs(PciState, 1),
    timer1: u32('', { reset: PRELOAD_MASK }),
    timer2: u32('', { reset: PRELOAD_MASK }),
    interrupt: u32(),
    config: u16(),
    lock: u8(),
    unlock: u8('how far the unlock sequence has come', { max: 2 }),
    stage: u8('0: stands still', { max: 2 }),
    timeout: u8('the second stage was over: stays through resets', { max: 1 }),
    pad0: pad(2),
    expired: u32('times that the second stage was over'),
    deadline: u64('guest nanoseconds at which the stage is over'),
  },
  { doc: 'State of the i6300esb watchdog.' },
);
