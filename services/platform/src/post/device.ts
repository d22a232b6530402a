/** POST code port. Region 0: port 0x80. Software also writes it to let a microsecond pass. */
import { banked, defineDevice } from '@nyx/device';
import { RegisterBank } from '@nyx/layout';
import { PostState, postRegisters } from './regs.ts';

export const post = defineDevice({
  kind: 'post',
  stateVersion: 1,
  state: PostState,
  regions: [{ name: 'port', size: 1, table: postRegisters }],
  ranges: 0,
  irqs: () => 0,
  early: () => true,
  create(ctx) {
    const s = ctx.state;
    const bank = new RegisterBank<string>(postRegisters, s, {
      changed: {
        code: () => {
          s.writes = (s.writes + 1) >>> 0;
        },
      },
    });
    return { ...banked(ctx, [bank]), reset() {}, settle() {} };
  },
});
