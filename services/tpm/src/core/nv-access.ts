/** Who may read or write an NV index now (part 3, 31.1). */
import { NVA, RC, RH } from '../spec/constants.ts';
import { refuse } from '../spec/refusal.ts';
import type { NvIndex } from './state.ts';

function checkAuth(authHandle: number, index: NvIndex, owner: number, platform: number): void {
  const a = index.pub.attributes;
  if (authHandle === RH.OWNER) {
    if (!(a & owner)) refuse(RC.NV_AUTHORIZATION);
  } else if (authHandle === RH.PLATFORM) {
    if (!(a & platform)) refuse(RC.NV_AUTHORIZATION);
  } else if (authHandle !== index.pub.nvIndex) refuse(RC.NV_AUTHORIZATION);
}

export function checkRead(authHandle: number, index: NvIndex): void {
  const a = index.pub.attributes;
  if (a & NVA.READLOCKED) refuse(RC.NV_LOCKED);
  checkAuth(authHandle, index, NVA.OWNERREAD, NVA.PPREAD);
  if (!(a & NVA.WRITTEN)) refuse(RC.NV_UNINITIALIZED);
}
export function checkWrite(authHandle: number, index: NvIndex): void {
  if (index.pub.attributes & NVA.WRITELOCKED) refuse(RC.NV_LOCKED);
  checkAuth(authHandle, index, NVA.OWNERWRITE, NVA.PPWRITE);
}
