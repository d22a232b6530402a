/**
 * SHA-1 and SHA-2 whose state is plain data (FIPS 180-4). node:crypto cannot save a hash that is under way, and a
 * sequence object must survive TPM2_ContextSave and a restart of the process; nothing else uses these.
 */
import { hashInfo } from '../spec/algorithms.ts';
import { ALG } from '../spec/constants.ts';

export interface HashState {
  alg: number;
  /** Chaining value: 32-bit words; the 64-bit words of SHA-384/512 as high, low. */
  h: number[];
  /** Octets seen so far. */
  length: number;
  /** What does not fill a block yet. */
  tail: Buffer;
}

const words = (hex: string) => (hex.match(/.{8}/g) ?? []).map((w) => Number.parseInt(w, 16) | 0);
const initial: Record<number, number[]> = {
  [ALG.SHA1]: words('67452301efcdab8998badcfe10325476c3d2e1f0'),
  [ALG.SHA256]: words('6a09e667bb67ae853c6ef372a54ff53a510e527f9b05688c1f83d9ab5be0cd19'),
  [ALG.SHA384]: words(
    'cbbb9d5dc1059ed8629a292a367cd5079159015a3070dd17152fecd8f70e593967332667ffc00b318eb44a8768581511' +
      'db0c2e0d64f98fa747b5481dbefa4fa4',
  ),
  [ALG.SHA512]: words(
    '6a09e667f3bcc908bb67ae8584caa73b3c6ef372fe94f82ba54ff53a5f1d36f1510e527fade682d19b05688c2b3e6c1f' +
      '1f83d9abfb41bd6b5be0cd19137e2179',
  ),
};

/** The first 64 fractional bits of the cube roots of the first 80 primes (FIPS 180-4, 4.2.3). */
function roundConstants(): Int32Array {
  const out = new Int32Array(160);
  let n = 0;
  for (let p = 2n; n < 80; p++) {
    let prime = true;
    for (let d = 2n; d * d <= p; d++) if (p % d === 0n) prime = false;
    if (!prime) continue;
    // Floor of the cube root of p * 2^192, by Newton.
    const target = p << 192n;
    let x = 1n << 68n;
    for (;;) {
      const y = (2n * x + target / (x * x)) / 3n;
      if (y >= x) break;
      x = y;
    }
    const k = x & ((1n << 64n) - 1n);
    out[2 * n] = Number(k >> 32n) | 0;
    out[2 * n + 1] = Number(k & 0xffffffffn) | 0;
    n++;
  }
  return out;
}
const K = roundConstants();

const rol = (x: number, n: number) => (x << n) | (x >>> (32 - n));
const w32 = new Int32Array(80);
const w64 = new Int32Array(160);

function sha1Block(h: number[], b: Buffer, at: number): void {
  const w = w32;
  for (let i = 0; i < 16; i++) w[i] = b.readInt32BE(at + 4 * i);
  for (let i = 16; i < 80; i++) w[i] = rol(w[i - 3]! ^ w[i - 8]! ^ w[i - 14]! ^ w[i - 16]!, 1);
  let [a, bb, c, d, e] = h as [number, number, number, number, number];
  for (let i = 0; i < 80; i++) {
    let f: number;
    let k: number;
    if (i < 20) [f, k] = [(bb & c) | (~bb & d), 0x5a827999];
    else if (i < 40) [f, k] = [bb ^ c ^ d, 0x6ed9eba1];
    else if (i < 60) [f, k] = [(bb & c) | (bb & d) | (c & d), 0x8f1bbcdc];
    else [f, k] = [bb ^ c ^ d, 0xca62c1d6];
    const t = (rol(a, 5) + f + e + k + w[i]!) | 0;
    e = d;
    d = c;
    c = rol(bb, 30);
    bb = a;
    a = t;
  }
  [a, bb, c, d, e].forEach((v, i) => {
    h[i] = (h[i]! + v) | 0;
  });
}

function sha256Block(h: number[], b: Buffer, at: number): void {
  const w = w32;
  for (let i = 0; i < 16; i++) w[i] = b.readInt32BE(at + 4 * i);
  for (let i = 16; i < 64; i++) {
    const x = w[i - 15]!;
    const y = w[i - 2]!;
    const s0 = rol(x, 25) ^ rol(x, 14) ^ (x >>> 3);
    const s1 = rol(y, 15) ^ rol(y, 13) ^ (y >>> 10);
    w[i] = (w[i - 16]! + s0 + w[i - 7]! + s1) | 0;
  }
  const v = h.slice() as [number, number, number, number, number, number, number, number];
  for (let i = 0; i < 64; i++) {
    const [a, bb, c, d, e, f, g, hh] = v;
    const s1 = rol(e, 26) ^ rol(e, 21) ^ rol(e, 7);
    const t1 = (hh + s1 + ((e & f) ^ (~e & g)) + K[2 * i]! + w[i]!) | 0;
    const s0 = rol(a, 30) ^ rol(a, 19) ^ rol(a, 10);
    const t2 = (s0 + ((a & bb) ^ (a & c) ^ (bb & c))) | 0;
    v[7] = g;
    v[6] = f;
    v[5] = e;
    v[4] = (d + t1) | 0;
    v[3] = c;
    v[2] = bb;
    v[1] = a;
    v[0] = (t1 + t2) | 0;
  }
  for (let i = 0; i < 8; i++) h[i] = (h[i]! + v[i]!) | 0;
}

// 64-bit arithmetic on (high, low) pairs: low half of a sum, and its carry into the high half.
const low = (sum: number) => sum | 0;
const carry = (sum: number) => Math.floor(sum / 0x100000000);
const u = (x: number) => x >>> 0;
/** High half of a rotation to the right by n (0 < n < 32); swap the arguments for the low half. */
const ror = (hi: number, lo: number, n: number) => (hi >>> n) | (lo << (32 - n));

function sha512Block(h: number[], b: Buffer, at: number): void {
  const w = w64;
  for (let i = 0; i < 32; i++) w[i] = b.readInt32BE(at + 4 * i);
  for (let i = 16; i < 80; i++) {
    const xh = w[2 * i - 30]!;
    const xl = w[2 * i - 29]!;
    const yh = w[2 * i - 4]!;
    const yl = w[2 * i - 3]!;
    const s0h = ror(xh, xl, 1) ^ ror(xh, xl, 8) ^ (xh >>> 7);
    const s0l = ror(xl, xh, 1) ^ ror(xl, xh, 8) ^ ror(xl, xh, 7);
    const s1h = ror(yh, yl, 19) ^ ror(yl, yh, 29) ^ (yh >>> 6);
    const s1l = ror(yl, yh, 19) ^ ror(yh, yl, 29) ^ ror(yl, yh, 6);
    const sum = u(s0l) + u(s1l) + u(w[2 * i - 13]!) + u(w[2 * i - 31]!);
    w[2 * i + 1] = low(sum);
    w[2 * i] = (s0h + s1h + w[2 * i - 14]! + w[2 * i - 32]! + carry(sum)) | 0;
  }
  const v = Int32Array.from(h);
  for (let i = 0; i < 80; i++) {
    const [ah, al, bh, bl, ch, cl, dh, dl] = v as unknown as number[] & { 0: number };
    const [eh, el, fh, fl, gh, gl, hh, hl] = v.subarray(8) as unknown as number[];
    const s1h = ror(eh!, el!, 14) ^ ror(eh!, el!, 18) ^ ror(el!, eh!, 9);
    const s1l = ror(el!, eh!, 14) ^ ror(el!, eh!, 18) ^ ror(eh!, el!, 9);
    const chh = (eh! & fh!) ^ (~eh! & gh!);
    const chl = (el! & fl!) ^ (~el! & gl!);
    const t1s = u(hl!) + u(s1l) + u(chl) + u(K[2 * i + 1]!) + u(w[2 * i + 1]!);
    const t1h = (hh! + s1h + chh + K[2 * i]! + w[2 * i]! + carry(t1s)) | 0;
    const t1l = low(t1s);
    const s0h = ror(ah!, al!, 28) ^ ror(al!, ah!, 2) ^ ror(al!, ah!, 7);
    const s0l = ror(al!, ah!, 28) ^ ror(ah!, al!, 2) ^ ror(ah!, al!, 7);
    const mh = (ah! & bh!) ^ (ah! & ch!) ^ (bh! & ch!);
    const ml = (al! & bl!) ^ (al! & cl!) ^ (bl! & cl!);
    const t2s = u(s0l) + u(ml);
    const t2h = (s0h + mh + carry(t2s)) | 0;
    const es = u(dl!) + u(t1l);
    const as = u(t1l) + u(low(t2s));
    v.copyWithin(2, 0, 14);
    v[8] = (dh! + t1h + carry(es)) | 0;
    v[9] = low(es);
    v[0] = (t1h + t2h + carry(as)) | 0;
    v[1] = low(as);
  }
  for (let i = 0; i < 16; i += 2) {
    const s = u(h[i + 1]!) + u(v[i + 1]!);
    h[i + 1] = low(s);
    h[i] = (h[i]! + v[i]! + carry(s)) | 0;
  }
}

const blockOf: Record<number, (h: number[], b: Buffer, at: number) => void> = {
  [ALG.SHA1]: sha1Block,
  [ALG.SHA256]: sha256Block,
  [ALG.SHA384]: sha512Block,
  [ALG.SHA512]: sha512Block,
};

export function startHash(alg: number): HashState {
  return { alg, h: initial[alg]!.slice(), length: 0, tail: Buffer.alloc(0) };
}

export function updateHash(s: HashState, data: Uint8Array): void {
  const { block } = hashInfo(s.alg)!;
  const all = Buffer.concat([s.tail, data]);
  let at = 0;
  for (; at + block <= all.length; at += block) blockOf[s.alg]!(s.h, all, at);
  s.tail = Buffer.from(all.subarray(at));
  s.length += data.length;
}

export function finishHash(s: HashState): Buffer {
  const { block, size } = hashInfo(s.alg)!;
  const lengthField = block / 8;
  const bits = BigInt(s.length) * 8n;
  const pad = Buffer.alloc(((block * 2 - 1 - s.tail.length - lengthField) % block) + 1 + lengthField);
  pad[0] = 0x80;
  pad.writeBigUInt64BE(bits, pad.length - 8);
  updateHash(s, pad);
  const out = Buffer.alloc(s.h.length * 4);
  s.h.forEach((w, i) => out.writeInt32BE(w, 4 * i));
  return out.subarray(0, size);
}
