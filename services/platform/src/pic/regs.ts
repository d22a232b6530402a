/** Intel 8259A pair of a PC, with the edge/level control registers of the south bridge. */
import { array, pad, registers, struct, structs, u8, u32 } from '@nyx/layout';

export const Icw1 = { icw4: 1, single: 2, level: 8, init: 0x10 } as const;
export const Icw4 = { autoEoi: 2, nested: 0x10 } as const;
/** OCW2, bits 7..5. */
export const Ocw2 = {
  rotateAutoClear: 0,
  eoi: 1,
  nop: 2,
  specific: 3,
  rotateAutoSet: 4,
  rotateEoi: 5,
  setPriority: 6,
  rotateSpecific: 7,
} as const;
export const Ocw3 = { select: 8, readIsr: 1, read: 2, poll: 4, mask: 0x20, maskSet: 0x40 } as const;

export const chipRegisters = registers('pic', 2, {
  command: { at: 0, width: 1, doc: 'ICW1, OCW2, OCW3 / IRR, ISR, poll' },
  data: { at: 1, width: 1, doc: 'ICW2..4, OCW1 / IMR, poll' },
});
export const elcrRegisters = registers('elcr', 2, {
  elcr0: { at: 0, width: 1, doc: 'IRQ 0..7: 1 level, 0 edge', reset: 0 },
  elcr1: { at: 1, width: 1, doc: 'IRQ 8..15', reset: 0 },
});

export const ChipState = struct(
  'PicChip',
  {
    irr: u8('requests'),
    isr: u8('in service'),
    imr: u8('masked'),
    levels: u8('levels of the pins'),
    elcr: u8('pins that are level-triggered'),
    vector: u8('ICW2, bits 7..3'),
    lowest: u8('pin of lowest priority', { max: 7, reset: 7 }),
    init: u8('next initialization word: 0 none, 2..4', { max: 4 }),
    icw1: u8(),
    icw4: u8(),
    readIsr: u8('OCW3: reads of port 0 give ISR', { max: 1 }),
    poll: u8('OCW3: the next read polls', { max: 1 }),
    specialMask: u8('', { max: 1 }),
    rotate: u8('rotate on automatic EOI', { max: 1 }),
    pad0: pad(2),
  },
  { bytes: 16 },
);

export const PicState = struct(
  'PicState',
  {
    chips: structs(ChipState, 2, 'master, slave'),
    words: array('u32', 16, 'interrupt word of each pin as last seen'),
    intr: u32('interrupt word of the INTR output'),
    spurious: u32('interrupts that were gone when they were acknowledged'),
  },
  { doc: 'State of both 8259A.' },
);
