/** The host bridge's own registers, and the ECAM window that they open. */
import { RegisterBank, type View } from '@nyx/layout';
import { type MchState, mchRegisters, PciExBar, Smram } from './regs.ts';

const lengths = [0x1000_0000, 0x0800_0000, 0x0400_0000, 0] as const;

export class Mch {
  readonly bank: RegisterBank<string>;

  /** @param window shows the ECAM window, or takes it away (length 0) */
  constructor(
    readonly s: View<typeof MchState>,
    readonly window: (base: number, length: number) => void,
  ) {
    const changed = (): void => this.publish();
    this.bank = new RegisterBank<string>(
      mchRegisters,
      s,
      {
        write: {
          // D_LCK makes the register read-only, and closes what was open.
          smram: (value) => {
            if (s.smram & Smram.locked) return;
            s.smram = (value & (value & Smram.locked ? 0x38 : 0x78)) | Smram.base;
          },
        },
        changed: { pciexbarLo: changed, pciexbarHi: changed },
      },
      0,
    );
  }

  publish(): void {
    const { s } = this;
    const length = s.pciexbarLo & PciExBar.enable ? lengths[(s.pciexbarLo & PciExBar.length) >>> 1]! : 0;
    const low = s.pciexbarLo & 0xfc00_0000;
    const base = s.pciexbarHi * 4294967296 + (low >>> 0);
    // The base is a multiple of the length: bits below it do not count.
    if (length === 0 || base < length) this.window(0, 0);
    else this.window(base - (base % length), length);
  }
}
