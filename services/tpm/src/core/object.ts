/** Making and loading objects (part 1, 26 and 27). */

import { checkPrimeSync } from 'node:crypto';
import { curveOf, mulBase, newPrivate, onCurve } from '../crypto/ecc.ts';
import { be16, be32, hash, none } from '../crypto/hash.ts';
import { toBytes, toInt } from '../crypto/numbers.ts';
import type { Rand } from '../crypto/random.ts';
import * as rsa from '../crypto/rsa.ts';
import { digestSize, hashInfo } from '../spec/algorithms.ts';
import { ALG, OA, RC, RH } from '../spec/constants.ts';
import { asParam, badParam, refuse } from '../spec/refusal.ts';
import type { PublicArea, SensitiveArea } from '../spec/types.ts';
import { checkPublic, checkSchemes } from './checks.ts';
import { objectName, stripZeros } from './entity.ts';
import { type LoadedObject, OF } from './state.ts';

/** An authValue may be as long as the digest of nameAlg, and is kept at this length (part 1, 19.4). */
export function padAuth(auth: Buffer, nameAlg: number): Buffer | undefined {
  const size = nameAlg === ALG.NULL ? 64 : digestSize(nameAlg);
  const value = stripZeros(auth);
  return value.length > size ? undefined : Buffer.concat([value, Buffer.alloc(size - value.length)]);
}

/** What identifies a symmetric object: hash of its obfuscation value and its key. */
const symmetricId = (nameAlg: number, s: SensitiveArea) => hash(nameAlg, s.seedValue, s.sensitive);

export interface Creation {
  pub: PublicArea;
  userAuth: Buffer;
  /** What the caller brings; empty when the TPM makes the key. */
  data: Buffer;
  /** Seeded: the key is a function of it. Undefined: an ordinary, random key. */
  seeded?: Rand;
  rand: Rand;
  /** Throws when the command is cancelled. */
  pause: () => void;
}

/** The exponent of a new key (part 1, B.2). */
function checkedExponent(e: number): number {
  if (e === 0 || e === rsa.defaultExponent) return rsa.defaultExponent;
  if (e < 65537 || !checkPrimeSync(BigInt(e))) refuse(RC.RANGE);
  return e;
}

/** Makes the key; `pub` comes back with its unique field. Refusals are about the public area unless said. */
export function createKeys(c: Creation): { pub: PublicArea; sensitive: SensitiveArea } {
  const { pub } = c;
  const rand = c.seeded ?? c.rand;
  const a = pub.objectAttributes;
  const data = a & OA.sensitiveDataOrigin ? none : c.data;
  let key: Buffer;
  let unique = { x: none as Buffer, y: none as Buffer };
  switch (pub.type) {
    case ALG.RSA: {
      const e = checkedExponent(pub.parameters.exponent);
      const { keyBits } = pub.parameters;
      c.pause();
      const made = c.seeded ? rsa.seededKey(keyBits, e, c.seeded, c.pause) : rsa.randomKey(keyBits, e);
      key = made.p;
      unique.x = made.n;
      break;
    }
    case ALG.ECC: {
      const curve = curveOf(pub.parameters.curveID);
      const d = newPrivate(curve, rand);
      const q = mulBase(curve, d);
      key = toBytes(d, curve.bytes);
      unique = { x: toBytes(q.x, curve.bytes), y: toBytes(q.y, curve.bytes) };
      break;
    }
    case ALG.SYMCIPHER: {
      const size = pub.parameters.symmetric.keyBits / 8;
      if (data.length !== 0 && data.length !== size) refuse(RC.KEY_SIZE);
      key = data.length ? data : rand(size);
      break;
    }
    default: {
      const { scheme, hashAlg } = pub.parameters.scheme;
      const alg = scheme === ALG.NULL ? pub.nameAlg : hashAlg;
      if (data.length && a & (OA.sign | OA.decrypt) && data.length > hashInfo(alg)!.block) refuse(RC.SIZE);
      key = data.length ? data : rand(digestSize(alg));
    }
  }
  const sensitive: SensitiveArea = {
    sensitiveType: pub.type,
    authValue: c.userAuth,
    seedValue: rand(digestSize(pub.nameAlg)),
    sensitive: key,
  };
  if (pub.type === ALG.SYMCIPHER || pub.type === ALG.KEYEDHASH)
    unique.x = symmetricId(pub.nameAlg, sensitive);
  else if (a & OA.sign || !(a & OA.restricted)) sensitive.seedValue = none;
  return { pub: { ...pub, unique }, sensitive };
}

/** Whether public and sensitive area belong together; `p` and `s` are their parameter numbers. */
function checkKeys(pub: PublicArea, sensitive: SensitiveArea | undefined, p: number, s: number): void {
  const { unique, parameters } = pub;
  const size = digestSize(pub.nameAlg);
  if (sensitive) {
    if (sensitive.sensitiveType !== pub.type) badParam(RC.TYPE, s);
    if (size > 0 && sensitive.authValue.length > size) badParam(RC.SIZE, s);
  }
  const key = sensitive?.sensitive;
  switch (pub.type) {
    case ALG.RSA: {
      const bytes = parameters.keyBits / 8;
      if (unique.x.length !== bytes || unique.x[0]! < 0x80) badParam(RC.KEY, p);
      if (parameters.exponent !== 0 && (parameters.exponent < 7 || parameters.exponent % 2 === 0)) {
        badParam(RC.VALUE, p);
      }
      if (key) {
        if (key.length * 2 !== bytes || key[0]! < 0x80) badParam(RC.KEY_SIZE, s);
        if (!rsa.matches({ n: unique.x, p: key })) refuse(RC.BINDING);
      }
      break;
    }
    case ALG.ECC: {
      const c = curveOf(parameters.curveID);
      if (!key) {
        if (unique.x.length !== c.bytes || unique.y.length !== c.bytes) badParam(RC.KEY, p);
        if (!onCurve(c, { x: toInt(unique.x), y: toInt(unique.y) })) badParam(RC.ECC_POINT, p);
        break;
      }
      const d = toInt(key);
      if (d === 0n || d >= c.n) refuse(RC.KEY_SIZE);
      const q = mulBase(c, d);
      if (pub.nameAlg !== ALG.NULL && (toInt(unique.x) !== q.x || toInt(unique.y) !== q.y))
        refuse(RC.BINDING);
      break;
    }
    default:
      if (!sensitive || !key) {
        if (unique.x.length !== size) badParam(RC.KEY, p);
        break;
      }
      if (pub.type === ALG.SYMCIPHER) {
        if (key.length * 8 !== parameters.symmetric.keyBits) badParam(RC.KEY_SIZE, s);
      } else {
        const { scheme, hashAlg } = parameters.scheme;
        const max = scheme === ALG.NULL ? 128 : hashInfo(hashAlg)!.block;
        if (key.length > max) badParam(RC.KEY_SIZE, s);
      }
      if (pub.nameAlg !== ALG.NULL) {
        if (sensitive.seedValue.length !== size) badParam(RC.KEY_SIZE, s);
        if (!unique.x.equals(symmetricId(pub.nameAlg, sensitive))) refuse(RC.BINDING);
      }
  }
  const parentLike = (pub.objectAttributes & (OA.restricted | OA.decrypt)) === (OA.restricted | OA.decrypt);
  if (parentLike && sensitive && pub.nameAlg !== ALG.NULL) {
    const n = sensitive.seedValue.length;
    if (n < size / 2 || n > size) badParam(RC.SIZE, s);
  }
}

/** The checks of a load (part 3, 12.2 and 12.3). `p`, `s`: parameter numbers of public and private area. */
export function checkLoad(
  parent: LoadedObject | undefined,
  pub: PublicArea,
  sensitive: SensitiveArea | undefined,
  p: number,
  s: number,
): void {
  asParam(p, () => {
    if (!sensitive || pub.nameAlg === ALG.NULL) checkSchemes(undefined, pub);
    else checkPublic(parent, pub);
  });
  if (sensitive && pub.nameAlg !== ALG.NULL && sensitive.seedValue.length > digestSize(pub.nameAlg)) {
    badParam(RC.KEY_SIZE, s);
  }
  // What a parent that cannot leave this TPM has wrapped, this TPM has made.
  if (!parent || !(parent.pub.objectAttributes & OA.fixedTPM)) checkKeys(pub, sensitive, p, s);
}

function qualifiedName(parentQn: Buffer, nameAlg: number, name: Buffer): Buffer {
  if (nameAlg === ALG.NULL) return none;
  return Buffer.concat([be16(nameAlg), hash(nameAlg, parentQn, name)]);
}
export const qualifiedNameUnder = (parent: LoadedObject | number, nameAlg: number, name: Buffer): Buffer =>
  qualifiedName(typeof parent === 'number' ? be32(parent) : parent.qualifiedName, nameAlg, name);

const isStorage = OA.restricted | OA.decrypt;

/** An object as it sits in a slot. `parent` is a hierarchy for primary and external ones. */
export function loaded(
  pub: PublicArea,
  sensitive: SensitiveArea | undefined,
  parent: LoadedObject | number,
  external: boolean,
): LoadedObject {
  const name = objectName(pub);
  const a = pub.objectAttributes;
  let flags = 0;
  if (!sensitive) flags |= OF.publicOnly;
  if (external) flags |= OF.external;
  if (a & OA.stClear) flags |= OF.stClear;
  let hierarchy: number;
  if (typeof parent === 'number') {
    hierarchy = parent;
    if (parent === RH.NULL) flags |= OF.temporary;
    else if (!external) flags |= OF.primary;
  } else {
    hierarchy = parent.hierarchy;
    flags |= parent.flags & (OF.stClear | OF.temporary);
  }
  if (!external && sensitive && (a & isStorage) === isStorage && pub.nameAlg !== ALG.NULL) {
    flags |= pub.type === ALG.KEYEDHASH ? OF.derivation : OF.isParent;
  }
  return {
    flags,
    hierarchy,
    pub,
    sensitive,
    name,
    qualifiedName: external ? name : qualifiedNameUnder(parent, pub.nameAlg, name),
  };
}
