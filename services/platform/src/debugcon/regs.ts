/** The debug console of firmware: a port that takes bytes and says 0xe9 when it is there. */
import { registers, struct, u32 } from '@nyx/layout';

export const readback = 0xe9;

export const debugconRegisters = registers('debugcon', 1, {
  data: { at: 0, width: 1, doc: 'A byte out; reads 0xe9', write: 'posted', reset: readback },
});

export const DebugconState = struct('DebugconState', { outHead: u32('console bytes sent') });
