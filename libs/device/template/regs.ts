/** A doorbell: the registers and the state of the template device. */
import { pad, registers, struct, u32, u64 } from '@nyx/layout';

export const identity = 0x4c4c4542;

export const doorbellRegisters = registers('doorbell', 0x20, {
  id: { at: 0x00, width: 4, doc: 'Who is there', mask: 0, read: 'shadow', reset: identity },
  scratch: { at: 0x04, width: 4, doc: 'Storage', read: 'shadow' },
  /** Writing n rings n times; needs no answer. */
  ring: { at: 0x08, width: 4, doc: 'Rings', write: 'posted' },
  status: {
    at: 0x0c,
    width: 4,
    doc: 'Bit 0: rang, bit 1: alarm; write 1 to clear',
    mask: 0,
    w1c: 3,
    reset: 0,
  },
  taken: { at: 0x10, width: 4, doc: 'Rings since it was last read', mask: 0 },
  alarm: { at: 0x18, width: 8, doc: 'Guest ns at which bit 1 is set; 0: never' },
});

export const DoorbellState = struct('DoorbellState', {
  id: u32('', { reset: identity }),
  scratch: u32(),
  status: u32('', { max: 3 }),
  taken: u32(),
  irq: u32('interrupt word'),
  pad0: pad(4),
  alarm: u64('guest ns; 0: not armed'),
});
