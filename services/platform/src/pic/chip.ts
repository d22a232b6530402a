/**
 * Two cascaded 8259A (Intel data sheet 231468). Requests are latched at the rising edge and stay until acknowledged,
 * also when the line has fallen again: lines arrive here as edge counts, after the fact.
 */
import { edgesSince, withLevel } from '@nyx/device';
import type { View } from '@nyx/layout';
import { type ChipState, Icw1, Icw4, Ocw2, Ocw3, type PicState } from './regs.ts';

/** Pin of the master that the slave's output is connected to. */
const cascade = 2;
/** Pins that are edge-triggered for good: timer, keyboard, cascade; RTC, coprocessor. */
const elcrMask = [0xf8, 0xde] as const;

type Chip = View<typeof ChipState>;

/** Pin of the highest-priority request that may interrupt now; -1 when there is none. */
function pending(c: Chip, master: boolean): number {
  const requests = c.irr & ~c.imr;
  if (requests === 0) return -1;
  let served = c.isr;
  // Special mask mode: only the level in service itself is held back, and only while it is not masked.
  if (c.specialMask) served &= ~c.imr;
  // Special fully nested: the slave may interrupt again.
  if (c.icw4 & Icw4.nested && master) served &= ~(1 << cascade);
  for (let i = 1; i <= 8; i++) {
    const pin = (c.lowest + i) & 7;
    const bit = 1 << pin;
    if (c.specialMask) {
      if (requests & bit && !(served & bit)) return pin;
      continue;
    }
    if (served & bit) return -1;
    if (requests & bit) return pin;
  }
  return -1;
}

const levelTriggered = (c: Chip): number => (c.icw1 & Icw1.level ? 0xff : c.elcr);

export class Pic {
  constructor(readonly s: View<typeof PicState>) {}

  #chip(i: number): Chip {
    return this.s.chips.at(i);
  }

  /** The pin of this IRQ (0..15) has this word now. */
  line(irq: number, word: number): void {
    const { s } = this;
    const seen = s.words.get(irq);
    if (seen === word) return;
    s.words.set(irq, word);
    this.#pin(this.#chip(irq >> 3), 1 << (irq & 7), (word & 1) !== 0, edgesSince(seen, word) > 0);
    this.update();
  }

  #pin(c: Chip, bit: number, level: boolean, rose: boolean): void {
    if (level) c.levels |= bit;
    else c.levels &= ~bit;
    if (levelTriggered(c) & bit) {
      if (level) c.irr |= bit;
      else c.irr &= ~bit;
    } else if (rose) c.irr |= bit;
  }

  /** Carries the slave's output to the master, and the master's to INTR. */
  update(): void {
    const { s } = this;
    const master = this.#chip(0);
    const out = pending(this.#chip(1), false) >= 0;
    const was = (master.levels & (1 << cascade)) !== 0;
    const pin = 1 << cascade;
    if (out !== was) this.#pin(master, pin, out, out);
    s.intr = withLevel(s.intr, pending(master, true) >= 0);
  }

  /** INTA cycles: the vector. A request that is gone gives the vector of pin 7. */
  acknowledge(): number {
    const { s } = this;
    const master = this.#chip(0);
    const slave = this.#chip(1);
    const pin = pending(master, true);
    let vector: number;
    if (pin < 0) {
      s.spurious = (s.spurious + 1) >>> 0;
      vector = master.vector | 7;
    } else {
      this.#serve(master, pin);
      if (pin !== cascade || master.icw1 & Icw1.single) vector = master.vector | pin;
      else {
        const inner = pending(slave, false);
        if (inner < 0) s.spurious = (s.spurious + 1) >>> 0;
        else this.#serve(slave, inner);
        vector = slave.vector | (inner < 0 ? 7 : inner);
      }
    }
    // While INTA runs, INTR falls: another request is another edge.
    s.intr = withLevel(s.intr, false);
    this.update();
    return vector;
  }

  #serve(c: Chip, pin: number): void {
    const bit = 1 << pin;
    if (!(levelTriggered(c) & bit)) c.irr &= ~bit;
    if (!(c.icw4 & Icw4.autoEoi)) c.isr |= bit;
    else if (c.rotate) c.lowest = pin;
  }

  read(i: number, port: number): number {
    const c = this.#chip(i);
    if (c.poll) {
      c.poll = 0;
      const pin = pending(c, i === 0);
      if (pin >= 0) this.#serve(c, pin);
      this.update();
      return pin < 0 ? 0 : 0x80 | pin;
    }
    return port === 1 ? c.imr : c.readIsr ? c.isr : c.irr;
  }

  write(i: number, port: number, value: number): void {
    const c = this.#chip(i);
    if (port === 0) {
      if (value & Icw1.init) this.#icw1(c, value);
      else if (value & Ocw3.select) this.#ocw3(c, value);
      else this.#ocw2(c, value);
    } else if (c.init === 2) {
      c.vector = value & 0xf8;
      c.init = c.icw1 & Icw1.single ? (c.icw1 & Icw1.icw4 ? 4 : 0) : 3;
    } else if (c.init === 3) c.init = c.icw1 & Icw1.icw4 ? 4 : 0;
    else if (c.init === 4) {
      c.icw4 = value & 0x1f;
      c.init = 0;
    } else c.imr = value;
    this.update();
  }

  #icw1(c: Chip, value: number): void {
    c.icw1 = value & 0x0f;
    c.icw4 = 0;
    c.imr = 0;
    c.isr = 0;
    c.lowest = 7;
    c.readIsr = 0;
    c.poll = 0;
    c.specialMask = 0;
    c.rotate = 0;
    // The edge sense circuit starts anew: a line that is high must fall and rise again.
    c.irr = c.levels & levelTriggered(c);
    c.init = 2;
  }

  #ocw2(c: Chip, value: number): void {
    const command = value >>> 5;
    const named = value & 7;
    switch (command) {
      case Ocw2.rotateAutoClear:
      case Ocw2.rotateAutoSet:
        c.rotate = command >>> 2;
        break;
      case Ocw2.eoi:
      case Ocw2.rotateEoi: {
        // Non-specific: the highest in service; in special mask mode not one that is masked.
        const served = c.specialMask ? c.isr & ~c.imr : c.isr;
        for (let i = 1; i <= 8; i++) {
          const pin = (c.lowest + i) & 7;
          if (!(served & (1 << pin))) continue;
          c.isr &= ~(1 << pin);
          if (command === Ocw2.rotateEoi) c.lowest = pin;
          break;
        }
        break;
      }
      case Ocw2.specific:
        c.isr &= ~(1 << named);
        break;
      case Ocw2.setPriority:
        c.lowest = named;
        break;
      case Ocw2.rotateSpecific:
        c.isr &= ~(1 << named);
        c.lowest = named;
        break;
    }
  }

  #ocw3(c: Chip, value: number): void {
    if (value & Ocw3.poll) c.poll = 1;
    else if (value & Ocw3.read) c.readIsr = value & Ocw3.readIsr;
    if (value & Ocw3.maskSet) c.specialMask = value & Ocw3.mask ? 1 : 0;
  }

  writeElcr(i: number, value: number): void {
    const c = this.#chip(i);
    const next = value & elcrMask[i]!;
    // A level pin follows its line from now on.
    c.irr = (c.irr & ~next) | (c.levels & next);
    c.elcr = next;
    this.update();
  }

  /** Power-on: nothing requested until the lines are told anew; INTR falls. */
  reset(): void {
    const { s } = this;
    for (let irq = 0; irq < 16; irq++)
      if (irq !== cascade && s.words.get(irq) & 1) this.#chip(irq >> 3).levels |= 1 << (irq & 7);
    s.intr = withLevel(s.intr, false);
  }
}
