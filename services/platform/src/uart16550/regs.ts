/** National Semiconductor PC16550D: registers (table 2) and state. */
import { array, pad, registers, struct, u8, u16, u32, u64 } from '@nyx/layout';

export const Ier = { data: 1, thre: 2, line: 4, modem: 8 } as const;
export const Iir = { none: 1, modem: 0, thre: 2, data: 4, line: 6, timeout: 0xc, fifo: 0xc0 } as const;
export const Fcr = { enable: 1, clearRx: 2, clearTx: 4, trigger: 0xc0 } as const;
export const Lcr = { length: 3, stop: 4, parity: 8, break: 0x40, dlab: 0x80 } as const;
export const Mcr = { dtr: 1, rts: 2, out1: 4, out2: 8, loop: 0x10 } as const;
export const Lsr = {
  ready: 1,
  overrun: 2,
  parity: 4,
  framing: 8,
  break: 0x10,
  thre: 0x20,
  temt: 0x40,
  fifo: 0x80,
} as const;
export const Msr = { dcts: 1, ddsr: 2, teri: 4, ddcd: 8, cts: 0x10, dsr: 0x20, ri: 0x40, dcd: 0x80 } as const;

export const fifoSize = 16;
/** Crystal of a PC's UART; the divisor counts 16 of its ticks a bit. */
export const clockHz = 1_843_200;

export const uartRegisters = registers('uart16550', 8, {
  data: { at: 0, width: 1, doc: 'RBR / THR; divisor low byte with DLAB', write: 'posted' },
  ier: { at: 1, width: 1, doc: 'Interrupt enable; divisor high byte with DLAB', reset: 0 },
  iir: { at: 2, width: 1, doc: 'Interrupt identification / FIFO control', reset: Iir.none },
  lcr: { at: 3, width: 1, doc: 'Line control', read: 'shadow', reset: 0 },
  mcr: { at: 4, width: 1, doc: 'Modem control', mask: 0x1f, read: 'shadow', reset: 0 },
  lsr: {
    at: 5,
    width: 1,
    doc: 'Line status; reading it clears the errors',
    mask: 0,
    reset: Lsr.thre | Lsr.temt,
  },
  msr: {
    at: 6,
    width: 1,
    doc: 'Modem status; reading it clears the deltas',
    mask: 0,
    reset: Msr.cts | Msr.dsr | Msr.dcd,
  },
  scr: { at: 7, width: 1, doc: 'Scratch', read: 'shadow' },
});

export const UartState = struct(
  'Uart16550State',
  {
    ier: u8('', { max: 0x0f }),
    fcr: u8('enable and trigger bits'),
    lcr: u8(),
    mcr: u8('', { max: 0x1f }),
    scr: u8(),
    errors: u8('LSR bits 1..4, until LSR is read', { max: 0x1e }),
    delta: u8('MSR bits 0..3, until MSR is read', { max: 0x0f }),
    modem: u8('MSR bits 4..7 as last seen', { reset: Msr.cts | Msr.dsr | Msr.dcd }),
    divisor: u16('', { reset: 12 }),
    threPending: u8('transmitter-empty interrupt not yet acknowledged', { max: 1 }),
    timeout: u8('character timeout pending', { max: 1 }),
    rxHead: u8('first byte of the receive FIFO', { max: fifoSize - 1 }),
    rxCount: u8('', { max: fifoSize }),
    pad0: pad(2),
    rx: array('u8', fifoSize, 'receive FIFO'),
    rxErrors: array('u8', fifoSize, 'LSR error bits of each byte', { max: 0x1c }),
    irq: u32('interrupt word'),
    outHead: u32('console bytes sent'),
    inTail: u32('console bytes taken'),
    pad1: pad(4),
    timeoutAt: u64('guest ns of the character timeout; 0: not running'),
  },
  { doc: 'State of one 16550A.' },
);
