/**
 * Host bridge, function 00:00.0. Range 0: the ECAM window, open from the start at 0xB0000000, so that a kernel that was
 * loaded without firmware finds it where MCFG says.
 */
import { defineDevice, PciFunction } from '@nyx/device';
import { Space } from '@nyx/ring';
import { Mch } from './chip.ts';
import { identity, MchState, mchRegisters } from './regs.ts';

export const mch = defineDevice({
  kind: 'mch',
  stateVersion: 1,
  state: MchState,
  regions: [],
  ranges: 1,
  irqs: () => 0,
  early: () => true,
  create(ctx) {
    const chip = new Mch(ctx.state, (base, length) =>
      ctx.setRange(0, length ? Space.ecam : Space.none, 0, base, length),
    );
    const fn = new PciFunction(
      { identity, commandMask: 0x0106, commandOnes: 0x0006 },
      ctx.state.pci.at(0),
      ctx,
      {},
      { table: mchRegisters, bank: chip.bank },
    );
    return {
      read() {
        ctx.unclaimed();
        return 0xffffffff;
      },
      write: () => ctx.unclaimed(),
      configRead: (_fn, register, width) => fn.read(register, width),
      configWrite: (_fn, register, width, value) => fn.write(register, width, value),
      reset: () => chip.publish(),
      settle() {},
    };
  },
});
