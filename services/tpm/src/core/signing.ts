/** Signatures by and for loaded keys (part 1, 11.4.5 and annexes B and C). */

import {
  curveOf,
  ecdsaSign,
  ecdsaVerify,
  onCurve,
  schnorrSign,
  schnorrVerify,
  sm2Sign,
  sm2Verify,
} from '../crypto/ecc.ts';
import { equal, hmac } from '../crypto/hash.ts';
import { toBytes, toInt } from '../crypto/numbers.ts';
import * as rsa from '../crypto/rsa.ts';
import { digestSize, signSchemes } from '../spec/algorithms.ts';
import { ALG, OA, RC } from '../spec/constants.ts';
import { refuse } from '../spec/refusal.ts';
import type { Scheme, Signature } from '../spec/types.ts';
import { ecdaaSign } from './commit.ts';
import { rsaPrivate, rsaPublic } from './keys.ts';
import type { LoadedObject } from './state.ts';
import type { Tpm } from './tpm.ts';

/** Whether an object can sign at all. */
export const signs = ({ pub }: LoadedObject): boolean =>
  (pub.objectAttributes & OA.sign) !== 0 && pub.type !== ALG.SYMCIPHER;

/** Whether a key of this type can use the scheme. */
function fits(type: number, scheme: number): boolean {
  if (type === ALG.RSA) return signSchemes.rsa.includes(scheme);
  if (type === ALG.ECC) return signSchemes.ecc.includes(scheme);
  return type === ALG.KEYEDHASH && scheme === ALG.HMAC;
}

/**
 * The scheme to sign with: that of the key, else that of the command; undefined when they contradict each other or the
 * key. The commit counter of ECDAA always comes from the command.
 */
export function signingScheme(key: LoadedObject, wanted: Scheme): Scheme | undefined {
  const { type } = key.pub;
  const own = key.pub.parameters.scheme;
  if (type === ALG.SYMCIPHER || !own) return undefined;
  if (own.scheme === ALG.NULL) return fits(type, wanted.scheme) ? wanted : undefined;
  if (!fits(type, own.scheme)) return undefined;
  if (wanted.scheme === ALG.NULL) return own.scheme === ALG.ECDAA ? undefined : own;
  if (wanted.scheme !== own.scheme || wanted.hashAlg !== own.hashAlg) return undefined;
  return wanted;
}

/** Signs a digest of the scheme's hash. */
export function signDigest(tpm: Tpm, key: LoadedObject, scheme: Scheme, digest: Buffer): Signature {
  const { hashAlg } = scheme;
  const { pub, sensitive } = key;
  if (!sensitive) refuse(RC.KEY);
  if (digest.length !== digestSize(hashAlg)) refuse(RC.SIZE);
  const rand = tpm.random.bytes;
  const sigAlg = scheme.scheme;
  switch (sigAlg) {
    case ALG.HMAC:
      return { sigAlg, signature: { hash: hashAlg, hmac: hmac(hashAlg, sensitive.sensitive, digest) } };
    case ALG.RSASSA:
    case ALG.RSAPSS: {
      const size = pub.unique.x.length;
      const padded =
        sigAlg === ALG.RSASSA
          ? rsa.rsassaEncode(size, hashAlg, digest)
          : rsa.pssEncode(size * 8, hashAlg, digest, rand);
      if (!padded) refuse(RC.SCHEME);
      return { sigAlg, signature: { hash: hashAlg, sig: rsa.rawPrivate(rsaPrivate(key), padded) } };
    }
    default: {
      const c = curveOf(pub.parameters.curveID);
      const d = toInt(sensitive.sensitive);
      const sig =
        sigAlg === ALG.ECDSA
          ? ecdsaSign(c, d, digest, rand)
          : sigAlg === ALG.ECDAA
            ? ecdaaSign(tpm, key, c, d, scheme, digest)
            : sigAlg === ALG.SM2
              ? sm2Sign(c, d, digest, rand)
              : schnorrSign(c, d, hashAlg, digest, rand);
      return {
        sigAlg,
        signature: { hash: hashAlg, r: toBytes(sig.r, c.bytes), s: toBytes(sig.s, c.bytes) },
      };
    }
  }
}

/** Checks a signature over a digest; refuses with RC.SIGNATURE, RC.SCHEME or RC.HANDLE. */
export function verify(key: LoadedObject, digest: Buffer, { sigAlg, signature: s }: Signature): void {
  const { type, unique, parameters } = key.pub;
  if (!s || !fits(type, sigAlg)) refuse(RC.SCHEME);
  const alg = s.hash!;
  const own = parameters.scheme;
  let good = false;
  switch (sigAlg) {
    case ALG.HMAC:
      if (!key.sensitive) refuse(RC.HANDLE);
      // A weaker hash than the key's own is not taken; with what an asymmetric key would sign is no matter here.
      if (own.scheme !== ALG.NULL && own.hashAlg !== alg) break;
      good = equal(hmac(alg, key.sensitive.sensitive, digest), s.hmac!);
      break;
    case ALG.RSASSA:
    case ALG.RSAPSS: {
      const n = unique.x;
      if (digest.length !== digestSize(alg)) refuse(RC.SIGNATURE);
      if (s.sig!.length !== n.length || toInt(s.sig!) >= toInt(n)) break;
      const encoded = rsa.rawPublic(rsaPublic(key), s.sig!);
      if (sigAlg === ALG.RSAPSS) good = rsa.pssVerify(alg, digest, encoded);
      else {
        const want = rsa.rsassaEncode(n.length, alg, digest);
        good = want !== undefined && equal(want, encoded);
      }
      break;
    }
    default: {
      const c = curveOf(parameters.curveID);
      const q = { x: toInt(unique.x), y: toInt(unique.y) };
      if (!onCurve(c, q)) break;
      const sig = { r: toInt(s.r!), s: toInt(s.s!) };
      if (sigAlg === ALG.ECDSA) good = ecdsaVerify(c, q, digest, sig);
      else if (sigAlg === ALG.SM2) good = sm2Verify(c, q, digest, sig);
      else if (sigAlg === ALG.ECSCHNORR) good = schnorrVerify(c, q, alg, digest, sig);
      else refuse(RC.SCHEME);
    }
  }
  if (!good) refuse(RC.SIGNATURE);
}
