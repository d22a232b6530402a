/** Debug console. Region 0: its port (0x402). Output goes to a console; there is no input. */
import { banked, ConsolePort, defineDevice } from '@nyx/device';
import { RegisterBank } from '@nyx/layout';
import { DebugconState, debugconRegisters, readback } from './regs.ts';

export const debugcon = defineDevice({
  kind: 'debugcon',
  stateVersion: 1,
  state: DebugconState,
  regions: [{ name: 'port', size: 1, table: debugconRegisters }],
  ranges: 0,
  keep: ['outHead'],
  irqs: () => 0,
  early: () => true,
  create(ctx) {
    const s = ctx.state;
    const port = new ConsolePort(ctx.bulk('console'));
    const out = ctx.fd('consoleOut');
    const put = (byte: number): void => {
      port.put(s.outHead, byte);
      s.outHead = (s.outHead + 1) >>> 0;
    };
    return {
      ...banked(ctx, [
        new RegisterBank<string>(
          debugconRegisters,
          {},
          { read: { data: () => readback }, write: { data: put } },
        ),
      ]),
      writeBurst(_region, _offset, width, data) {
        for (let i = 0; i < data.length; i += width) put(data[i]!);
      },
      reset() {},
      settle() {
        if (port.publish(s.outHead, 0)) ctx.signal(out);
      },
    };
  },
});
