/** The watchdog's logic. Time is guest time; it stands still while the machine is paused, so nothing expires then. */
import { RegisterBank, type View } from '@nyx/layout';
import {
  Config,
  configRegisters,
  type I6300State,
  Lock,
  PRELOAD_MASK,
  pciHz,
  Reload,
  windowRegisters,
} from './regs.ts';

/** A stage lasts at least so long: a guest may ask for a microsecond, again and again. */
const shortestNs = 1_000_000;

export class I6300 {
  readonly window: RegisterBank<string>;
  readonly config: RegisterBank<string>;

  constructor(
    readonly s: View<typeof I6300State>,
    readonly now: () => number,
  ) {
    this.window = new RegisterBank<string>(
      windowRegisters,
      s,
      {
        read: { reload: () => (s.timeout ? Reload.timeout : 0) },
        write: {
          timer1: (v) => this.#unlocked(() => void (s.timer1 = v & PRELOAD_MASK)),
          timer2: (v) => this.#unlocked(() => void (s.timer2 = v & PRELOAD_MASK)),
          reload: (v) => this.#reload(v),
        },
      },
      0,
    );
    this.config = new RegisterBank<string>(configRegisters, s, { write: { lock: (v) => this.#lock(v) } }, 0);
  }

  /** 16.5.4: 0x80, then 0x86, open the registers for one write. */
  #reload(value: number): void {
    const { s } = this;
    if (value === Reload.unlock1) s.unlock = 1;
    else if (value === Reload.unlock2 && s.unlock === 1) s.unlock = 2;
    else
      this.#unlocked(() => {
        if (value & Reload.timeout) s.timeout = 0;
        if (value & Reload.reload && s.lock & Lock.enabled) this.#begin(1);
      });
  }

  #unlocked(change: () => void): void {
    if (this.s.unlock === 2) change();
    this.s.unlock = 0;
  }

  #lock(value: number): void {
    const { s } = this;
    if (s.lock & Lock.locked) return;
    const before = s.lock;
    s.lock = value & (Lock.locked | Lock.enabled | Lock.free);
    if (!(s.lock & Lock.enabled)) this.#stop();
    else if (!(before & Lock.enabled)) this.#begin(1);
  }

  #begin(stage: 1 | 2): void {
    const { s } = this;
    const ticks = (stage === 1 ? s.timer1 : s.timer2) * (s.config & Config.fast ? 32 : 32_768);
    s.stage = stage;
    s.deadline = Math.round(this.now() + Math.max(shortestNs, (ticks / pciHz) * 1e9));
  }

  #stop(): void {
    this.s.stage = 0;
    this.s.deadline = 0;
  }

  /** The stage that was under way is over. */
  expire(): void {
    const { s } = this;
    if (s.stage === 0 || this.now() < s.deadline) return;
    if (s.stage === 1) {
      if ((s.config & Config.interruptType) !== Config.interruptType) s.interrupt = 1;
      this.#begin(2);
      return;
    }
    if (s.config & Config.noOutput) {
      if (s.lock & Lock.free) this.#begin(1);
      else this.#stop();
      return;
    }
    // Once: what is done is not the watchdog's to say, and it does not bite again before somebody starts it anew.
    s.timeout = 1;
    s.expired = (s.expired + 1) >>> 0;
    s.lock = 0;
    this.#stop();
  }
}
