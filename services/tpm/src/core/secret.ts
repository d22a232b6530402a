/** Secrets shared with a key: of a salted session, a duplicate, a credential (part 1, B.10 and C.6). */
import { curveOf, mul, mulBase, newPrivate, onCurve, type Point } from '../crypto/ecc.ts';
import { kdfa, kdfe, none } from '../crypto/hash.ts';
import { toBytes, toInt } from '../crypto/numbers.ts';
import * as rsa from '../crypto/rsa.ts';
import { blockSize, cfb } from '../crypto/symmetric.ts';
import { digestSize } from '../spec/algorithms.ts';
import { encode, Reader } from '../spec/codec.ts';
import { ALG, OA, RC } from '../spec/constants.ts';
import { refuse } from '../spec/refusal.ts';
import { eccPoint } from '../spec/types.ts';
import { rsaPrivate, rsaPublic } from './keys.ts';
import type { LoadedObject } from './state.ts';
import type { Tpm } from './tpm.ts';

export type Label = 'SECRET' | 'DUPLICATE' | 'IDENTITY';
const labelOf = (label: Label) => Buffer.from(`${label}\0`);

export const publicPoint = (o: LoadedObject): Point => ({
  x: toInt(o.pub.unique.x),
  y: toInt(o.pub.unique.y),
});

/** A new secret, and what the owner of `key` recovers it from. */
export function shareSecret(tpm: Tpm, key: LoadedObject, label: Label): { seed: Buffer; secret: Buffer } {
  const { pub } = key;
  if (!(pub.objectAttributes & OA.decrypt)) refuse(RC.ATTRIBUTES);
  const size = digestSize(pub.nameAlg);
  const rand = tpm.random.bytes;
  if (pub.type === ALG.RSA) {
    const seed = rand(size);
    const padded = rsa.oaepPad(pub.unique.x.length, pub.nameAlg, labelOf(label), seed, rand);
    return { seed, secret: rsa.rawPublic(rsaPublic(key), padded) };
  }
  const c = curveOf(pub.parameters.curveID);
  const q = publicPoint(key);
  if (!onCurve(c, q)) refuse(RC.KEY);
  const d = newPrivate(c, rand);
  const e = mulBase(c, d);
  const x = toBytes(e.x, c.bytes);
  const z = toBytes(mul(c, d, q)!.x, c.bytes);
  return {
    seed: kdfe(pub.nameAlg, z, label, x, toBytes(q.x, c.bytes), size * 8),
    secret: encode(eccPoint, { x, y: toBytes(e.y, c.bytes) }),
  };
}

/** The secret that was shared with a key of ours. */
export function recoverSecret(key: LoadedObject, label: Label, secret: Buffer, nonceCaller?: Buffer): Buffer {
  const { pub } = key;
  const size = digestSize(pub.nameAlg);
  switch (pub.type) {
    case ALG.RSA: {
      const own = pub.parameters.scheme;
      const alg = own.scheme === ALG.NULL ? pub.nameAlg : own.hashAlg;
      if ((own.scheme !== ALG.NULL && own.scheme !== ALG.OAEP) || digestSize(alg) === 0) refuse(RC.SCHEME);
      if (secret.length !== pub.unique.x.length) refuse(RC.SIZE);
      if (toInt(secret) >= toInt(pub.unique.x)) refuse(RC.VALUE);
      const seed = rsa.oaepUnpad(alg, labelOf(label), rsa.rawPrivate(rsaPrivate(key), secret));
      if (!seed || seed.length > digestSize(alg)) refuse(RC.VALUE);
      return seed;
    }
    case ALG.ECC: {
      const c = curveOf(pub.parameters.curveID);
      const sent = eccPoint.read(new Reader(secret), {});
      const point = { x: toInt(sent.x), y: toInt(sent.y) };
      if (!onCurve(c, point)) refuse(RC.ECC_POINT);
      const z = mul(c, toInt(key.sensitive!.sensitive), point);
      if (!z) refuse(RC.NO_RESULT);
      return kdfe(pub.nameAlg, toBytes(z.x, c.bytes), label, sent.x, pub.unique.x, size * 8);
    }
    case ALG.KEYEDHASH: {
      if (secret.length > size) refuse(RC.VALUE);
      const mask = kdfa(
        pub.nameAlg,
        key.sensitive!.sensitive,
        'XOR',
        nonceCaller ?? none,
        none,
        secret.length * 8,
      );
      return mask.map((b, i) => b ^ secret[i]!) as Buffer;
    }
    default: {
      if (secret.length > size) refuse(RC.VALUE);
      const { symmetric } = pub.parameters;
      const iv = Buffer.alloc(blockSize(symmetric.algorithm));
      nonceCaller?.copy(iv);
      return cfb(true, symmetric, key.sensitive!.sensitive, secret, iv);
    }
  }
}
