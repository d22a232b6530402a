/** The 8254. Region 0: ports 0x40..0x43; 1: port 0x61. Interrupt 0: output of counter 0. */
import { banked, defineDevice, nsOfTick, ticksAt } from '@nyx/device';
import { RegisterBank } from '@nyx/layout';
import { Pit } from './chip.ts';
import { PitState, pitHz, pitRegisters, port61Registers } from './regs.ts';

export const pit = defineDevice({
  kind: 'pit8254',
  stateVersion: 1,
  state: PitState,
  regions: [
    { name: 'ports', size: 4, table: pitRegisters },
    { name: 'port61', size: 1, table: port61Registers },
  ],
  ranges: 0,
  keep: ['irq'],
  irqs: () => 1,
  early: () => true,
  create(ctx) {
    const s = ctx.state;
    const chip = new Pit(s, () => ticksAt(ctx.now(), pitHz));
    const ports = new RegisterBank<string>(
      pitRegisters,
      {},
      {
        read: {
          counter0: () => chip.read(0),
          counter1: () => chip.read(1),
          counter2: () => chip.read(2),
          control: () => 0xff,
        },
        write: {
          counter0: (v) => chip.write(0, v),
          counter1: (v) => chip.write(1, v),
          counter2: (v) => chip.write(2, v),
          control: (v) => chip.control(v),
        },
      },
    );
    const port61 = new RegisterBank<string>(
      port61Registers,
      {},
      { read: { port61: () => chip.readPort61() }, write: { port61: (v) => chip.writePort61(v) } },
    );
    return {
      ...banked(ctx, [ports, port61]),
      reset: () => chip.reset(),
      settle() {
        ctx.line(0, s.irq);
        const next = chip.nextTick;
        ctx.timerAt(next === Number.POSITIVE_INFINITY ? next : nsOfTick(next, pitHz));
      },
      timer() {
        chip.catchUp();
      },
    };
  },
});
