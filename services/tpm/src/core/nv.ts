/** NV indices (part 1, 37): what a kind's data means. */
import { NT } from '../spec/constants.ts';
import type { NvIndex } from './state.ts';
import type { Tpm } from './tpm.ts';

export const nvKind = (attributes: number): number => (attributes >>> 4) & 15;
export const isPin = (attributes: number): boolean =>
  nvKind(attributes) === NT.PIN_FAIL || nvKind(attributes) === NT.PIN_PASS;

/** TPMS_NV_PIN_COUNTER_PARAMETERS. */
export function readCount(index: NvIndex): { count: number; limit: number } {
  return { count: index.data.readUInt32BE(0), limit: index.data.readUInt32BE(4) };
}
export function writeCount(tpm: Tpm, index: NvIndex, count: number, limit: number): void {
  index.data.writeUInt32BE(Math.min(count, 0xffffffff), 0);
  index.data.writeUInt32BE(limit, 4);
  tpm.touchNv(index.pub.nvIndex);
}
