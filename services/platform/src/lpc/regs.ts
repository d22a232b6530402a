/** LPC bridge of an ICH9 (Intel 316972 chapter 13): function 00:1f.0, the reset port, the chipset registers at RCBA. */

import { PciState } from '@nyx/device';
import { array, pad, type RegisterSpec, registers, struct, structs, u8, u16, u32 } from '@nyx/layout';

export const identity = {
  vendorId: 0x8086,
  deviceId: 0x2918,
  revision: 2,
  classCode: 0x060100,
  subsystemVendorId: 0x1af4,
  subsystemId: 0x1100,
  multifunction: true,
} as const;

export const pirqs = 8;
/** PIRQ routing register. */
export const Pirq = { off: 0x80, irq: 0x0f } as const;
/** IRQs that a PIRQ may be routed to: not 0, 1, 2, 8, 13. */
export const routable = 0xdef8;
export const rcrbBytes = 0x4000;
/** Reset control, port 0xCF9. */
export const Reset = { hard: 2, cpu: 4, full: 8 } as const;

const route = (i: number): RegisterSpec => ({
  at: i < 4 ? 0x60 + i : 0x64 + i,
  width: 1,
  doc: `PIRQ${'ABCDEFGH'[i]}: bit 7 off, 3..0 IRQ`,
  mask: 0x8f,
  reset: Pirq.off,
});

export const lpcRegisters = registers('lpc', 0x100, {
  pmbase: {
    at: 0x40,
    width: 4,
    doc: 'ACPI base; the ports themselves are at 0x600 for good',
    mask: 0xff80,
    ones: 1,
    reset: 0x601,
  },
  acpiControl: { at: 0x44, width: 1, doc: 'ACPI enable, SCI routing', mask: 0x87, reset: 0x80 },
  pirqA: route(0),
  pirqB: route(1),
  pirqC: route(2),
  pirqD: route(3),
  pirqE: route(4),
  pirqF: route(5),
  pirqG: route(6),
  pirqH: route(7),
  ioDecode: { at: 0x80, width: 2, doc: 'Port ranges of serial, parallel and floppy', mask: 0x1377, reset: 0 },
  lpcEnable: { at: 0x82, width: 2, doc: 'Decode enables', mask: 0x3f0f, reset: 0 },
  genPmcon1: { at: 0xa0, width: 2, doc: 'General PM configuration 1', mask: 0x16ff, reset: 0 },
  genPmcon3: { at: 0xa4, width: 1, doc: 'General PM configuration 3', mask: 0xfb, reset: 0 },
  biosControl: { at: 0xdc, width: 1, doc: 'BIOS write enable, lock', mask: 0x2f, reset: 0 },
  rcba: {
    at: 0xf0,
    width: 4,
    doc: 'Chipset registers: bit 0 enable, 31..14 base',
    mask: 0xffff_c001,
    reset: 0,
  },
});

export const resetRegisters = registers('reset', 1, {
  resetControl: { at: 0, width: 1, doc: 'Port 0xCF9', mask: 0x0e, reset: 0 },
});
export const rcrbRegisters = registers('rcrb', rcrbBytes, {
  gcs: { at: 0x3410, width: 4, doc: 'General control and status', mask: 0xfff, reset: 0x20 },
});

export const LpcState = struct(
  'LpcState',
  {
    pci: structs(PciState, 1),
    pmbase: u32('', { reset: 0x601 }),
    rcba: u32(),
    gcs: u32('', { reset: 0x20 }),
    ioDecode: u16(),
    lpcEnable: u16(),
    genPmcon1: u16(),
    genPmcon3: u8(),
    biosControl: u8(),
    acpiControl: u8('', { reset: 0x80 }),
    resetControl: u8(),
    pad0: pad(2),
    pirqA: u8('', { reset: Pirq.off }),
    pirqB: u8('', { reset: Pirq.off }),
    pirqC: u8('', { reset: Pirq.off }),
    pirqD: u8('', { reset: Pirq.off }),
    pirqE: u8('', { reset: Pirq.off }),
    pirqF: u8('', { reset: Pirq.off }),
    pirqG: u8('', { reset: Pirq.off }),
    pirqH: u8('', { reset: Pirq.off }),
    levels: u8('PIRQs asserted, by GSI 16..23'),
    pad1: pad(3),
    words: array('u32', 16, 'interrupt word of each IRQ that PIRQs are routed to'),
  },
  { doc: 'State of the LPC bridge.' },
);
