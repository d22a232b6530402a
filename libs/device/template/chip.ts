/** What the doorbell does: pure logic over its state. No bus, no interrupt controller, no clock of its own. */
import { withLevel } from '@nyx/device';
import { RegisterBank, type View } from '@nyx/layout';
import { type DoorbellState, doorbellRegisters } from './regs.ts';

export class Doorbell {
  readonly bank: RegisterBank<string>;

  constructor(
    readonly s: View<typeof DoorbellState>,
    readonly now: () => number,
  ) {
    this.bank = new RegisterBank<string>(doorbellRegisters, s, {
      read: { ring: () => 0, taken: () => this.#take() },
      write: { ring: (n) => this.#ring(n) },
      changed: { status: () => this.#update() },
    });
  }

  #ring(n: number): void {
    this.s.taken = (this.s.taken + n) >>> 0;
    if (n > 0) this.s.status |= 1;
    this.#update();
  }

  #take(): number {
    const n = this.s.taken;
    this.s.taken = 0;
    return n;
  }

  /** The alarm's time has come. */
  alarm(): void {
    if (this.s.alarm === 0 || this.now() < this.s.alarm) return;
    this.s.alarm = 0;
    this.s.status |= 2;
    this.#update();
  }

  #update(): void {
    this.s.irq = withLevel(this.s.irq, this.s.status !== 0);
  }
}
