/** Motorola MC146818A with 256 bytes of CMOS memory, as in a PC's south bridge. */
import { array, pad, registers, struct, u8, u32, u64 } from '@nyx/layout';

/** Registers, by index. */
export const Reg = {
  second: 0,
  secondAlarm: 1,
  minute: 2,
  minuteAlarm: 3,
  hour: 4,
  hourAlarm: 5,
  weekday: 6,
  day: 7,
  month: 8,
  year: 9,
  a: 10,
  b: 11,
  c: 12,
  d: 13,
  century: 0x32,
  centuryPs2: 0x37,
} as const;
export const A = { uip: 0x80, divider: 0x70, running: 0x20, rate: 0x0f } as const;
export const B = {
  set: 0x80,
  periodic: 0x40,
  alarm: 0x20,
  update: 0x10,
  square: 8,
  binary: 4,
  hour24: 2,
  dst: 1,
} as const;
export const C = { irq: 0x80, periodic: 0x40, alarm: 0x20, update: 0x10 } as const;
export const validRam = 0x80;

export const rtcRegisters = registers('rtc', 4, {
  index: { at: 0, width: 1, doc: 'Index; bit 7 masks NMI. Write-only', write: 'posted' },
  data: { at: 1, width: 1, doc: 'The register at that index' },
  index2: { at: 2, width: 1, doc: 'Index of the second bank' },
  data2: { at: 3, width: 1, doc: 'The byte at that index' },
});

export const RtcState = struct(
  'RtcState',
  {
    index: u8('', { max: 0x7f }),
    index2: u8('', { max: 0x7f }),
    a: u8('register A without UIP', { reset: 0x26, max: 0x7f }),
    b: u8('register B', { reset: B.hour24 }),
    c: u8('flags PF, AF, UF', { max: 0x70 }),
    valid: u8('1: the clock was set since power-on', { max: 1 }),
    pad0: pad(2),
    irq: u32('interrupt word'),
    pad1: pad(4),
    seconds: u64('time, UTC seconds since 1970, at `at`'),
    at: u64('guest ns at which the second `seconds` began'),
    caught: u64('guest ns up to which the flags are right'),
    cmos: array('u8', 256, 'what was stored; the time registers only while the clock is stopped'),
  },
  { doc: 'State of the clock and its memory.' },
);
