/** RSA (part 1, annex B): keys, raw operations by node:crypto, the paddings on top of them. */
import {
  checkPrimeSync,
  constants,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  privateDecrypt,
  publicEncrypt,
} from 'node:crypto';
import { digestSize, hashInfo } from '../spec/algorithms.ts';
import { RC } from '../spec/constants.ts';
import { refuse } from '../spec/refusal.ts';
import { be32, equal, hash } from './hash.ts';
import { gcd, inverse, toBytes, toInt } from './numbers.ts';
import type { Rand } from './random.ts';

export interface RsaKey {
  /** Modulus, and one of its primes. */
  n: Buffer;
  p: Buffer;
}
export const defaultExponent = 65537;

const smallPrimes: number[] = [];
for (let n = 3; smallPrimes.length < 600; n += 2)
  if (smallPrimes.every((p) => n % p !== 0)) smallPrimes.push(n);

/** A prime of `bits` bits, the two highest set, p - 1 prime to e (FIPS 186-4, B.3.3, with a sieve). */
function seededPrime(bits: number, e: bigint, rand: Rand, pause: () => void): bigint {
  for (;;) {
    const start = rand(bits / 8);
    start[0]! |= 0xc0;
    start[start.length - 1]! |= 1;
    const base = toInt(start);
    const rest = smallPrimes.map((p) => Number(base % BigInt(p)));
    for (let add = 0; add < 4 * bits; add += 2) {
      if (rest.some((r, i) => (r + add) % smallPrimes[i]! === 0)) continue;
      const candidate = base + BigInt(add);
      if (candidate >> BigInt(bits)) break;
      pause();
      if (gcd(candidate - 1n, e) === 1n && checkPrimeSync(candidate, { checks: 10 })) return candidate;
    }
  }
}

/** A key that is a function of the octets of `rand`: for primary and derived objects. `pause` is called often; what it throws ends it. */
export function seededKey(bits: number, e: number, rand: Rand, pause: () => void = () => {}): RsaKey {
  const exponent = BigInt(e);
  for (;;) {
    const p = seededPrime(bits / 2, exponent, rand, pause);
    const q = seededPrime(bits / 2, exponent, rand, pause);
    const apart = p > q ? p - q : q - p;
    const n = p * q;
    if (apart >> BigInt(bits / 2 - 100) === 0n || n >> BigInt(bits - 1) === 0n) continue;
    return { n: toBytes(n, bits / 8), p: toBytes(p, bits / 16) };
  }
}

export function randomKey(bits: number, e: number): RsaKey {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: bits, publicExponent: e });
  const jwk = privateKey.export({ format: 'jwk' });
  const part = (s: string | undefined) => toInt(Buffer.from(s!, 'base64url'));
  return { n: toBytes(part(jwk.n), bits / 8), p: toBytes(part(jwk.p), bits / 16) };
}

/** Whether p divides n and both halves are of the size they must be. */
export function matches({ n, p }: RsaKey): boolean {
  if (p.length * 2 !== n.length) return false;
  const prime = toInt(p);
  return prime > 1n && toInt(n) % prime === 0n;
}

const b64 = (v: bigint, size: number) => toBytes(v, size).toString('base64url');
const exponentBytes = (e: number) => toBytes(BigInt(e), 4).toString('base64url');

export function privateKeyOf({ n, p }: RsaKey, e: number): KeyObject {
  const P = toInt(p);
  const N = toInt(n);
  const Q = N / P;
  const exponent = BigInt(e);
  const d = inverse(exponent, (P - 1n) * (Q - 1n));
  const half = p.length;
  return createPrivateKey({
    format: 'jwk',
    key: {
      kty: 'RSA',
      n: n.toString('base64url'),
      e: exponentBytes(e),
      d: b64(d, n.length),
      p: b64(P, half),
      q: b64(Q, half),
      dp: b64(d % (P - 1n), half),
      dq: b64(d % (Q - 1n), half),
      qi: b64(inverse(Q, P), half),
    },
  });
}

export function publicKeyOf(n: Buffer, e: number): KeyObject {
  return createPublicKey({
    format: 'jwk',
    key: { kty: 'RSA', n: n.toString('base64url'), e: exponentBytes(e) },
  });
}

const raw = constants.RSA_NO_PADDING;
/** m^e mod n; `m` of the modulus's size and below it (the caller has checked). */
export const rawPublic = (key: KeyObject, m: Buffer): Buffer => publicEncrypt({ key, padding: raw }, m);
export const rawPrivate = (key: KeyObject, c: Buffer): Buffer => privateDecrypt({ key, padding: raw }, c);

function mgf1(alg: number, seed: Uint8Array, size: number): Buffer {
  const parts: Buffer[] = [];
  for (let i = 0, have = 0; have < size; i++, have += digestSize(alg)) parts.push(hash(alg, seed, be32(i)));
  return Buffer.concat(parts).subarray(0, size);
}
function xorInto(target: Uint8Array, mask: Uint8Array): void {
  for (let i = 0; i < target.length; i++) target[i]! ^= mask[i]!;
}

// OAEP (RFC 8017, 7.1)
export function oaepPad(
  size: number,
  alg: number,
  label: Uint8Array,
  message: Uint8Array,
  rand: Rand,
): Buffer {
  const h = digestSize(alg);
  if (message.length > size - 2 * h - 2 || size < 2 * h + 2) refuse(RC.VALUE);
  const out = Buffer.alloc(size);
  const seed = out.subarray(1, 1 + h);
  const db = out.subarray(1 + h);
  hash(alg, label).copy(db);
  db[db.length - message.length - 1] = 1;
  db.set(message, db.length - message.length);
  rand(h).copy(seed);
  xorInto(db, mgf1(alg, seed, db.length));
  xorInto(seed, mgf1(alg, db, h));
  return out;
}
export function oaepUnpad(alg: number, label: Uint8Array, padded: Buffer): Buffer | undefined {
  const h = digestSize(alg);
  if (padded.length < 2 * h + 2) return undefined;
  const out = Buffer.from(padded);
  const seed = out.subarray(1, 1 + h);
  const db = out.subarray(1 + h);
  xorInto(seed, mgf1(alg, db, h));
  xorInto(db, mgf1(alg, seed, db.length));
  let at = h;
  while (at < db.length && db[at] === 0) at++;
  if (out[0] !== 0 || db[at] !== 1 || !equal(db.subarray(0, h), hash(alg, label))) return undefined;
  return Buffer.from(db.subarray(at + 1));
}

// PKCS #1 v1.5, block type 2 (RFC 8017, 7.2)
export function pkcs1Pad(size: number, message: Uint8Array, rand: Rand): Buffer {
  if (message.length > size - 11) refuse(RC.VALUE);
  const out = Buffer.alloc(size);
  out[1] = 2;
  const end = size - message.length - 1;
  const filler = rand(end - 2);
  for (let i = 0; i < filler.length; i++) while (filler[i] === 0) filler[i] = rand(1)[0]!;
  filler.copy(out, 2);
  out.set(message, end + 1);
  return out;
}
export function pkcs1Unpad(padded: Buffer): Buffer | undefined {
  const end = padded.indexOf(0, 2);
  if (padded[0] !== 0 || padded[1] !== 2 || end < 10) return undefined;
  return Buffer.from(padded.subarray(end + 1));
}

/** EMSA-PKCS1-v1_5 (RFC 8017, 9.2). Undefined when the modulus is too small. */
export function rsassaEncode(size: number, alg: number, digest: Buffer): Buffer | undefined {
  const { prefix } = hashInfo(alg)!;
  const t = prefix.length + digest.length;
  if (size < t + 11) return undefined;
  const out = Buffer.alloc(size, 0xff);
  out[0] = 0;
  out[1] = 1;
  out[size - t - 1] = 0;
  prefix.copy(out, size - t);
  digest.copy(out, size - digest.length);
  return out;
}

/** EMSA-PSS (RFC 8017, 9.1); the salt as long as the digest, or as fits (part 1, B.7). */
export function pssEncode(bits: number, alg: number, digest: Buffer, rand: Rand): Buffer | undefined {
  const h = digestSize(alg);
  const size = bits / 8;
  const saltSize = Math.min(h, size - h - 2);
  if (saltSize < 0) return undefined;
  const salt = rand(saltSize);
  const mDash = hash(alg, Buffer.alloc(8), digest, salt);
  const out = Buffer.alloc(size);
  const db = out.subarray(0, size - h - 1);
  db[db.length - saltSize - 1] = 1;
  salt.copy(db, db.length - saltSize);
  xorInto(db, mgf1(alg, mDash, db.length));
  db[0]! &= 0x7f;
  mDash.copy(out, db.length);
  out[size - 1] = 0xbc;
  return out;
}
export function pssVerify(alg: number, digest: Buffer, encoded: Buffer): boolean {
  const h = digestSize(alg);
  if (encoded.length < h + 2 || encoded[encoded.length - 1] !== 0xbc || encoded[0]! & 0x80) return false;
  const db = Buffer.from(encoded.subarray(0, encoded.length - h - 1));
  const mDash = encoded.subarray(db.length, db.length + h);
  xorInto(db, mgf1(alg, mDash, db.length));
  db[0]! &= 0x7f;
  let at = 0;
  while (at < db.length && db[at] === 0) at++;
  if (db[at] !== 1) return false;
  return equal(mDash, hash(alg, Buffer.alloc(8), digest, db.subarray(at + 1)));
}
