/** Platform configuration registers (part 3, 22). */

import type { Handlers } from '../core/dispatch.ts';
import { pcrHasAuth } from '../core/entity.ts';
import { defaultAllocation, pcrAttributes, selects } from '../core/pcr.ts';
import type { Tpm } from '../core/tpm.ts';
import { hash } from '../crypto/hash.ts';
import { digestSize, hashes } from '../spec/algorithms.ts';
import { LIMIT, RC, RH } from '../spec/constants.ts';
import { badParam, refuse } from '../spec/refusal.ts';
import type { PcrSelection } from '../spec/types.ts';

export interface DigestValue {
  hashAlg: number;
  digest: Buffer;
}

const localityBit = (tpm: Tpm) => (tpm.locality < 5 ? 1 << tpm.locality : 0);

export function checkExtend(tpm: Tpm, pcr: number): void {
  if (!(pcrAttributes(pcr).extend & localityBit(tpm))) refuse(RC.LOCALITY);
}
function changed(tpm: Tpm, pcr: number): void {
  const { noIncrement, save } = pcrAttributes(pcr);
  if (!noIncrement) tpm.reset.pcrCounter = (tpm.reset.pcrCounter + 1) >>> 0;
  if (save) tpm.clearOrderly();
}
export function extendPcr(tpm: Tpm, pcr: number, digests: readonly DigestValue[]): void {
  for (const { hashAlg, digest } of digests) {
    if (tpm.pcrs.extend(hashAlg, pcr, digest)) changed(tpm, pcr);
  }
}

/** The PCRs of a selection whose digests fit into one response, and those digests (part 3, 22.4). */
function firstValues(tpm: Tpm, wanted: PcrSelection[]): { selection: PcrSelection[]; values: Buffer[] } {
  const values: Buffer[] = [];
  const selection = tpm.pcrs.filter(wanted);
  for (const s of selection) {
    for (let pcr = 0; pcr < LIMIT.pcrs; pcr++) {
      if (!selects(s, pcr)) continue;
      if (values.length < 8) values.push(tpm.pcrs.get(s.hash, pcr)!);
      else s.pcrSelect[pcr >> 3]! &= ~(1 << (pcr & 7));
    }
  }
  return { selection, values };
}

/** The allocation after one that names some banks: the others stay (part 3, 22.5). */
function newAllocation(old: readonly PcrSelection[], wanted: readonly PcrSelection[]): PcrSelection[] {
  return defaultAllocation().map(({ hash: alg }) => {
    // The last one that names a bank counts.
    const s = [...wanted].reverse().find((w) => w.hash === alg) ?? old.find((o) => o.hash === alg);
    return { hash: alg, pcrSelect: Buffer.from(s?.pcrSelect ?? Buffer.alloc(LIMIT.pcrSelectBytes)) };
  });
}

export const pcrCommands: Handlers = {
  PCR_Extend(tpm, { pcrHandle, digests }) {
    if (pcrHandle === RH.NULL) return;
    checkExtend(tpm, pcrHandle);
    extendPcr(tpm, pcrHandle, digests);
  },
  PCR_Event(tpm, { pcrHandle, eventData }) {
    const digests = hashes
      .filter(({ alg }) => tpm.pcrs.banks.has(alg))
      .map(({ alg }) => ({ hashAlg: alg, digest: hash(alg, eventData) }));
    if (pcrHandle !== RH.NULL) {
      checkExtend(tpm, pcrHandle);
      extendPcr(tpm, pcrHandle, digests);
    }
    return { digests };
  },
  PCR_Read(tpm, { pcrSelectionIn }) {
    const { selection, values } = firstValues(tpm, pcrSelectionIn);
    return { pcrUpdateCounter: tpm.reset.pcrCounter, pcrSelectionOut: selection, pcrValues: values };
  },
  PCR_Reset(tpm, { pcrHandle }) {
    if (!(pcrAttributes(pcrHandle).reset & localityBit(tpm))) refuse(RC.LOCALITY);
    tpm.pcrs.set(pcrHandle, 0);
    changed(tpm, pcrHandle);
  },
  PCR_Allocate(tpm, { pcrAllocation }) {
    const allocation = newAllocation(tpm.persistent.pcrAllocation, pcrAllocation);
    // PCR 0 and 17 must be somewhere, in the same bank at that, or there is nothing to measure into.
    const whole = allocation.some((s) => selects(s, 0) && selects(s, 17));
    if (!whole) refuse(RC.PCR);
    const size = (list: readonly PcrSelection[]) =>
      list.reduce((sum, s) => {
        let n = 0;
        for (let i = 0; i < LIMIT.pcrs; i++) if (selects(s, i)) n++;
        return sum + n * digestSize(s.hash);
      }, 0);
    // It takes effect at the next start.
    tpm.persistent.pcrAllocation = allocation;
    tpm.pcrReconfigured = true;
    tpm.touchPersistent();
    return {
      allocationSuccess: 1,
      maxPCR: LIMIT.pcrs,
      sizeNeeded: size(allocation),
      sizeAvailable: size(defaultAllocation()),
    };
  },
  PCR_SetAuthPolicy(tpm, { authPolicy, hashAlg, pcrNum }) {
    if (authPolicy.length !== digestSize(hashAlg)) badParam(RC.SIZE, 1);
    if (!pcrHasAuth(pcrNum)) badParam(RC.VALUE, 3);
    tpm.persistent.pcrPolicy = { auth: Buffer.alloc(0), policy: authPolicy, policyAlg: hashAlg };
    tpm.touchPersistent();
  },
  PCR_SetAuthValue(tpm, { pcrHandle, auth }) {
    if (!pcrHasAuth(pcrHandle)) refuse(RC.VALUE);
    // One group, one value.
    for (let pcr = 0; pcr < LIMIT.pcrs; pcr++) if (pcrHasAuth(pcr)) tpm.clear.pcrAuth[pcr] = auth;
    tpm.clearOrderly();
  },
};
