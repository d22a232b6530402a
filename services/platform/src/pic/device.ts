/**
 * The 8259A pair. Regions 0 and 1: ports of master and slave; 2: ELCR. Interrupt 0: INTR, to the boot CPU's LINT0.
 * GSI n is IRQ n, but for the timer: GSI 2 of the IOAPIC, IRQ 0 here.
 */
import { banked, defineDevice } from '@nyx/device';
import { RegisterBank } from '@nyx/layout';
import { Pic } from './chip.ts';
import { chipRegisters, elcrRegisters, PicState } from './regs.ts';

/** -1: that pin is the IOAPIC's alone. */
const irqOf = (gsi: number): number => (gsi === 2 ? 0 : gsi < 16 && gsi !== 0 ? gsi : -1);

export const pic = defineDevice({
  kind: 'pic8259',
  stateVersion: 1,
  state: PicState,
  regions: [
    { name: 'master', size: 2, table: chipRegisters },
    { name: 'slave', size: 2, table: chipRegisters },
    { name: 'elcr', size: 2, table: elcrRegisters },
  ],
  ranges: 0,
  keep: ['words', 'intr', 'spurious'],
  irqs: () => 1,
  early: () => true,
  create(ctx) {
    const s = ctx.state;
    const chip = new Pic(s);
    const ports = (i: number) =>
      new RegisterBank<string>(
        chipRegisters,
        {},
        {
          read: { command: () => chip.read(i, 0), data: () => chip.read(i, 1) },
          write: { command: (v) => chip.write(i, 0, v), data: (v) => chip.write(i, 1, v) },
        },
      );
    const elcr = new RegisterBank<string>(
      elcrRegisters,
      {},
      {
        read: { elcr0: () => s.chips.at(0).elcr, elcr1: () => s.chips.at(1).elcr },
        write: { elcr0: (v) => chip.writeElcr(0, v), elcr1: (v) => chip.writeElcr(1, v) },
      },
    );
    return {
      ...banked(ctx, [ports(0), ports(1), elcr]),
      intAck: () => chip.acknowledge(),
      line(gsi, word) {
        const irq = irqOf(gsi);
        if (irq >= 0) chip.line(irq, word);
      },
      hasHeard(gsi, word) {
        const irq = irqOf(gsi);
        return irq < 0 || s.words.get(irq) === word;
      },
      reset: () => chip.reset(),
      settle: () => ctx.line(0, s.intr),
    };
  },
});
