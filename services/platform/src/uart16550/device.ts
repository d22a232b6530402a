/** A 16550A whose line is a console (libs/device/src/console.ts). Region 0: eight ports. Interrupt 0: its line. */
import { banked, ConsolePort, defineDevice, withLevel } from '@nyx/device';
import { Uart16550 } from './chip.ts';
import { UartState, uartRegisters } from './regs.ts';

export const uart16550 = defineDevice({
  kind: 'uart16550',
  stateVersion: 1,
  state: UartState,
  regions: [{ name: 'ports', size: 8, table: uartRegisters }],
  ranges: 0,
  // The console's counters go on.
  keep: ['irq', 'outHead', 'inTail'],
  irqs: () => 1,
  early: () => true,
  create(ctx) {
    const s = ctx.state;
    const port = new ConsolePort(ctx.bulk('console'));
    const chip = new Uart16550(s, port, () => ctx.now());
    const out = ctx.fd('consoleOut');
    ctx.watch(ctx.fd('consoleIn'), () => ctx.event(() => chip.pull()));
    return {
      ...banked(ctx, [chip.bank]),
      writeBurst(region, offset, width, data) {
        if (offset === 0 && width === 1) for (const byte of data) chip.bank.write(0, 1, byte);
        else
          for (let i = 0; i < data.length; i += width)
            this.write(region, offset, width, element(data, i, width), 0);
      },
      reset() {
        s.irq = withLevel(s.irq, false);
      },
      settle() {
        if (port.publish(s.outHead, s.inTail)) ctx.signal(out);
        ctx.line(0, s.irq);
        // Input that came while nobody looked (a restart) is taken as an event of its own.
        ctx.timerAt(chip.wantsPull ? 0 : s.timeoutAt || Number.POSITIVE_INFINITY);
      },
      timer() {
        chip.timeout();
        chip.pull();
      },
    };
  },
});

const element = (data: Uint8Array, at: number, width: number): number => {
  let value = 0;
  for (let i = 0; i < width; i++) value |= data[at + i]! << (8 * i);
  return value >>> 0;
};
