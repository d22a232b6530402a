/** Intel 8254 with the port 0x61 of a PC. */
import { pad, registers, struct, structs, u8, u16, u32, u64 } from '@nyx/layout';

/** 315 / 264 MHz. */
export const pitHz = 1_193_182;

export const Control = { bcd: 1, mode: 0x0e, rw: 0x30, select: 0xc0, readBack: 3 } as const;
export const ReadBack = { noCount: 0x20, noStatus: 0x10 } as const;
export const Port61 = { gate2: 1, speaker: 2, stored: 0x0f, refresh: 0x10, out2: 0x20 } as const;

export const pitRegisters = registers('pit', 4, {
  counter0: { at: 0, width: 1, doc: 'Counter 0: IRQ 0' },
  counter1: { at: 1, width: 1, doc: 'Counter 1' },
  counter2: { at: 2, width: 1, doc: 'Counter 2: speaker' },
  control: { at: 3, width: 1, doc: 'Control word; reads float' },
});
export const port61Registers = registers('port61', 1, {
  port61: { at: 0, width: 1, doc: 'Gate and output of counter 2, refresh' },
});

export const ChannelState = struct(
  'PitChannel',
  {
    mode: u8('', { max: 5 }),
    bcd: u8('', { max: 1 }),
    rw: u8('1 low, 2 high, 3 low then high byte', { min: 1, max: 3, reset: 3 }),
    gate: u8('', { max: 1 }),
    writeLow: u8('low byte written, while the high one is awaited'),
    writeStage: u8('1: the high byte is awaited', { max: 1 }),
    readStage: u8('1: the high byte is next', { max: 1 }),
    latched: u8('bytes of the latched count still to read', { max: 2 }),
    latch: u16(),
    status: u8('latched status'),
    statusLatched: u8('', { max: 1 }),
    loaded: u8('a count was written since the control word', { max: 1 }),
    running: u8('1: `start` counts; 0: `held` does', { max: 1 }),
    pad0: pad(2),
    n: u32('count as loaded: 1..65536; 0 before the first', { max: 65536 }),
    nextN: u32('count that is loaded at `nextAt`, or at the next trigger; 0: none', { max: 65536 }),
    held: u32('ticks counted when the gate stopped it'),
    pad1: pad(4),
    start: u64('tick at which the count was loaded'),
    nextAt: u64('tick; 0: at the next trigger'),
  },
  { bytes: 48 },
);

export const PitState = struct(
  'PitState',
  {
    channels: structs(ChannelState, 3),
    irq: u32('interrupt word'),
    port61: u8('stored bits', { max: Port61.stored }),
    pad0: pad(3),
    accounted: u64('tick up to which edges of counter 0 are in the word'),
  },
  { doc: 'State of the 8254 and port 0x61. Ticks are of 1.193182 MHz since guest ns 0.' },
);
