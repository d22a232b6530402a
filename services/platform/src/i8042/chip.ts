/**
 * The keyboard controller: command interpreter, one output buffer shared by both ports and the controller itself, and
 * an interrupt for each byte that arrives in it.
 */
import { withLevel } from '@nyx/device';
import type { View } from '@nyx/layout';
import { keyboardCommand, mouseCommand, take } from './ps2.ts';
import { type I8042State, Mode, OutputPort, Status } from './regs.ts';

const fromKeyboard = 0;
const fromMouse = 1;
const fromController = 2;

export class I8042 {
  /** @param reset asks for a reset of the machine */
  constructor(
    readonly s: View<typeof I8042State>,
    readonly reset: () => void,
  ) {}

  readStatus(): number {
    const { s } = this;
    return (
      s.status |
      Status.unlocked |
      (s.full ? Status.output : 0) |
      (s.full && s.fromAux === fromMouse ? Status.aux : 0)
    );
  }

  readData(): number {
    const { s } = this;
    const byte = s.out;
    s.full = 0;
    s.irqKeyboard = withLevel(s.irqKeyboard, false);
    s.irqMouse = withLevel(s.irqMouse, false);
    this.#next();
    return byte;
  }

  #put(byte: number, from: number): void {
    const { s } = this;
    s.out = byte;
    s.full = 1;
    s.fromAux = from;
    s.status &= ~Status.timeout;
    // Each byte is an edge of its own, also when the one before was not read.
    s.irqKeyboard = withLevel(s.irqKeyboard, false);
    s.irqMouse = withLevel(s.irqMouse, false);
    if (from === fromMouse) s.irqMouse = withLevel(s.irqMouse, (s.mode & Mode.auxIrq) !== 0);
    else s.irqKeyboard = withLevel(s.irqKeyboard, (s.mode & Mode.keyboardIrq) !== 0);
  }

  /** Fetches a byte from a port that is enabled and has one. */
  #next(): void {
    const { s } = this;
    if (s.full) return;
    const keyboard = s.keyboard.at(0);
    const mouse = s.mouse.at(0);
    if (keyboard.count > 0 && !(s.mode & Mode.keyboardOff)) this.#put(take(keyboard), fromKeyboard);
    else if (mouse.count > 0 && !(s.mode & Mode.auxOff)) this.#put(take(mouse), fromMouse);
  }

  writeCommand(value: number): void {
    const { s } = this;
    s.status |= Status.command;
    s.pending = 0;
    if (value >= 0x20 && value <= 0x3f)
      this.#put(value === 0x20 ? s.mode : s.ram.get(value & 0x1f), fromController);
    else if (value >= 0x60 && value <= 0x7f) s.pending = value;
    else if (value >= 0xf0) {
      // Pulses the output port's low bits; bit 0 is the reset line.
      if (!(value & 1)) this.reset();
    } else
      switch (value) {
        case 0xa7:
          s.mode |= Mode.auxOff;
          break;
        case 0xa8:
          s.mode &= ~Mode.auxOff;
          break;
        case 0xa9:
        case 0xab:
          this.#put(0x00, fromController);
          break;
        case 0xaa:
          s.status |= Status.system;
          this.#put(0x55, fromController);
          break;
        case 0xad:
          s.mode |= Mode.keyboardOff;
          break;
        case 0xae:
          s.mode &= ~Mode.keyboardOff;
          break;
        case 0xc0:
          this.#put(0x80, fromController);
          break;
        case 0xd0:
          this.#put(this.#outputPort(), fromController);
          break;
        case 0xd1:
        case 0xd2:
        case 0xd3:
        case 0xd4:
          s.pending = value;
          break;
        // Others have no meaning here, as on boards without their pins.
      }
    this.#next();
  }

  #outputPort(): number {
    const { s } = this;
    const full = s.full ? (s.fromAux === fromMouse ? OutputPort.auxFull : OutputPort.keyboardFull) : 0;
    return (s.outputPort & ~(OutputPort.auxFull | OutputPort.keyboardFull)) | full;
  }

  writeData(value: number): void {
    const { s } = this;
    const command = s.pending;
    s.pending = 0;
    s.status &= ~Status.command;
    if (command === 0) {
      // A byte to the keyboard enables its port.
      s.mode &= ~Mode.keyboardOff;
      keyboardCommand(s.keyboard.at(0), value, (s.mode & Mode.translate) !== 0);
    } else if (command === 0x60) this.#setMode(value);
    else if (command < 0x80) s.ram.set(command & 0x1f, value);
    else if (command === 0xd1) this.#setOutputPort(value);
    else if (command === 0xd2) this.#put(value, fromKeyboard);
    else if (command === 0xd3) this.#put(value, fromMouse);
    else mouseCommand(s.mouse.at(0), value);
    this.#next();
  }

  #setMode(value: number): void {
    const { s } = this;
    s.mode = value;
    s.ram.set(0, value);
    // The system flag is shown in the status register too.
    s.status = (s.status & ~Status.system) | (value & Mode.system ? Status.system : 0);
    if (s.full) this.#put(s.out, s.fromAux);
  }

  #setOutputPort(value: number): void {
    const { s } = this;
    s.outputPort = value;
    s.fast = (s.fast & ~2) | (value & OutputPort.a20);
    if (!(value & OutputPort.reset)) this.reset();
  }

  /** Port 0x92: bit 1 gates A20, bit 0 resets when it rises. */
  writeFast(value: number, old: number): void {
    const { s } = this;
    s.outputPort = (s.outputPort & ~OutputPort.a20) | (value & OutputPort.a20);
    if (value & 1 && !(old & 1)) this.reset();
  }
}
