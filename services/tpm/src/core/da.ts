/** Protection against dictionary attacks (part 1, 19.8). */
import { RC, RH } from '../spec/constants.ts';
import { refuse } from '../spec/refusal.ts';
import type { Tpm } from './tpm.ts';

/** TPM time (ms) from which the next recovery counts: of the tries, and of lockoutAuth. */
export class DictionaryAttack {
  triesFrom = 0;
  lockoutFrom = 0;
  private readonly tpm: Tpm;
  constructor(tpm: Tpm) {
    this.tpm = tpm;
  }

  startup(): void {
    this.triesFrom = this.tpm.clock.time;
    this.lockoutFrom = this.tpm.clock.time;
    const p = this.tpm.persistent;
    if (p.lockoutRecovery === 0 && !p.lockoutEnabled) {
      p.lockoutEnabled = 1;
      this.tpm.touchPersistent();
    }
  }

  /** Forgives what time has healed; before every command. */
  heal(): void {
    const p = this.tpm.persistent;
    const now = this.tpm.clock.time;
    if (p.failedTries > 0) {
      const healed =
        p.recoveryTime === 0 ? p.failedTries : Math.floor((now - this.triesFrom) / 1000 / p.recoveryTime);
      if (healed > 0) {
        p.failedTries = Math.max(0, p.failedTries - healed);
        this.triesFrom += healed * p.recoveryTime * 1000;
        this.tpm.touchPersistent();
      }
    }
    if (!p.lockoutEnabled && p.lockoutRecovery > 0 && now - this.lockoutFrom >= p.lockoutRecovery * 1000) {
      p.lockoutEnabled = 1;
      this.tpm.touchPersistent();
    }
  }

  check(lockoutAuth: boolean): void {
    const p = this.tpm.persistent;
    if (lockoutAuth ? !p.lockoutEnabled : p.failedTries >= p.maxTries) refuse(RC.LOCKOUT);
  }

  /** A wrong authorization of something protected. */
  failed(handle: number): void {
    const p = this.tpm.persistent;
    if (handle === RH.LOCKOUT) {
      p.lockoutEnabled = 0;
      this.lockoutFrom = this.tpm.clock.time;
    } else if (p.recoveryTime !== 0) {
      p.failedTries++;
      this.triesFrom = this.tpm.clock.time;
    }
    this.tpm.touchPersistent();
  }
}
