/**
 * TPM with the FIFO interface. Region 0: the registers of five localities, at 0xFED40000; 1: the page for physical presence. Interrupts: 0 to 15, a line for
 * each vector of TPM_INT_VECTOR.
 */
import { banked, type DeviceContext, type DeviceKind, defineDevice } from '@nyx/device';
import { type BankHandlers, RegisterBank } from '@nyx/layout';
import type { EngineOf, TpmConfig } from '../engine.ts';
import { localities, regionBytes } from '../identity.ts';
import { PresencePage, ppiRegion } from '../ppi.ts';
import { Requests, requestKeep } from '../requests.ts';
import { Tis } from './chip.ts';
import { TisState, tisRegisters, vectors } from './regs.ts';

function handlers(chip: Tis): BankHandlers<string> {
  const h: Required<Pick<BankHandlers<string>, 'read' | 'write'>> = { read: {}, write: {} };
  const on = (
    name: string,
    read: (() => number) | undefined,
    write?: (v: number, mask: number) => void,
  ): void => {
    if (read) h.read[name] = read;
    if (write) h.write[name] = write;
  };
  const constant = (name: string): (() => number) => {
    const value = tisRegisters.byName(name).reset!;
    return () => value >>> 0;
  };
  for (let l = 0; l < localities; l++) {
    on(`access_${l}`, undefined, (v) => chip.writeAccess(l, v));
    on(
      `intEnable_${l}`,
      () => chip.readEnable(l),
      (v, m) => {
        chip.writeEnable(l, (chip.readEnable(l) & ~m) | (v & m));
      },
    );
    on(
      `intVector_${l}`,
      () => chip.vector,
      (v) => chip.writeVector(l, v),
    );
    on(
      `intStatus_${l}`,
      () => chip.readStatus(l),
      (v, m) => chip.writeIntStatus(l, v & m),
    );
    on(`sts_${l}`, undefined, (v) => chip.writeStatus(l, v));
    on(`burstLow_${l}`, () => chip.burst(l));
    on(`burstHigh_${l}`, () => chip.burstHigh(l));
    on(
      `stsHigh_${l}`,
      () => chip.readStatusHigh(l),
      (v) => chip.writeStatusHigh(l, v),
    );
    const nothing = (): number => 0xff;
    on(`hashEnd_${l}`, nothing, () => l === 4 && chip.hashEnd());
    on(`hashStart_${l}`, nothing, () => l === 4 && chip.hashStart());
    for (const fifo of [0, 1, 2, 3]
      .map((i) => `fifo${i}`)
      .concat([0, 1, 2, 3, 4, 5, 6, 7].map((i) => `xfifo${i}`)))
      on(
        `${fifo}_${l}`,
        () => chip.readData(l),
        (v) => chip.writeData(l, v),
      );
    for (const name of ['capability', 'interfaceId', 'didVid', 'rid'])
      on(`${name}_${l}`, constant(`${name}_${l}`));
  }
  return h;
}

export const tpmTis = <C extends TpmConfig>(engineOf: EngineOf<C>): DeviceKind<typeof TisState, C> =>
  defineDevice<typeof TisState, C>({
    kind: 'tpm-tis',
    stateVersion: 1,
    state: TisState,
    regions: [{ name: 'registers', size: regionBytes, table: tisRegisters }, ppiRegion],
    ranges: 0,
    keep: [...requestKeep, 'established', 'irq'],
    irqs: () => vectors,
    create(ctx, config) {
      const s = ctx.state;
      const engine = engineOf(ctx as unknown as DeviceContext, config);
      const chip: Tis = new Tis(s, () => requests, config.locality4 === true);
      const requests = new Requests(
        ctx as unknown as DeviceContext,
        s,
        engine,
        config.first ?? 1,
        (op, response, dropped) => chip.answered(op, response, dropped),
      );
      /** transient: words that this process has told; the next one tells all */
      const told = new Array<number>(vectors).fill(-1);
      const bank = new RegisterBank<string>(tisRegisters, s, handlers(chip));
      const presence = new PresencePage(ctx);
      const registers = banked(ctx, [bank]);
      return {
        read: (region, offset, width) =>
          region === 1 ? presence.read(offset, width) : registers.read(region, offset, width),
        write: (region, offset, width, value, valueHi) =>
          region === 1
            ? presence.write(offset, width, value, valueHi)
            : registers.write(region, offset, width, value, valueHi),
        reset: () => chip.reset(),
        settle() {
          for (let v = 0; v < vectors; v++) {
            const word = s.irq.get(v);
            if (word === told[v]) continue;
            told[v] = word;
            ctx.line(v, word);
          }
          requests.settle();
          engine.settle?.();
        },
        timer: () => engine.timer?.(),
      };
    },
  });
