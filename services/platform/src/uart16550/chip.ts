/**
 * 16550A UART (PC16550D data sheet, SNLS378). The line is infinitely fast: a byte written to THR is on the wire at once,
 * so the transmitter is always empty again; a received byte waits at the other end until the FIFO has room.
 */
import { withLevel } from '@nyx/device';
import { RegisterBank, type View } from '@nyx/layout';
import {
  clockHz,
  Fcr,
  fifoSize,
  Ier,
  Iir,
  Lcr,
  Lsr,
  Mcr,
  Msr,
  type UartState,
  uartRegisters,
} from './regs.ts';

/** The other end of the line. */
export interface UartLine {
  /** Sends byte number `position`. */
  put(position: number, byte: number): void;
  /** Bytes that wait beyond `position`. */
  available(position: number): number;
  get(position: number): number;
}

const triggers = [1, 4, 8, 14] as const;

export class Uart16550 {
  readonly bank: RegisterBank<string>;

  constructor(
    readonly s: View<typeof UartState>,
    readonly line: UartLine,
    readonly now: () => number,
  ) {
    this.bank = new RegisterBank<string>(uartRegisters, s, {
      read: {
        data: () => (s.lcr & Lcr.dlab ? s.divisor & 0xff : this.#receive()),
        ier: () => (s.lcr & Lcr.dlab ? s.divisor >>> 8 : s.ier),
        iir: () => this.#identify(),
        lsr: () => this.#lineStatus(),
        msr: () => this.#modemStatus(),
      },
      write: {
        data: (v) => {
          if (s.lcr & Lcr.dlab) s.divisor = (s.divisor & 0xff00) | v;
          else this.transmit(v);
        },
        ier: (v) => this.#writeIer(v),
        iir: (v) => this.#writeFcr(v),
        // Factory test only: ignored.
        lsr: () => {},
        msr: () => {},
      },
      changed: { lcr: (v, old) => this.#lineControl(v, old), mcr: () => this.#modemLines() },
    });
  }

  get fifo(): boolean {
    return (this.s.fcr & Fcr.enable) !== 0;
  }
  get level(): number {
    return this.fifo ? triggers[this.s.fcr >>> 6]! : 1;
  }

  /** Takes what waits on the line, as far as the FIFO has room. Host input arrived, or the guest made room. */
  pull(): void {
    const { s, line } = this;
    const size = this.fifo ? fifoSize : 1;
    for (let n = s.mcr & Mcr.loop ? 0 : line.available(s.inTail); n > 0 && s.rxCount < size; n--) {
      this.#push(line.get(s.inTail), 0);
      s.inTail = (s.inTail + 1) >>> 0;
    }
    this.#update();
  }

  /** Bytes wait that `pull` could take. */
  get wantsPull(): boolean {
    const { s } = this;
    return !(s.mcr & Mcr.loop) && s.rxCount < (this.fifo ? fifoSize : 1) && this.line.available(s.inTail) > 0;
  }

  /** The character timeout passed: four characters' time without a read or a new byte (section 8.4.1). */
  timeout(): void {
    const { s } = this;
    if (s.timeoutAt === 0 || this.now() < s.timeoutAt) return;
    s.timeoutAt = 0;
    if (this.fifo && s.rxCount > 0) s.timeout = 1;
    this.#update();
  }

  transmit(byte: number): void {
    const { s } = this;
    // Loading THR takes the request away; the byte leaves at once and the request is back: a new edge.
    s.threPending = 0;
    this.#update();
    if (s.mcr & Mcr.loop) {
      if (!(s.lcr & Lcr.break)) this.#loop(byte & (0xff >>> (3 - (s.lcr & Lcr.length))), 0);
    } else {
      this.line.put(s.outHead, byte);
      s.outHead = (s.outHead + 1) >>> 0;
    }
    s.threPending = 1;
    this.#update();
  }

  #receive(): number {
    const { s } = this;
    // Empty: a FIFO gives nothing, the one holding register what it held.
    if (s.rxCount === 0) return this.fifo ? 0 : s.rx.get(s.rxHead);
    const byte = s.rx.get(s.rxHead);
    if (this.fifo) s.rxHead = (s.rxHead + 1) % fifoSize;
    s.rxCount--;
    if (s.rxCount > 0) s.errors |= s.rxErrors.get(s.rxHead);
    s.timeout = 0;
    this.#restartTimeout();
    this.pull();
    return byte;
  }

  #loop(byte: number, errors: number): void {
    this.#push(byte, errors);
    this.#update();
  }

  #push(byte: number, errors: number): void {
    const { s } = this;
    if (this.fifo) {
      // A full FIFO keeps its bytes; the one in the shift register is lost.
      if (s.rxCount === fifoSize) {
        s.errors |= Lsr.overrun;
        return;
      }
      const at = (s.rxHead + s.rxCount) % fifoSize;
      s.rx.set(at, byte);
      s.rxErrors.set(at, errors);
      if (s.rxCount === 0) s.errors |= errors;
      s.rxCount++;
    } else {
      if (s.rxCount > 0) s.errors |= Lsr.overrun;
      s.rx.set(s.rxHead, byte);
      s.rxErrors.set(s.rxHead, errors);
      s.errors |= errors;
      s.rxCount = 1;
    }
    s.timeout = 0;
    this.#restartTimeout();
  }

  #restartTimeout(): void {
    const { s } = this;
    if (!this.fifo || s.rxCount === 0) {
      s.timeoutAt = 0;
      return;
    }
    const bits = 7 + (s.lcr & Lcr.length) + (s.lcr & Lcr.stop ? 1 : 0) + (s.lcr & Lcr.parity ? 1 : 0);
    s.timeoutAt = this.now() + Math.ceil((4 * bits * 16 * (s.divisor || 1) * 1e9) / clockHz);
  }

  #identify(): number {
    const { s } = this;
    const cause = this.#cause();
    if (cause === Iir.thre) {
      s.threPending = 0;
      this.#update();
    }
    return cause | (this.fifo ? Iir.fifo : 0);
  }

  /** The highest pending and enabled cause (table 5). */
  #cause(): number {
    const { s } = this;
    const { ier } = s;
    if (ier & Ier.line && s.errors) return Iir.line;
    if (ier & Ier.data && s.timeout) return Iir.timeout;
    if (ier & Ier.data && s.rxCount >= this.level) return Iir.data;
    if (ier & Ier.thre && s.threPending) return Iir.thre;
    if (ier & Ier.modem && s.delta) return Iir.modem;
    return Iir.none;
  }

  #update(): void {
    this.s.irq = withLevel(this.s.irq, this.#cause() !== Iir.none);
  }

  #lineStatus(): number {
    const { s } = this;
    let value = s.errors | Lsr.thre | Lsr.temt | (s.rxCount > 0 ? Lsr.ready : 0);
    if (this.fifo)
      for (let i = 0; i < s.rxCount; i++) if (s.rxErrors.get((s.rxHead + i) % fifoSize)) value |= Lsr.fifo;
    s.errors = 0;
    // The error of the byte at the top has been told.
    if (s.rxCount > 0) s.rxErrors.set(s.rxHead, 0);
    this.#update();
    return value;
  }

  #modemStatus(): number {
    const { s } = this;
    const value = s.modem | s.delta;
    s.delta = 0;
    this.#update();
    return value;
  }

  #writeIer(value: number): void {
    const { s } = this;
    if (s.lcr & Lcr.dlab) {
      s.divisor = (s.divisor & 0xff) | (value << 8);
      return;
    }
    // Enabling the interrupt while the transmitter is empty, which it always is, requests one.
    if (value & Ier.thre && !(s.ier & Ier.thre)) s.threPending = 1;
    s.ier = value & 0x0f;
    this.#update();
  }

  #writeFcr(value: number): void {
    const { s } = this;
    const toggled = (value ^ s.fcr) & Fcr.enable;
    if (toggled || (value & Fcr.enable && value & Fcr.clearRx)) {
      s.rxHead = 0;
      s.rxCount = 0;
      s.rx.fill(0);
      s.rxErrors.fill(0);
      s.timeout = 0;
      s.timeoutAt = 0;
    }
    // An emptied transmitter FIFO asks for bytes anew. The data sheet leaves it open; QEMU does so, and drivers know QEMU.
    if (toggled || (value & Fcr.enable && value & Fcr.clearTx)) s.threPending = 1;
    // Without bit 0 the other bits are not programmed.
    s.fcr = value & Fcr.enable ? value & (Fcr.enable | Fcr.trigger) : 0;
    this.pull();
  }

  #lineControl(value: number, old: number): void {
    const { s } = this;
    if (s.mcr & Mcr.loop && value & Lcr.break && !(old & Lcr.break)) this.#loop(0, Lsr.break);
  }

  /** What MSR bits 4..7 see: a modem that is there, or in loopback the MCR outputs (section 8.6.4). */
  #modemLines(): void {
    const { s } = this;
    const { mcr } = s;
    const lines =
      mcr & Mcr.loop
        ? (mcr & Mcr.rts ? Msr.cts : 0) |
          (mcr & Mcr.dtr ? Msr.dsr : 0) |
          (mcr & Mcr.out1 ? Msr.ri : 0) |
          (mcr & Mcr.out2 ? Msr.dcd : 0)
        : Msr.cts | Msr.dsr | Msr.dcd;
    const changed = lines ^ s.modem;
    // The ring indicator counts only when it ends.
    s.delta |=
      ((changed & (Msr.cts | Msr.dsr | Msr.dcd)) >>> 4) | (changed & s.modem & Msr.ri ? Msr.teri : 0);
    s.modem = lines;
    this.pull();
  }
}
