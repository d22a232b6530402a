/**
 * Elliptic curves over node:crypto's ECDH. That gives only x of a product; y is recovered from x of the next
 * multiple, so every scalar multiplication is the library's (its timing too), never done with big integers here.
 */
import { createECDH } from 'node:crypto';
import { digestSize } from '../spec/algorithms.ts';
import { CURVE } from '../spec/constants.ts';
import { hash } from './hash.ts';
import { inverse, mod, toBytes, toInt } from './numbers.ts';
import type { Rand } from './random.ts';

export interface Curve {
  id: number;
  name: string;
  bits: number;
  bytes: number;
  p: bigint;
  a: bigint;
  b: bigint;
  g: Point;
  n: bigint;
}
/** Affine; `undefined` is the point at infinity. */
export interface Point {
  x: bigint;
  y: bigint;
}

const curve = (id: number, name: string, bits: number, p: string, b: string, g: string, n: string): Curve => {
  const size = (bits + 7) >> 3;
  const P = BigInt(`0x${p}`);
  return {
    id,
    name,
    bits,
    bytes: size,
    p: P,
    a: P - 3n,
    b: BigInt(`0x${b}`),
    g: { x: BigInt(`0x${g.slice(0, 2 * size)}`), y: BigInt(`0x${g.slice(2 * size)}`) },
    n: BigInt(`0x${n}`),
  };
};

/** The NIST curves (FIPS 186-4, D.1.2), and that of SM2 (GB/T 32918.5-2017), whose `a` is p - 3 as well. */
const curves = new Map(
  [
    curve(
      CURVE.P192,
      'prime192v1',
      192,
      'fffffffffffffffffffffffffffffffeffffffffffffffff',
      '64210519e59c80e70fa7e9ab72243049feb8deecc146b9b1',
      '188da80eb03090f67cbf20eb43a18800f4ff0afd82ff101207192b95ffc8da78631011ed6b24cdd573f977a11e794811',
      'ffffffffffffffffffffffff99def836146bc9b1b4d22831',
    ),
    curve(
      CURVE.P224,
      'secp224r1',
      224,
      'ffffffffffffffffffffffffffffffff000000000000000000000001',
      'b4050a850c04b3abf54132565044b0b7d7bfd8ba270b39432355ffb4',
      'b70e0cbd6bb4bf7f321390b94a03c1d356c21122343280d6115c1d21' +
        'bd376388b5f723fb4c22dfe6cd4375a05a07476444d5819985007e34',
      'ffffffffffffffffffffffffffff16a2e0b8f03e13dd29455c5c2a3d',
    ),
    curve(
      CURVE.P256,
      'prime256v1',
      256,
      'ffffffff00000001000000000000000000000000ffffffffffffffffffffffff',
      '5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b',
      '6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296' +
        '4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5',
      'ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551',
    ),
    curve(
      CURVE.P384,
      'secp384r1',
      384,
      'fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffeffffffff0000000000000000ffffffff',
      'b3312fa7e23ee7e4988e056be3f82d19181d9c6efe8141120314088f5013875ac656398d8a2ed19d2a85c8edd3ec2aef',
      'aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7' +
        '3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f',
      'ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973',
    ),
    curve(
      CURVE.P521,
      'secp521r1',
      521,
      `01ff${'ff'.repeat(64)}`,
      '0051953eb9618e1c9a1f929a21a0b68540eea2da725b99b315f3b8b489918ef109e156193951ec7e937b1652c0bd3bb1bf07' +
        '3573df883d2c34f1ef451fd46b503f00',
      '00c6858e06b70404e9cd9e3ecb662395b4429c648139053fb521f828af606b4d3dbaa14b5e77efe75928fe1dc127a2ffa8de' +
        '3348b3c1856a429bf97e7e31c2e5bd66' +
        '011839296a789a3bc0045c8a5fb42c7d1bd998f54449579b446817afbd17273e662c97ee72995ef42640c550b9013fad0761' +
        '353c7086a272c24088be94769fd16650',
      '01fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa51868783bf2f' +
        '966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409',
    ),
    curve(
      CURVE.SM2_P256,
      'SM2',
      256,
      'fffffffeffffffffffffffffffffffffffffffff00000000ffffffffffffffff',
      '28e9fa9e9d9f5e344d5a9e4bcf6509a7f39789f515ab8f92ddbcbd414d940e93',
      '32c4ae2c1f1981195f9904466a39c9948fe30bbff2660be1715a4589334c74c7' +
        'bc3736a2f4f6779c59bdcee36b692153d0a9877cc62a474002df32e52139f0a0',
      'fffffffeffffffffffffffffffffffff7203df6b21c6052b53bbf40939d54123',
    ),
  ].map((c) => [c.id, c]),
);
export const curveOf = (id: number): Curve => curves.get(id)!;

export function onCurve(c: Curve, { x, y }: Point): boolean {
  return x < c.p && y < c.p && mod(y * y - (x * x * x + c.a * x + c.b), c.p) === 0n;
}

function encodePoint(c: Curve, { x, y }: Point): Buffer {
  return Buffer.concat([Buffer.of(4), toBytes(x, c.bytes), toBytes(y, c.bytes)]);
}

/** k * G; k in 1..n-1. */
export function mulBase(c: Curve, k: bigint): Point {
  const e = createECDH(c.name);
  e.setPrivateKey(toBytes(k, c.bytes));
  const q = e.getPublicKey();
  return { x: toInt(q.subarray(1, 1 + c.bytes)), y: toInt(q.subarray(1 + c.bytes)) };
}

/** x of k * P. */
function mulX(c: Curve, k: bigint, p: Point): bigint {
  const e = createECDH(c.name);
  e.setPrivateKey(toBytes(k, c.bytes));
  return toInt(e.computeSecret(encodePoint(c, p)));
}

/** k * P for a point on the curve. */
export function mul(c: Curve, k: bigint, p: Point): Point | undefined {
  const m = mod(k, c.n);
  if (m === 0n) return undefined;
  if (m === 1n) return p;
  if (m === c.n - 1n) return { x: p.x, y: mod(-p.y, c.p) };
  const x1 = mulX(c, m, p);
  const x2 = mulX(c, m + 1n, p);
  // x2 is x of (x1, y) + P: solved for y (Brier and Joye, 2002).
  const d = p.x - x1;
  const top = 2n * c.b + (c.a + p.x * x1) * (p.x + x1) - x2 * d * d;
  return { x: x1, y: mod(top * inverse(2n * p.y, c.p), c.p) };
}

export function add(c: Curve, a: Point | undefined, b: Point | undefined): Point | undefined {
  if (!a) return b;
  if (!b) return a;
  let slope: bigint;
  if (a.x === b.x) {
    if (a.y !== b.y || a.y === 0n) return undefined;
    slope = (3n * a.x * a.x + c.a) * inverse(2n * a.y, c.p);
  } else slope = (b.y - a.y) * inverse(b.x - a.x, c.p);
  const x = mod(slope * slope - a.x - b.x, c.p);
  return { x, y: mod(slope * (a.x - x) - a.y, c.p) };
}

/** A private key: uniform in 1..n-1 (FIPS 186-4, B.4.1: 64 extra bits). */
export function newPrivate(c: Curve, rand: Rand): bigint {
  return mod(toInt(rand(c.bytes + 8)), c.n - 1n) + 1n;
}

/** The digest as ECDSA uses it: its leftmost bits, as many as n has. */
function digestInt(c: Curve, digest: Buffer): bigint {
  const v = toInt(digest);
  const extra = digest.length * 8 - c.bits;
  return extra > 0 ? v >> BigInt(extra) : v;
}

export interface EccSignature {
  r: bigint;
  s: bigint;
}

export function ecdsaSign(c: Curve, d: bigint, digest: Buffer, rand: Rand): EccSignature {
  const e = digestInt(c, digest);
  for (;;) {
    const k = newPrivate(c, rand);
    const r = mod(mulBase(c, k).x, c.n);
    // Blinded, so that the time of the inversion says nothing of k.
    const blind = newPrivate(c, rand);
    const s = mod(inverse(mod(k * blind, c.n), c.n) * mod((e + r * d) * blind, c.n), c.n);
    if (r !== 0n && s !== 0n) return { r, s };
  }
}

export function ecdsaVerify(c: Curve, q: Point, digest: Buffer, { r, s }: EccSignature): boolean {
  if (r <= 0n || s <= 0n || r >= c.n || s >= c.n) return false;
  const w = inverse(s, c.n);
  const u1 = mod(digestInt(c, digest) * w, c.n);
  const point = add(c, u1 === 0n ? undefined : mulBase(c, u1), mul(c, mod(r * w, c.n), q));
  return point !== undefined && mod(point.x, c.n) === r;
}

/** The challenge of EC-Schnorr (part 1, C.4.3): hash of x of the point and the digest, cut to n. */
function schnorrChallenge(c: Curve, alg: number, x: bigint, digest: Buffer): bigint {
  return mod(
    digestInt(c, hash(alg, toBytes(mod(x, c.n), c.bytes), digest).subarray(0, digestSize(alg))),
    c.n,
  );
}

export function schnorrSign(c: Curve, d: bigint, alg: number, digest: Buffer, rand: Rand): EccSignature {
  for (;;) {
    const k = newPrivate(c, rand);
    const r = schnorrChallenge(c, alg, mulBase(c, k).x, digest);
    const s = mod(k + r * d, c.n);
    if (r !== 0n && s !== 0n) return { r, s };
  }
}

export function schnorrVerify(
  c: Curve,
  q: Point,
  alg: number,
  digest: Buffer,
  { r, s }: EccSignature,
): boolean {
  if (r <= 0n || s <= 0n || r >= c.n || s >= c.n) return false;
  const point = add(c, mulBase(c, s), mul(c, c.n - r, q));
  return point !== undefined && schnorrChallenge(c, alg, point.x, digest) === r;
}

/** SM2 (GB/T 32918.2-2016, 6.1), of a digest that is made already. */
export function sm2Sign(c: Curve, d: bigint, digest: Buffer, rand: Rand): EccSignature {
  for (;;) {
    const k = newPrivate(c, rand);
    const r = mod(toInt(digest) + mulBase(c, k).x, c.n);
    if (r === 0n || r + k === c.n) continue;
    // Blinded, so that the time of the inversion says nothing of d.
    const blind = newPrivate(c, rand);
    const s = mod(inverse(mod((1n + d) * blind, c.n), c.n) * mod((k - r * d) * blind, c.n), c.n);
    if (s !== 0n) return { r, s };
  }
}

export function sm2Verify(c: Curve, q: Point, digest: Buffer, { r, s }: EccSignature): boolean {
  if (r <= 0n || s <= 0n || r >= c.n || s >= c.n) return false;
  const t = mod(r + s, c.n);
  if (t === 0n) return false;
  const point = add(c, mulBase(c, s), mul(c, t, q));
  return point !== undefined && mod(toInt(digest) + point.x, c.n) === r;
}

/**
 * Full exchange with two keys on either side, which takes the lower `bits` of x of the ephemeral points as factors: ECMQV
 * (SP 800-56A, 5.7.2.3) with half of the bits of n, SM2 (GB/T 32918.3-2016) with one less. Undefined: the point at infinity.
 */
export function exchange(
  c: Curve,
  bits: number,
  own: { d: bigint; ephemeral: bigint },
  theirs: { q: Point; ephemeral: Point },
): Point | undefined {
  const top = 1n << BigInt(bits);
  const factor = (x: bigint) => top + mod(x, top);
  const t = mod(own.d + own.ephemeral * factor(mulBase(c, own.ephemeral).x), c.n);
  const sum = add(c, theirs.q, mul(c, factor(theirs.ephemeral.x), theirs.ephemeral));
  return sum && mul(c, t, sum);
}
