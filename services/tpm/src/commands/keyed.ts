/** The key of MAC and MAC_Start (part 3, 15.6 and 17.3; they have the codes of HMAC and HMAC_Start, and do what those do). */

import { objectOf } from '../core/entity.ts';
import type { Tpm } from '../core/tpm.ts';
import { ALG, OA, RC } from '../spec/constants.ts';
import { asHandle, badHandle, badParam } from '../spec/refusal.ts';
import type { SymDef } from '../spec/types.ts';

/** A hash, or a cipher for CMAC. */
export interface MacKey {
  key: Buffer;
  alg: number;
  cipher: SymDef | undefined;
}

/** `wanted` is parameter 2 of both commands. */
export function macKey(tpm: Tpm, handle: number, wanted: number): MacKey {
  const o = asHandle(1, () => objectOf(tpm, handle));
  const { type, parameters, objectAttributes: a } = o.pub;
  if (type !== ALG.KEYEDHASH && type !== ALG.SYMCIPHER) badHandle(RC.TYPE, 1);
  const cipher = type === ALG.SYMCIPHER ? parameters.symmetric : undefined;
  const { scheme, hashAlg } = parameters.scheme ?? { scheme: ALG.NULL };
  const own = cipher ? cipher.mode : scheme === ALG.NULL ? ALG.NULL : hashAlg;
  if (wanted === ALG.NULL ? own === ALG.NULL : own !== ALG.NULL && own !== wanted) badParam(RC.VALUE, 2);
  const alg = own === ALG.NULL ? wanted : own;
  if ((alg === ALG.CMAC) !== (cipher !== undefined)) badParam(RC.SCHEME, 2);
  if (a & OA.restricted) badHandle(RC.ATTRIBUTES, 1);
  if (!(a & OA.sign)) badHandle(RC.KEY, 1);
  return { key: o.sensitive!.sensitive, alg, cipher };
}
