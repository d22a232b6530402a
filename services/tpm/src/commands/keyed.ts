/** The key of an HMAC object for HMAC, HMAC_Start (part 3, 15.5 and 17.2). */

import { objectOf } from '../core/entity.ts';
import type { Tpm } from '../core/tpm.ts';
import { ALG, OA, RC } from '../spec/constants.ts';
import { asHandle, badHandle, badParam } from '../spec/refusal.ts';

/** `wanted` is parameter 2 of both commands. */
export function hmacKey(tpm: Tpm, handle: number, wanted: number): { key: Buffer; alg: number } {
  const o = asHandle(1, () => objectOf(tpm, handle));
  if (o.pub.type !== ALG.KEYEDHASH) badHandle(RC.TYPE, 1);
  if (o.pub.objectAttributes & OA.restricted) badHandle(RC.ATTRIBUTES, 1);
  if (!(o.pub.objectAttributes & OA.sign)) badHandle(RC.KEY, 1);
  const { scheme, hashAlg } = o.pub.parameters.scheme;
  let alg = wanted;
  if (scheme !== ALG.NULL) {
    if (wanted !== ALG.NULL && wanted !== hashAlg) badParam(RC.VALUE, 2);
    alg = hashAlg;
  }
  if (alg === ALG.NULL) badParam(RC.VALUE, 2);
  return { key: o.sensitive!.sensitive, alg };
}
