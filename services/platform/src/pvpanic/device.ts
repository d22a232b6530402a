/** Attachment of pvpanic. Region 0: its port (0x505). */
import { banked, defineDevice } from '@nyx/device';
import { RegisterBank } from '@nyx/layout';
import { MachineEvent } from '@nyx/ring';
import { PanicEvent, PvpanicState, pvpanicRegisters, supported } from './regs.ts';

export const pvpanic = defineDevice({
  kind: 'pvpanic',
  stateVersion: 1,
  state: PvpanicState,
  regions: [{ name: 'port', size: 1, table: pvpanicRegisters }],
  ranges: 0,
  irqs: () => 0,
  early: () => true,
  create(ctx) {
    const happened = (events: number): void => {
      ctx.state.last = events & supported;
      if (events & PanicEvent.panicked) ctx.machineEvent(MachineEvent.panic);
      else if (events & PanicEvent.crashLoaded) ctx.machineEvent(MachineEvent.crashLoaded);
      else if (events & PanicEvent.shutdown) ctx.machineEvent(MachineEvent.shutdown);
      else ctx.log('warn', `unknown events ${events.toString(16)}`);
    };
    return {
      ...banked(ctx, [
        new RegisterBank<string>(
          pvpanicRegisters,
          {},
          { read: { events: () => supported }, write: { events: happened } },
        ),
      ]),
      reset() {},
      settle() {},
    };
  },
});
