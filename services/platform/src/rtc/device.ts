/** Clock and CMOS. Region 0: ports 0x70..0x73. Interrupt 0: IRQ 8. Time and memory survive a reset. */
import { banked, defineDevice } from '@nyx/device';
import { RegisterBank } from '@nyx/layout';
import { Rtc } from './chip.ts';
import { cmosBytes, type RtcConfig } from './cmos.ts';
import { RtcState, rtcRegisters } from './regs.ts';

export const rtc = defineDevice({
  kind: 'rtc',
  stateVersion: 1,
  state: RtcState,
  regions: [{ name: 'ports', size: 4, table: rtcRegisters }],
  ranges: 0,
  keep: ['a', 'b', 'valid', 'seconds', 'at', 'caught', 'cmos', 'irq'],
  irqs: () => 1,
  early: () => true,
  create(ctx, config: RtcConfig) {
    const s = ctx.state;
    const chip = new Rtc(s, () => ctx.now());
    const bank = new RegisterBank<string>(
      rtcRegisters,
      {},
      {
        read: {
          index: () => 0xff,
          data: () => chip.read(s.index),
          index2: () => s.index2,
          data2: () => s.cmos.get(128 + s.index2),
        },
        write: {
          index: (v) => {
            s.index = v & 0x7f;
          },
          data: (v) => chip.write(s.index, v),
          index2: (v) => {
            s.index2 = v & 0x7f;
          },
          data2: (v) => s.cmos.set(128 + s.index2, v),
        },
      },
    );
    return {
      ...banked(ctx, [bank]),
      reset() {
        if (!s.valid) for (const [at, value] of cmosBytes(config)) s.cmos.set(at, value);
        chip.reset(ctx.wallClock());
      },
      settle() {
        ctx.line(0, s.irq);
        ctx.timerAt(chip.next);
      },
      timer() {
        chip.catchUp();
      },
    };
  },
});
