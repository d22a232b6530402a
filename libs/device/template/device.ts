/** The doorbell as a device. Copy this folder to begin one of your own (docs/writing-a-device.md). */
import { banked, defineDevice, withLevel } from '@nyx/device';
import { Doorbell } from './chip.ts';
import { DoorbellState, doorbellRegisters } from './regs.ts';

export const doorbell = defineDevice({
  kind: 'doorbell',
  stateVersion: 1,
  state: DoorbellState,
  regions: [{ name: 'registers', size: 0x20, table: doorbellRegisters }],
  ranges: 0,
  keep: ['irq'],
  irqs: () => 1,
  create(ctx) {
    const s = ctx.state;
    const chip = new Doorbell(s, () => ctx.now());
    return {
      ...banked(ctx, [chip.bank]),
      reset() {
        s.irq = withLevel(s.irq, false);
      },
      settle() {
        ctx.line(0, s.irq);
        ctx.timerAt(s.alarm || Number.POSITIVE_INFINITY);
      },
      timer: () => chip.alarm(),
    };
  },
});
