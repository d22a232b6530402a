/** Read and write of a device whose regions are register banks. An 8-byte access is two 4-byte ones, low first. */
import type { RegisterBank } from '@nyx/layout';
import type { DeviceContext } from './device.ts';

type Bank = Pick<RegisterBank<string>, 'read' | 'write'>;

/** Spread into a `Device`: `return { ...banked(ctx, [bank]), reset, settle }`. A region without a bank is unclaimed. */
export function banked(
  ctx: Pick<DeviceContext, 'replyHi' | 'unclaimed'>,
  banks: readonly Bank[],
): {
  read(region: number, offset: number, width: number): number;
  write(region: number, offset: number, width: number, value: number, valueHi: number): void;
} {
  return {
    read(region, offset, width) {
      const bank = banks[region];
      if (bank === undefined) {
        ctx.unclaimed();
        return 0xffffffff;
      }
      if (width !== 8) return bank.read(offset, width);
      const lo = bank.read(offset, 4);
      ctx.replyHi = bank.read(offset + 4, 4);
      return lo;
    },
    write(region, offset, width, value, valueHi) {
      const bank = banks[region];
      if (bank === undefined) ctx.unclaimed();
      else if (width !== 8) bank.write(offset, width, value);
      else {
        bank.write(offset, 4, value);
        bank.write(offset + 4, 4, valueHi);
      }
    },
  };
}
