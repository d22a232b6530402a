/**
 * ACPI power management. Region 0: the 128 ports at PMBASE (0x600); 1: APM, ports 0xB2 and 0xB3. Interrupt 0: SCI.
 * Descriptor `powerButton` (optional eventfd): somebody pressed it.
 */
import { banked, defineDevice } from '@nyx/device';
import { RegisterBank } from '@nyx/layout';
import { MachineEvent } from '@nyx/ring';
import { AcpiPm } from './chip.ts';
import { apmRegisters, PmState, pmRegisters } from './regs.ts';

export interface PmConfig {
  /** Width of the PM timer as the FADT tells it (TMR_VAL_EXT): 24 or 32, default 32. */
  timerBits?: number;
}

export const acpiPm = defineDevice({
  kind: 'acpi-pm',
  stateVersion: 1,
  state: PmState,
  regions: [
    { name: 'pm', size: 0x80, table: pmRegisters },
    { name: 'apm', size: 2, table: apmRegisters },
  ],
  ranges: 0,
  keep: ['irq'],
  irqs: () => 1,
  early: () => true,
  create(ctx, config: PmConfig) {
    const s = ctx.state;
    const sleep = (state: 's3' | 's5'): void =>
      ctx.machineEvent(state === 's3' ? MachineEvent.suspend : MachineEvent.shutdown);
    const chip = new AcpiPm(s, () => ctx.now(), sleep, config.timerBits === 24 ? 24 : 32);
    if (ctx.has('powerButton')) ctx.watch(ctx.fd('powerButton'), () => ctx.event(() => chip.powerButton()));
    return {
      ...banked(ctx, [chip.bank, new RegisterBank<string>(apmRegisters, s)]),
      reset: () => chip.reset(),
      settle() {
        ctx.line(0, s.irq);
        ctx.timerAt(chip.next);
      },
      timer: () => chip.catchUp(),
    };
  },
});
