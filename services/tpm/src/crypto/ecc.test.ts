import { createECDH, createSign, createVerify, generateKeyPairSync } from 'node:crypto';
import { expect, test } from 'vitest';
import { curveIds } from '../spec/algorithms.ts';
import { ALG } from '../spec/constants.ts';
import {
  add,
  curveOf,
  ecdsaSign,
  ecdsaVerify,
  mul,
  mulBase,
  newPrivate,
  onCurve,
  schnorrSign,
  schnorrVerify,
} from './ecc.ts';
import { hash } from './hash.ts';
import { toBytes, toInt } from './numbers.ts';
import { seededRandom } from './random.ts';

const rand = seededRandom(Buffer.from(process.env.NYX_SEED ?? '1'));

test.each(curveIds)('curve %i: products, sums and signatures', (id) => {
  const c = curveOf(id);
  expect(onCurve(c, c.g)).toBe(true);
  expect(onCurve(c, { x: c.g.x, y: c.g.y + 1n })).toBe(false);
  const [k, l] = [newPrivate(c, rand), newPrivate(c, rand)];
  const kg = mulBase(c, k);
  expect(mul(c, k, c.g)).toEqual(kg);
  expect(mul(c, l, kg)).toEqual(mulBase(c, (k * l) % c.n));
  expect(add(c, kg, mulBase(c, l))).toEqual(mul(c, k + l, c.g));
  expect(add(c, kg, kg)).toEqual(mul(c, 2n * k, c.g));
  expect(add(c, kg, mul(c, c.n - 1n, kg))).toBeUndefined();
  expect(mul(c, c.n, kg)).toBeUndefined();

  const digest = rand(32);
  const sig = ecdsaSign(c, k, digest, rand);
  expect(ecdsaVerify(c, kg, digest, sig)).toBe(true);
  expect(ecdsaVerify(c, kg, rand(32), sig)).toBe(false);
  expect(ecdsaVerify(c, mul(c, c.n - 1n, kg)!, digest, sig)).toBe(false);
  expect(ecdsaVerify(c, kg, digest, { r: sig.r, s: c.n })).toBe(false);
  const schnorr = schnorrSign(c, k, ALG.SHA256, digest, rand);
  expect(schnorrVerify(c, kg, ALG.SHA256, digest, schnorr)).toBe(true);
  expect(schnorrVerify(c, kg, ALG.SHA256, rand(32), schnorr)).toBe(false);
});

test('ECDSA both ways with node:crypto', () => {
  const c = curveOf(3);
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: c.name });
  const jwk = privateKey.export({ format: 'jwk' });
  const part = (s: string | undefined) => toInt(Buffer.from(s!, 'base64url'));
  const q = { x: part(jwk.x), y: part(jwk.y) };
  const message = Buffer.from('message');
  const digest = hash(ALG.SHA256, message);
  const ours = ecdsaSign(c, part(jwk.d), digest, rand);
  const raw = Buffer.concat([toBytes(ours.r, 32), toBytes(ours.s, 32)]);
  const key = { key: publicKey, dsaEncoding: 'ieee-p1363' } as const;
  expect(createVerify('sha256').update(message).verify(key, raw)).toBe(true);
  const theirs = createSign('sha256').update(message).sign({ key: privateKey, dsaEncoding: 'ieee-p1363' });
  const sig = { r: toInt(theirs.subarray(0, 32)), s: toInt(theirs.subarray(32)) };
  expect(ecdsaVerify(c, q, digest, sig)).toBe(true);
  const other = createECDH(c.name);
  other.generateKeys();
  expect(ecdsaVerify(c, mulBase(c, toInt(other.getPrivateKey())), digest, sig)).toBe(false);
});
