/** The controller beside its ports: global registers (AHCI 1.3.1 section 3.1), the register bank, and interrupts (10.7). */
import type { Msi, PciFunction } from '@nyx/device';
import { RegisterBank, type View } from '@nyx/layout';
import type { Port } from './port.ts';
import { type AhciState, Ghc, hbaRegisters, portName } from './regs.ts';

export class Hba {
  readonly bank: RegisterBank<string>;
  /** A write left interrupts pending, or let them out: the message is sent again. transient: of the exit under way. */
  #again = false;

  /** @param resetAll GHC.HR was written */
  constructor(
    private readonly s: View<typeof AhciState>,
    private readonly ports: readonly Port[],
    private readonly fn: PciFunction,
    private readonly msi: Msi,
    resetAll: () => void,
  ) {
    const write: Record<string, (value: number, mask: number) => void> = {
      is: (value) => {
        s.is = (s.is & ~value) >>> 0;
        if (s.is !== 0) this.#again = true;
      },
      ghc: (value) => {
        if (value & Ghc.hr) resetAll();
        else {
          if (value & ~s.ghc & Ghc.ie) this.#again = true;
          s.ghc = (Ghc.ae | (value & Ghc.ie)) >>> 0;
        }
      },
    };
    const changed: Record<string, (value: number, old: number) => void> = {};
    ports.forEach((port, i) => {
      const name = (n: string): string => portName(i, n);
      write[name('cmd')] = (value) => port.writeCommand(value);
      write[name('sact')] = (value, mask) => port.writeActive((value & mask) >>> 0);
      write[name('ci')] = (value, mask) => port.writeIssue((value & mask) >>> 0);
      changed[name('sctl')] = (value, old) => port.writeControl(value, old);
    });
    this.bank = new RegisterBank(hbaRegisters, s, { write, changed }, 0);
  }

  /** Command register or MSI control changed: what is pending may go out another way now. In a handler. */
  pciChanged(): void {
    this.#again = true;
    for (const p of this.ports) p.run();
    this.update();
  }

  /**
   * Bits of IS follow their ports, and stay; the wire follows IS; a message goes out for a new bit, and when a write left
   * some (10.7.2.2). In a handler, after all else.
   */
  update(): void {
    const { s, ports } = this;
    let is = s.is;
    for (let i = 0; i < ports.length; i++) {
      const port = ports[i]!;
      port.mirror();
      if (port.s.is & port.s.ie) is |= 1 << i;
    }
    const fresh = (is & ~s.is) !== 0;
    s.is = is;
    const on = (s.ghc & Ghc.ie) !== 0 && is !== 0;
    this.fn.interrupt(on && !this.msi.enabled);
    if (on && (fresh || this.#again)) this.msi.signal();
    this.#again = false;
  }
}
