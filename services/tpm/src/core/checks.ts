/** Whether a public area is consistent: in itself, with its parent, for creation (part 1, 24 to 27; part 2, 8.3). */
import { decryptSchemes, digestSize, signSchemes } from '../spec/algorithms.ts';
import { encode } from '../spec/codec.ts';
import { ALG, OA, RC } from '../spec/constants.ts';
import { refuse } from '../spec/refusal.ts';
import { type PublicArea, symDefObject } from '../spec/types.ts';
import { type LoadedObject, OF } from './state.ts';

const has = (attributes: number, bit: number) => (attributes & bit) !== 0;

function checkKeyedHash({ parameters, objectAttributes: a }: PublicArea): void {
  const { scheme, hashAlg, kdf } = parameters.scheme;
  if (has(a, OA.sign) === has(a, OA.decrypt)) {
    if (scheme !== ALG.NULL) refuse(RC.SCHEME);
  } else if (has(a, OA.sign)) {
    if (scheme !== ALG.HMAC) refuse(RC.SCHEME);
  } else {
    if (scheme !== ALG.XOR) refuse(RC.SCHEME);
    if (has(a, OA.restricted)) {
      if (kdf !== ALG.KDF1_SP800_108) refuse(RC.SCHEME);
      if (digestSize(hashAlg) === 0) refuse(RC.HASH);
    }
  }
}

function checkAsymmetric({ type, parameters, objectAttributes: a }: PublicArea): void {
  const family = type === ALG.RSA ? 'rsa' : 'ecc';
  const { scheme } = parameters.scheme;
  const restricted = has(a, OA.restricted);
  if (has(a, OA.sign) === has(a, OA.decrypt)) {
    if (scheme !== ALG.NULL) refuse(RC.SCHEME);
  } else if (has(a, OA.sign)) {
    if (!signSchemes[family].includes(scheme) && (restricted || scheme !== ALG.NULL)) refuse(RC.SCHEME);
  } else if (
    restricted ? scheme !== ALG.NULL : scheme !== ALG.NULL && !decryptSchemes[family].includes(scheme)
  ) {
    refuse(RC.SCHEME);
  }
  if (!(restricted && has(a, OA.decrypt)) && parameters.symmetric.algorithm !== ALG.NULL)
    refuse(RC.SYMMETRIC);
  if (type === ALG.ECC && parameters.kdf.scheme !== ALG.NULL) refuse(RC.KDF);
}

/** Schemes against attributes, and the symmetric algorithm of a parent (part 2, 12.2.3). */
export function checkSchemes(parent: LoadedObject | undefined, pub: PublicArea): void {
  const a = pub.objectAttributes;
  const { symmetric } = pub.parameters;
  if (pub.type === ALG.KEYEDHASH) checkKeyedHash(pub);
  else if (pub.type !== ALG.SYMCIPHER) checkAsymmetric(pub);
  if (pub.type === ALG.KEYEDHASH || !has(a, OA.restricted) || !has(a, OA.decrypt)) return;
  if (symmetric.algorithm === ALG.NULL) refuse(RC.SYMMETRIC);
  // A parent that cannot be duplicated protects as its own parent does.
  if (has(a, OA.fixedParent) && parent) {
    if (pub.nameAlg !== parent.pub.nameAlg) refuse(RC.HASH);
    const theirs = parent.pub.parameters.symmetric;
    if (!encode(symDefObject, symmetric).equals(encode(symDefObject, theirs))) refuse(RC.SYMMETRIC);
  }
}

/** The attributes among themselves and against those of the parent (part 1, 25). */
export function checkPublic(parent: LoadedObject | undefined, pub: PublicArea): void {
  const a = pub.objectAttributes;
  const pa = parent?.pub.objectAttributes ?? 0;
  if (pub.nameAlg === ALG.NULL) refuse(RC.HASH);
  if (pub.authPolicy.length !== 0 && pub.authPolicy.length !== digestSize(pub.nameAlg)) refuse(RC.SIZE);
  if (!parent || has(pa, OA.fixedTPM)) {
    if (has(a, OA.fixedParent) !== has(a, OA.fixedTPM)) refuse(RC.ATTRIBUTES);
  } else if (has(a, OA.fixedTPM)) refuse(RC.ATTRIBUTES);
  if (has(a, OA.sign) === has(a, OA.decrypt)) {
    if (has(a, OA.restricted)) refuse(RC.ATTRIBUTES);
    if (pub.type !== ALG.KEYEDHASH && !has(a, OA.sign)) refuse(RC.ATTRIBUTES);
  }
  if (has(a, OA.fixedTPM) && has(a, OA.encryptedDuplication)) refuse(RC.ATTRIBUTES);
  if (
    parent &&
    !has(pa, OA.fixedTPM) &&
    has(a, OA.encryptedDuplication) !== has(pa, OA.encryptedDuplication)
  ) {
    refuse(RC.ATTRIBUTES);
  }
  if (parent && parent.flags & OF.derivation) {
    if (has(a, OA.fixedTPM) !== has(pa, OA.fixedTPM) || !has(a, OA.fixedParent)) refuse(RC.ATTRIBUTES);
  }
  checkSchemes(parent, pub);
}

/** What only a creation must keep to: who brings the sensitive data (part 3, 12.1). */
export function checkCreation(parent: LoadedObject | undefined, pub: PublicArea, dataSize: number): void {
  const a = pub.objectAttributes;
  const origin = has(a, OA.sensitiveDataOrigin);
  if (!origin && dataSize === 0) refuse(RC.ATTRIBUTES);
  if (parent && origin && dataSize !== 0) refuse(RC.ATTRIBUTES);
  if (pub.type === ALG.KEYEDHASH || pub.type === ALG.SYMCIPHER) {
    const sealed = pub.type === ALG.KEYEDHASH && !has(a, OA.sign) && !has(a, OA.decrypt);
    if (sealed && origin) refuse(RC.ATTRIBUTES);
    if (has(a, OA.restricted) && !origin && (has(a, OA.fixedParent) || has(a, OA.fixedTPM))) {
      refuse(RC.ATTRIBUTES);
    }
  } else if (!origin) refuse(RC.ATTRIBUTES);
  checkPublic(parent, pub);
}
