/** The slots of transient objects. */
import { HT, RC } from '../spec/constants.ts';
import { refuse } from '../spec/refusal.ts';
import type { Sequence } from './sequence.ts';
import type { LoadedObject } from './state.ts';
import type { Tpm } from './tpm.ts';

export function needSlot(tpm: Tpm): void {
  if (!tpm.objects.includes(undefined)) refuse(RC.OBJECT_MEMORY);
}
/** Puts an object into the first free slot; its handle. */
export function allocate(tpm: Tpm, object: LoadedObject | Sequence): number {
  needSlot(tpm);
  const slot = tpm.objects.indexOf(undefined);
  tpm.objects[slot] = object;
  return HT.TRANSIENT * 0x1000000 + slot;
}
export function flushObject(tpm: Tpm, handle: number): void {
  tpm.objects[handle & 0xffffff] = undefined;
}
