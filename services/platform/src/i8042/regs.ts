/** Keyboard controller (8042 of the AT, with a PS/2 auxiliary port), keyboard and mouse. */
import { array, registers, struct, structs, u8, u32 } from '@nyx/layout';

export const Status = {
  output: 1,
  input: 2,
  system: 4,
  command: 8,
  unlocked: 0x10,
  aux: 0x20,
  timeout: 0x40,
} as const;
/** Controller command byte. */
export const Mode = {
  keyboardIrq: 1,
  auxIrq: 2,
  system: 4,
  keyboardOff: 0x10,
  auxOff: 0x20,
  translate: 0x40,
} as const;
export const OutputPort = { reset: 1, a20: 2, auxFull: 0x20, keyboardFull: 0x10, base: 0xcc } as const;
export const queueSize = 16;

export const dataRegisters = registers('i8042.data', 1, { data: { at: 0, width: 1, doc: 'Port 0x60' } });
export const commandRegisters = registers('i8042.command', 1, {
  command: { at: 0, width: 1, doc: 'Port 0x64: status / command', reset: Status.unlocked },
});
export const fastRegisters = registers('i8042.fast', 1, {
  fast: { at: 0, width: 1, doc: 'Port 0x92: A20 and fast reset', read: 'shadow', mask: 3, reset: 2 },
});

/** What a PS/2 device remembers, and the bytes it wants to send. */
export const Ps2State = struct(
  'Ps2Device',
  {
    queue: array('u8', queueSize),
    head: u8('', { max: queueSize - 1 }),
    count: u8('', { max: queueSize }),
    pending: u8('command that awaits a parameter; 0: none'),
    enabled: u8('it may send on its own', { max: 1 }),
    rate: u8('typematic rate, or samples a second', { reset: 100 }),
    resolution: u8('mouse'),
    scaling: u8('mouse', { max: 1 }),
    set: u8('scan code set', { reset: 2 }),
    leds: u8(),
    last: u8('byte last sent, for resend'),
    remote: u8('mouse', { max: 1 }),
    wrap: u8('mouse echoes', { max: 1 }),
  },
  { bytes: queueSize + 12 },
);

export const I8042State = struct(
  'I8042State',
  {
    mode: u8('', { reset: Mode.keyboardIrq | Mode.auxIrq }),
    status: u8('bits 2, 3, 6', { max: 0x4c }),
    pending: u8('command whose parameter comes at port 0x60; 0: none'),
    full: u8('1: output buffer full', { max: 1 }),
    fromAux: u8('1: the byte in it came from the auxiliary port, 2: from the controller', { max: 2 }),
    out: u8('output buffer'),
    outputPort: u8('', { reset: 0xcf }),
    fast: u8('port 0x92', { reset: 2, max: 3 }),
    ram: array('u8', 32),
    keyboard: structs(Ps2State, 1),
    mouse: structs(Ps2State, 1),
    irqKeyboard: u32('interrupt word of IRQ 1'),
    irqMouse: u32('interrupt word of IRQ 12'),
  },
  { doc: 'State of the keyboard controller.' },
);
