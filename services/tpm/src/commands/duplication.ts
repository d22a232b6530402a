/** Duplication (part 3, 13) and ephemeral keys (part 3, 14.7 and 19). */

import { commit, useCommit } from '../core/commit.ts';
import type { Handlers } from '../core/dispatch.ts';
import { objectName, objectOf } from '../core/entity.ts';
import { checkLoad } from '../core/object.ts';
import {
  protectorOf,
  unwrapDuplicate,
  unwrapOuter,
  wrapDuplicate,
  wrapOuter,
  wrapPrivate,
} from '../core/protect.ts';
import { recoverSecret, shareSecret } from '../core/secret.ts';
import { type LoadedObject, OF } from '../core/state.ts';
import type { Tpm } from '../core/tpm.ts';
import { curveOf, exchange, mul, mulBase, onCurve } from '../crypto/ecc.ts';
import { hash, none } from '../crypto/hash.ts';
import { mod, toInt } from '../crypto/numbers.ts';
import { ALG, OA, RC, RH } from '../spec/constants.ts';
import { asHandle, asParam, badHandle, badParam } from '../spec/refusal.ts';
import type { SymDef } from '../spec/types.ts';
import { pointIn, pointOut } from './signatures.ts';

/** A parent, whether or not its sensitive area is here. */
function storage(tpm: Tpm, handle: number, n: number): LoadedObject {
  const o = asHandle(n, () => objectOf(tpm, handle));
  const a = o.pub.objectAttributes;
  const asymmetric = o.pub.type === ALG.RSA || o.pub.type === ALG.ECC;
  if (!asymmetric || !(a & OA.restricted) || !(a & OA.decrypt) || a & OA.sign) badHandle(RC.TYPE, n);
  if (o.pub.nameAlg === ALG.NULL) badHandle(RC.TYPE, n);
  return o;
}

const innerOf = (symmetric: SymDef, key: Buffer) =>
  symmetric.algorithm === ALG.NULL ? undefined : { symmetric, key };

/** What of a name stands for in keys of ephemeral commits of EC_Ephemeral: no object. */
const noName = none;

export const duplicationCommands: Handlers = {
  Duplicate(tpm, { objectHandle, newParentHandle, encryptionKeyIn, symmetricAlg }) {
    const o = asHandle(1, () => objectOf(tpm, objectHandle));
    const a = o.pub.objectAttributes;
    if (a & OA.fixedParent) badHandle(RC.ATTRIBUTES, 1);
    if (o.pub.nameAlg === ALG.NULL) badHandle(RC.TYPE, 1);
    const parent = newParentHandle === RH.NULL ? undefined : storage(tpm, newParentHandle, 2);
    if (a & OA.encryptedDuplication) {
      if (symmetricAlg.algorithm === ALG.NULL) badParam(RC.SYMMETRIC, 2);
      if (!parent) badHandle(RC.HIERARCHY, 2);
    }
    const keySize = symmetricAlg.algorithm === ALG.NULL ? 0 : symmetricAlg.keyBits / 8;
    if (encryptionKeyIn.length !== 0 && encryptionKeyIn.length !== keySize) badParam(RC.SIZE, 1);
    const made = keySize > 0 && encryptionKeyIn.length === 0;
    const key = made ? tpm.random.bytes(keySize) : encryptionKeyIn;
    const shared = parent && shareSecret(tpm, parent, 'DUPLICATE');
    const duplicate = wrapDuplicate(
      o.sensitive!,
      o.name,
      o.pub.nameAlg,
      innerOf(symmetricAlg, key),
      shared && protectorOf(parent, shared.seed),
    );
    return { encryptionKeyOut: made ? key : none, duplicate, outSymSeed: shared?.secret ?? none };
  },
  Import(tpm, { parentHandle, encryptionKey, objectPublic, duplicate, inSymSeed, symmetricAlg }) {
    const a = objectPublic.objectAttributes;
    if (a & (OA.fixedTPM | OA.fixedParent)) badParam(RC.ATTRIBUTES, 2);
    const parent = asHandle(1, () => objectOf(tpm, parentHandle));
    if (!(parent.flags & OF.isParent)) badHandle(RC.TYPE, 1);
    if (symmetricAlg.algorithm !== ALG.NULL) {
      if (encryptionKey.length !== symmetricAlg.keyBits / 8) badParam(RC.SIZE, 1);
    } else {
      if (encryptionKey.length !== 0) badParam(RC.SIZE, 1);
      if (a & OA.encryptedDuplication) badParam(RC.ATTRIBUTES, 1);
    }
    let seed: Buffer | undefined;
    if (inSymSeed.length !== 0) {
      if (parent.pub.type === ALG.SYMCIPHER) badHandle(RC.TYPE, 1);
      seed = asParam(4, () => recoverSecret(parent, 'DUPLICATE', inSymSeed));
    } else if (a & OA.encryptedDuplication) badParam(RC.ATTRIBUTES, 4);
    const name = objectName(objectPublic);
    if (name.length === 0) badParam(RC.HASH, 2);
    const sensitive = asParam(3, () =>
      unwrapDuplicate(
        duplicate,
        name,
        objectPublic.nameAlg,
        innerOf(symmetricAlg, encryptionKey),
        seed && protectorOf(parent, seed),
      ),
    );
    if (parent.pub.objectAttributes & OA.fixedTPM) checkLoad(undefined, objectPublic, sensitive, 2, 3);
    return { outPrivate: wrapPrivate(parent, name, sensitive, tpm.random.bytes) };
  },
  Rewrap(tpm, { oldParent, newParent, inDuplicate, name, inSymSeed }) {
    if ((inSymSeed.length === 0) !== (oldParent === RH.NULL)) badHandle(RC.HANDLE, 1);
    let inner = inDuplicate;
    if (oldParent !== RH.NULL) {
      const old = storage(tpm, oldParent, 1);
      const seed = asParam(3, () => recoverSecret(old, 'DUPLICATE', inSymSeed));
      inner = asParam(1, () => unwrapOuter(protectorOf(old, seed), name, inDuplicate, false));
    }
    if (newParent === RH.NULL) return { outDuplicate: inner, outSymSeed: none };
    const parent = storage(tpm, newParent, 2);
    const { seed, secret } = shareSecret(tpm, parent, 'DUPLICATE');
    const outDuplicate = wrapOuter(protectorOf(parent, seed), name, inner, undefined);
    if (outDuplicate.length > 1024) badParam(RC.VALUE, 1);
    return { outDuplicate, outSymSeed: secret };
  },

  Commit(tpm, { signHandle, P1, s2, y2 }) {
    const key = asHandle(1, () => objectOf(tpm, signHandle));
    if (key.pub.type !== ALG.ECC) badHandle(RC.KEY, 1);
    const { scheme, hashAlg } = key.pub.parameters.scheme;
    if (scheme !== ALG.ECDAA) badHandle(RC.SCHEME, 1);
    const c = curveOf(key.pub.parameters.curveID);
    const p1 = P1 && P1.x.length + P1.y.length > 0 ? pointIn(P1) : undefined;
    if (p1 && !onCurve(c, p1)) badParam(RC.ECC_POINT, 1);
    if ((s2.length === 0) !== (y2.length === 0)) badParam(RC.SIZE, s2.length === 0 ? 2 : 3);
    let p2: ReturnType<typeof pointIn> | undefined;
    if (s2.length) {
      // x is the hash of what the verifier and the signer agreed on; it must name a point.
      p2 = { x: mod(toInt(hash(hashAlg, s2)), c.p), y: toInt(y2) };
      if (!onCurve(c, p2)) badParam(RC.ECC_POINT, 2);
    }
    const { r, counter } = commit(tpm, c, key.name);
    const d = toInt(key.sensitive!.sensitive);
    const onlyE = p2 === undefined && p1 === undefined;
    return {
      K: pointOut(c, p2 && mul(c, d, p2)),
      L: pointOut(c, p2 && mul(c, r, p2)),
      E: pointOut(c, p1 ? mul(c, r, p1) : onlyE ? mulBase(c, r) : undefined),
      counter,
    };
  },
  EC_Ephemeral(tpm, { curveID }) {
    const c = curveOf(curveID);
    const { r, counter } = commit(tpm, c, noName);
    return { Q: pointOut(c, mulBase(c, r)), counter };
  },
  ZGen_2Phase(tpm, { keyA, inQsB, inQeB, inScheme, counter }) {
    const key = asHandle(1, () => objectOf(tpm, keyA));
    if (key.pub.type !== ALG.ECC) badHandle(RC.KEY, 1);
    const a = key.pub.objectAttributes;
    if (a & OA.restricted || !(a & OA.decrypt)) badHandle(RC.ATTRIBUTES, 1);
    const own = key.pub.parameters.scheme.scheme;
    if (own !== ALG.NULL && own !== inScheme) badParam(RC.SCHEME, 3);
    const c = curveOf(key.pub.parameters.curveID);
    const qs = pointIn(inQsB);
    const qe = pointIn(inQeB);
    if (!onCurve(c, qs)) badParam(RC.ECC_POINT, 1);
    if (!onCurve(c, qe)) badParam(RC.ECC_POINT, 2);
    const r = useCommit(tpm, c, noName, counter);
    if (r === undefined) badParam(RC.VALUE, 4);
    const d = toInt(key.sensitive!.sensitive);
    if (inScheme !== ALG.ECDH) {
      const bits = ((c.bits + 1) >> 1) - (inScheme === ALG.SM2 ? 1 : 0);
      const z = exchange(c, bits, { d, ephemeral: r }, { q: qs, ephemeral: qe });
      return { outZ1: pointOut(c, z), outZ2: pointOut(c, undefined) };
    }
    return {
      outZ1: pointOut(c, mul(c, d, qs)),
      outZ2: pointOut(c, mul(c, r, qe)),
    };
  },
};
