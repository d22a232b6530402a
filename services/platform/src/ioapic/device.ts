/** The I/O APIC. Region 0: its page at 0xFEC00000. Interrupts 0..23: the messages of its pins. */
import { banked, defineDevice } from '@nyx/device';
import { RegisterBank } from '@nyx/layout';
import { Ioapic } from './chip.ts';
import { IoapicState, ioapicRegisters, pins } from './regs.ts';

export const ioapic = defineDevice({
  kind: 'ioapic',
  stateVersion: 1,
  state: IoapicState,
  regions: [{ name: 'registers', size: 0x1000, table: ioapicRegisters }],
  ranges: 0,
  keep: ['words', 'sent', 'address', 'data'],
  irqs: () => pins,
  early: () => true,
  create(ctx) {
    const s = ctx.state;
    const chip = new Ioapic(s);
    const bank = new RegisterBank<string>(
      ioapicRegisters,
      s,
      {
        read: { window: () => chip.read(s.select), eoi: () => 0 },
        write: { window: (v) => chip.write(s.select, v), eoi: (v) => chip.eoi(v & 0xff) },
      },
      0,
    );
    return {
      ...banked(ctx, [bank]),
      line(gsi, word) {
        if (gsi < pins) chip.line(gsi, word);
      },
      hasHeard: (gsi, word) => gsi >= pins || s.words.get(gsi) === word,
      eoi: (vector) => chip.eoi(vector),
      reset() {},
      settle() {
        for (let pin = 0; pin < pins; pin++) {
          const sent = s.sent.get(pin);
          if (sent !== 0) ctx.message(pin, s.address.get(pin), 0, s.data.get(pin), sent);
        }
      },
    };
  },
});
