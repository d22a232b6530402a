/** TPM with the command response buffer interface. Region 0: registers and buffer of five localities, at 0xFED40000; 1: the page for physical presence. No interrupts. */
import { type DeviceContext, type DeviceKind, defineDevice } from '@nyx/device';
import { type BankHandlers, RegisterBank } from '@nyx/layout';
import type { EngineOf, TpmConfig } from '../engine.ts';
import { localities, localityBytes, regionBytes } from '../identity.ts';
import { PresencePage, ppiRegion } from '../ppi.ts';
import { Requests, requestKeep } from '../requests.ts';
import { Crb } from './chip.ts';
import { CrbState, crbRegisters, dataAt } from './regs.ts';

const constants = [
  ...['interfaceLow', 'interfaceHigh', 'extensionLow', 'extensionHigh', 'interruptEnable', 'interruptStatus'],
  ...['commandSize', 'commandLow', 'commandHigh', 'responseSize', 'responseLow', 'responseHigh'],
];

function handlers(chip: Crb): BankHandlers<string> {
  const h: Required<Pick<BankHandlers<string>, 'read' | 'write'>> = { read: {}, write: {} };
  for (let l = 0; l < localities; l++) {
    for (const name of constants) {
      const value = crbRegisters.byName(`${name}_${l}`).reset! >>> 0;
      h.read[`${name}_${l}`] = () => value;
    }
    h.read[`locControl_${l}`] = () => 0;
    h.read[`request_${l}`] = () => 0;
    h.write[`locControl_${l}`] = (v, m) => chip.writeLocControl(l, v & m);
    h.write[`request_${l}`] = (v, m) => chip.writeRequest(l, v & m);
    h.write[`cancel_${l}`] = (v) => chip.writeCancel(l, v);
    h.write[`start_${l}`] = (v, m) => chip.writeStart(l, v & m);
  }
  return h;
}

export const tpmCrb = <C extends TpmConfig>(engineOf: EngineOf<C>): DeviceKind<typeof CrbState, C> =>
  defineDevice<typeof CrbState, C>({
    kind: 'tpm-crb',
    stateVersion: 1,
    state: CrbState,
    regions: [{ name: 'registers', size: regionBytes, table: crbRegisters }, ppiRegion],
    ranges: 0,
    keep: [...requestKeep, 'established'],
    irqs: () => 0,
    create(ctx, config) {
      const engine = engineOf(ctx as unknown as DeviceContext, config);
      const chip: Crb = new Crb(ctx.state, () => requests, config.locality4 === true);
      const requests = new Requests(
        ctx as unknown as DeviceContext,
        ctx.state,
        engine,
        config.first ?? 1,
        (op, response, dropped) => chip.answered(op, response, dropped),
      );
      const presence = new PresencePage(ctx);
      const bank = new RegisterBank<string>(crbRegisters, ctx.state, handlers(chip), 0);

      /** 1 to 4 bytes at any place: of registers, of the buffer, or across. */
      const read = (offset: number, width: number): number => {
        const page = offset & (localityBytes - 1);
        if (page + width <= dataAt) return bank.read(offset, width);
        let value = 0;
        for (let i = 0; i < width; i++) {
          const at = (offset + i) & (localityBytes - 1);
          const l = Math.floor((offset + i) / localityBytes);
          const byte = at < dataAt || l >= localities ? 0xff : chip.readData(l, at - dataAt);
          value |= byte << (8 * i);
        }
        return value >>> 0;
      };
      const write = (offset: number, width: number, value: number): void => {
        const page = offset & (localityBytes - 1);
        if (page + width <= dataAt) {
          bank.write(offset, width, value);
          return;
        }
        for (let i = 0; i < width; i++) {
          const at = (offset + i) & (localityBytes - 1);
          const l = Math.floor((offset + i) / localityBytes);
          if (at >= dataAt && l < localities) chip.writeData(l, at - dataAt, (value >>> (8 * i)) & 0xff);
        }
      };
      return {
        read(region, offset, width) {
          if (region === 1) return presence.read(offset, width);
          if (width !== 8) return read(offset, width);
          ctx.replyHi = read(offset + 4, 4);
          return read(offset, 4);
        },
        write(region, offset, width, value, valueHi) {
          if (region === 1) return presence.write(offset, width, value, valueHi);
          write(offset, Math.min(width, 4), value);
          if (width === 8) write(offset + 4, 4, valueHi);
        },
        reset: () => chip.reset(),
        settle() {
          requests.settle();
          engine.settle?.();
        },
        timer: () => engine.timer?.(),
      };
    },
  });
