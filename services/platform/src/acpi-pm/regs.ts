/** Power management block of an ICH9 (ACPI 6.5 section 4.8, ICH9 data sheet 13.8.3), at PMBASE, and the APM ports. */
import { registers, struct, structs, u8, u16, u32, u64 } from '@nyx/layout';
import { Counter } from '@nyx/ring';

export const pmTimerHz = 3_579_545;

/** PM1 status and enable. */
export const Pm1 = {
  timer: 0x0001,
  busMaster: 0x0010,
  global: 0x0020,
  powerButton: 0x0100,
  sleepButton: 0x0200,
  rtc: 0x0400,
  wake: 0x8000,
} as const;
export const Control = { sciEnable: 1, sleepType: 0x1c00, sleepShift: 10, sleepEnable: 0x2000 } as const;
/** SLP_TYP values: S3, and all that mean S5 to somebody. */
export const SleepType = { s3: 1, s5: [0, 5, 7] } as const;
/** APMC_EN. Set from the start, as where there is no SMM: firmware then leaves it alone. */
const apmcEnable = 0x20;

export const pmRegisters = registers('acpi-pm', 0x80, {
  pm1Status: { at: 0x00, width: 2, doc: 'PM1a status; write 1 to clear', mask: 0, w1c: 0x8731, reset: 0 },
  pm1Enable: { at: 0x02, width: 2, doc: 'PM1a enable', mask: 0x0721, reset: 0 },
  pm1Control: {
    at: 0x04,
    width: 2,
    doc: 'PM1a control: always in ACPI mode',
    mask: 0x1c02,
    ones: Control.sciEnable,
    reset: 0,
  },
  pmTimer: { at: 0x08, width: 4, doc: 'Ticks of 3.579545 MHz', mask: 0, read: 'counter' },
  gpeStatus: {
    at: 0x20,
    width: 8,
    doc: 'GPE0 status; write 1 to clear',
    mask: 0,
    w1c: 0xffffffffffff,
    reset: 0,
  },
  gpeEnable: { at: 0x28, width: 8, doc: 'GPE0 enable', reset: 0 },
  smiEnable: { at: 0x30, width: 4, doc: 'SMI enable: storage', reset: apmcEnable },
  smiStatus: { at: 0x34, width: 4, doc: 'SMI status: never any', mask: 0, w1c: 0xffffffff, reset: 0 },
});

export const apmRegisters = registers('apm', 2, {
  apmControl: { at: 0, width: 1, doc: 'APM_CNT, port 0xB2: no SMI follows', reset: 0 },
  apmStatus: { at: 1, width: 1, doc: 'APM_STS, port 0xB3: storage', reset: 0 },
});

export const PmState = struct(
  'PmState',
  {
    pmTimer: structs(Counter, 1),
    pm1Status: u16(),
    pm1Enable: u16(),
    pm1Control: u16(),
    apmControl: u8(),
    apmStatus: u8(),
    gpeStatus: u64(),
    gpeEnable: u64(),
    smiEnable: u32('', { reset: apmcEnable }),
    smiStatus: u32(),
    halves: u32('times that the top bit of the timer has changed'),
    irq: u32('SCI word'),
  },
  { doc: 'State of the power management block.' },
);
