/** Attachment of the watchdog. Region 0: its registers (BAR 0). Interrupts of the first stage are shown, not raised. */
import { type Bar, banked, defineDevice, PciFunction, rangesOf } from '@nyx/device';
import { I6300 } from './chip.ts';
import { configRegisters, I6300State, identity, windowBytes, windowRegisters } from './regs.ts';

const bars: readonly Bar[] = [{ index: 0, kind: 'mem32', size: windowBytes, region: 0, range: 0 }];

export const i6300esb = defineDevice({
  kind: 'i6300esb',
  stateVersion: 1,
  state: I6300State,
  regions: [{ name: 'registers', size: windowBytes, table: windowRegisters }],
  ranges: rangesOf(bars),
  // After a reset the guest asks whether it was us.
  keep: ['timeout', 'expired'],
  irqs: () => 0,
  early: () => true,
  create(ctx) {
    const s = ctx.state;
    const chip = new I6300(s, () => ctx.now());
    const fn = new PciFunction(
      { identity, bars },
      s.pci.at(0),
      ctx,
      {},
      { table: configRegisters, bank: chip.config },
    );
    /** transient: a successor tells again, and is not believed. */
    let told = 0;
    return {
      ...banked(ctx, [chip.window]),
      configRead: (_fn, register, width) => fn.read(register, width),
      configWrite: (_fn, register, width, value) => fn.write(register, width, value),
      timer: () => chip.expire(),
      reset: () => fn.reset(),
      settle() {
        ctx.timerAt(s.stage === 0 ? Number.POSITIVE_INFINITY : s.deadline);
        if (s.expired === told) return;
        told = s.expired;
        ctx.raise?.('watchdogExpired', { count: told });
      },
    };
  },
});
