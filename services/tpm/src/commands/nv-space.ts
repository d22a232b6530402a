/** How much of NV is used: indices and persistent objects share it. */

import { loadedObject } from '../core/state.ts';
import type { Tpm } from '../core/tpm.ts';
import { encode } from '../spec/codec.ts';
import { LIMIT } from '../spec/constants.ts';

/** Octets of an index beside its data. */
export const indexOverhead = 128;

/** Octets still free. */
export function nvRoom(tpm: Tpm): number {
  let used = 0;
  for (const index of tpm.nv.values()) used += indexOverhead + index.pub.dataSize;
  for (const object of tpm.evicted.values()) used += encode(loadedObject, object).length;
  return LIMIT.nvTotal - used;
}
