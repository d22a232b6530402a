/**
 * LPC bridge, function 00:1f.0. Region 0: port 0xCF9; region 1: chipset registers, shown by RCBA (range 0). It hears the
 * PCI lines (GSI 16..23 are PIRQ A..H) and passes them to the IRQs that firmware routed them to: interrupt n is IRQ n.
 */
import { banked, defineDevice, PciFunction, withLevel } from '@nyx/device';
import { RegisterBank } from '@nyx/layout';
import { MachineEvent, Space } from '@nyx/ring';
import {
  identity,
  LpcState,
  lpcRegisters,
  Pirq,
  pirqs,
  Reset,
  rcrbBytes,
  rcrbRegisters,
  resetRegisters,
  routable,
} from './regs.ts';

const firstPirq = 16;

export const lpc = defineDevice({
  kind: 'lpc',
  stateVersion: 1,
  state: LpcState,
  regions: [
    { name: 'reset', size: 1, table: resetRegisters },
    { name: 'rcrb', size: rcrbBytes, table: rcrbRegisters },
  ],
  ranges: 1,
  keep: ['words', 'levels'],
  irqs: () => 16,
  early: () => true,
  create(ctx) {
    const s = ctx.state;
    const pirq = [
      () => s.pirqA,
      () => s.pirqB,
      () => s.pirqC,
      () => s.pirqD,
      () => s.pirqE,
      () => s.pirqF,
      () => s.pirqG,
      () => s.pirqH,
    ];

    const update = (): void => {
      let asserted = 0;
      for (let i = 0; i < pirqs; i++) {
        const value = pirq[i]!();
        if (s.levels & (1 << i) && !(value & Pirq.off)) asserted |= 1 << (value & Pirq.irq);
      }
      asserted &= routable;
      for (let irq = 3; irq < 16; irq++)
        s.words.set(irq, withLevel(s.words.get(irq), (asserted & (1 << irq)) !== 0));
    };
    const publish = (): void => {
      if (s.rcba & 1) ctx.setRange(0, Space.mmio, 1, (s.rcba & ~0x3fff) >>> 0, rcrbBytes);
      else ctx.setRange(0, Space.none, 0, 0, 0);
    };

    const changed = {
      pirqA: update,
      pirqB: update,
      pirqC: update,
      pirqD: update,
      pirqE: update,
      pirqF: update,
      pirqG: update,
      pirqH: update,
      rcba: publish,
    };
    const bank = new RegisterBank<string>(lpcRegisters, s, { changed }, 0);
    const fn = new PciFunction(
      { identity, commandMask: 0x0140, commandOnes: 0x0007 },
      s.pci.at(0),
      ctx,
      {},
      { table: lpcRegisters, bank },
    );
    const reset = new RegisterBank<string>(resetRegisters, s, {
      changed: {
        // The reset happens when bit 2 rises.
        resetControl: (value, old) => {
          if (value & Reset.cpu && !(old & Reset.cpu)) ctx.machineEvent(MachineEvent.reset);
        },
      },
    });
    const rcrb = new RegisterBank<string>(rcrbRegisters, s, {}, 0);
    return {
      ...banked(ctx, [reset, rcrb]),
      configRead: (_fn, register, width) => fn.read(register, width),
      configWrite: (_fn, register, width, value) => fn.write(register, width, value),
      line(gsi, word) {
        if (gsi < firstPirq || gsi >= firstPirq + pirqs) return;
        const bit = 1 << (gsi - firstPirq);
        s.levels = word & 1 ? s.levels | bit : s.levels & ~bit;
        update();
      },
      hasHeard: (gsi, word) =>
        gsi < firstPirq || gsi >= firstPirq + pirqs || ((s.levels >> (gsi - firstPirq)) & 1) === (word & 1),
      reset() {
        update();
        publish();
      },
      settle() {
        for (let irq = 3; irq < 16; irq++) if (routable & (1 << irq)) ctx.line(irq, s.words.get(irq));
      },
    };
  },
});
