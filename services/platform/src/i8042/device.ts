/**
 * Keyboard controller. Regions: 0 port 0x60, 1 port 0x64, 2 port 0x92. Interrupts: 0 IRQ 1, 1 IRQ 12. A20 is kept and
 * read back; memory is never wrapped at 1 MiB, as on machines whose chipset has retired the gate.
 */
import { banked, defineDevice, withLevel } from '@nyx/device';
import { RegisterBank } from '@nyx/layout';
import { MachineEvent } from '@nyx/ring';
import { I8042 } from './chip.ts';
import { commandRegisters, dataRegisters, fastRegisters, I8042State } from './regs.ts';

export const i8042 = defineDevice({
  kind: 'i8042',
  stateVersion: 1,
  state: I8042State,
  regions: [
    { name: 'data', size: 1, table: dataRegisters },
    { name: 'command', size: 1, table: commandRegisters },
    { name: 'fast', size: 1, table: fastRegisters },
  ],
  ranges: 0,
  keep: ['irqKeyboard', 'irqMouse'],
  irqs: () => 2,
  early: () => true,
  create(ctx) {
    const s = ctx.state;
    const chip = new I8042(s, () => ctx.machineEvent(MachineEvent.reset));
    const data = new RegisterBank<string>(
      dataRegisters,
      {},
      { read: { data: () => chip.readData() }, write: { data: (v) => chip.writeData(v) } },
    );
    const command = new RegisterBank<string>(
      commandRegisters,
      {},
      { read: { command: () => chip.readStatus() }, write: { command: (v) => chip.writeCommand(v) } },
    );
    const fast = new RegisterBank<string>(fastRegisters, s, {
      changed: { fast: (v, old) => chip.writeFast(v, old) },
    });
    return {
      ...banked(ctx, [data, command, fast]),
      reset() {
        s.irqKeyboard = withLevel(s.irqKeyboard, false);
        s.irqMouse = withLevel(s.irqMouse, false);
      },
      settle() {
        ctx.line(0, s.irqKeyboard);
        ctx.line(1, s.irqMouse);
      },
    };
  },
});
