/** ACPI fixed hardware: PM1 events, sleep control, the PM timer and its overflow, general-purpose events, SCI. */
import { nsOfTick, ticksAt, withLevel } from '@nyx/device';
import { RegisterBank, type View } from '@nyx/layout';
import { Control, Pm1, type PmState, pmRegisters, pmTimerHz, SleepType } from './regs.ts';

export class AcpiPm {
  readonly bank: RegisterBank<string>;

  /** @param sleep asks the machine to enter S3 or S5 */
  constructor(
    readonly s: View<typeof PmState>,
    readonly now: () => number,
    readonly sleep: (state: 's3' | 's5') => void,
    readonly timerBits: number,
  ) {
    const update = (): void => this.update();
    this.bank = new RegisterBank<string>(
      pmRegisters,
      s,
      {
        read: {
          pm1Status: () => {
            this.catchUp();
            return s.pm1Status;
          },
          pmTimer: () => this.#ticks() % 2 ** timerBits,
        },
        write: {
          pmTimer: () => {},
          pm1Status: (value, mask) => {
            this.catchUp();
            s.pm1Status &= ~(value & mask & 0x8731);
            this.update();
          },
          pm1Control: (value, mask) => this.#control(value, mask),
        },
        changed: {
          pm1Enable: () => this.catchUp(),
          gpeStatusLo: update,
          gpeStatusHi: update,
          gpeEnableLo: update,
          gpeEnableHi: update,
        },
      },
      0,
    );
  }

  #ticks(): number {
    return ticksAt(this.now(), pmTimerHz);
  }

  /** Half a period of the timer, in ticks: its top bit changes this often. */
  get #half(): number {
    return 2 ** (this.timerBits - 1);
  }

  /** TMR_STS is set whenever the top bit changes (section 4.8.3.3). */
  catchUp(): void {
    const { s } = this;
    const halves = Math.floor(this.#ticks() / this.#half) >>> 0;
    if (halves !== s.halves) {
      s.halves = halves;
      s.pm1Status |= Pm1.timer;
    }
    this.update();
  }

  update(): void {
    const { s } = this;
    const gpe = (s.gpeStatusLo & s.gpeEnableLo) | (s.gpeStatusHi & s.gpeEnableHi);
    s.irq = withLevel(s.irq, (s.pm1Status & s.pm1Enable) !== 0 || gpe !== 0);
  }

  /** Guest ns of the next overflow that would interrupt; Infinity: none. */
  get next(): number {
    const { s } = this;
    if (!(s.pm1Enable & Pm1.timer) || s.pm1Status & Pm1.timer) return Number.POSITIVE_INFINITY;
    return nsOfTick((s.halves + 1) * this.#half, pmTimerHz);
  }

  powerButton(): void {
    this.s.pm1Status |= Pm1.powerButton;
    this.update();
  }

  #control(value: number, mask: number): void {
    const { s } = this;
    const writable = (Control.sleepType | 2) & mask;
    s.pm1Control = (s.pm1Control & ~writable) | (value & writable);
    if (!(value & mask & Control.sleepEnable)) return;
    const type = (s.pm1Control & Control.sleepType) >>> Control.sleepShift;
    if (type === SleepType.s3) this.sleep('s3');
    else if ((SleepType.s5 as readonly number[]).includes(type)) this.sleep('s5');
  }

  reset(): void {
    const { s } = this;
    const timer = s.pmTimer.at(0);
    timer.hz = pmTimerHz;
    timer.bits = this.timerBits;
    s.halves = Math.floor(this.#ticks() / this.#half) >>> 0;
    s.irq = withLevel(s.irq, false);
  }
}
