/** Intel 82093AA, with the EOI register of its successors (version 0x20). */
import { array, pad, registers, struct, u8, u32 } from '@nyx/layout';

export const pins = 24;
export const version = 0x20;

export const Index = { id: 0, version: 1, arbitration: 2, redirection: 0x10 } as const;
/** Low word of a redirection entry. */
export const Redirect = {
  vector: 0xff,
  deliveryMode: 0x700,
  logical: 0x800,
  activeLow: 0x2000,
  remoteIrr: 0x4000,
  level: 0x8000,
  masked: 0x1_0000,
  /** Delivery status and remote IRR are read-only. */
  writable: 0x1_afff,
} as const;

export const ioapicRegisters = registers('ioapic', 0x1000, {
  select: { at: 0x00, width: 4, doc: 'IOREGSEL', mask: 0xff, read: 'shadow', write: 'posted', reset: 0 },
  window: { at: 0x10, width: 4, doc: 'IOWIN' },
  eoi: { at: 0x40, width: 4, doc: 'EOI: vector; write-only' },
});

export const IoapicState = struct(
  'IoapicState',
  {
    select: u32('', { max: 0xff }),
    id: u8('bits 27..24 of the ID register', { max: 15 }),
    pad0: pad(3),
    low: array('u32', pins, 'redirection, bits 31..0', { reset: Redirect.masked, max: 0x1_ffff }),
    high: array('u32', pins, 'redirection, bits 63..32: destination'),
    words: array('u32', pins, 'interrupt word of each pin as last seen'),
    sent: array('u32', pins, 'messages sent'),
    address: array('u32', pins, 'address of the last message'),
    data: array('u32', pins, 'its data'),
  },
  { doc: 'State of one IOAPIC.' },
);
