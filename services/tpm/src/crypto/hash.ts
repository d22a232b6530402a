/** Hashes, HMAC and the two key derivation functions (part 1, 11.4.10). */
import { createHmac, hash as hashOnce, timingSafeEqual } from 'node:crypto';
import { digestSize, hashInfo } from '../spec/algorithms.ts';
import { Prefixes } from '../spec/codec.ts';

const nameOf = (alg: number): string => {
  const info = hashInfo(alg);
  // A hash algorithm reaches here only through the types that check it.
  if (!info) throw new Error(`no hash ${alg.toString(16)}`);
  return info.name;
};

const scratch = new Prefixes(Buffer.alloc(512));
/** The parts one after the other, until the next call. */
function together(parts: readonly Uint8Array[]): Uint8Array {
  let n = 0;
  for (const p of parts) n += p.length;
  if (n > scratch.of.length) return Buffer.concat(parts, n);
  n = 0;
  for (const p of parts) {
    scratch.of.set(p, n);
    n += p.length;
  }
  return scratch.get(n);
}

/** In one call: a Hash object costs four times as much as the digest of a few blocks; and as a string, which costs less than a Buffer. */
export function hash(alg: number, ...parts: Uint8Array[]): Buffer {
  const data = parts.length === 1 ? parts[0]! : together(parts);
  return Buffer.from(hashOnce(nameOf(alg), data, 'binary'), 'latin1');
}

/** Writes the digest of `first` and `second` to `out`, which may be one of them. */
export function hashInto(out: Buffer, alg: number, first: Uint8Array, second: Uint8Array): void {
  const n = first.length + second.length;
  let data: Uint8Array;
  if (n > scratch.of.length) data = Buffer.concat([first, second], n);
  else {
    scratch.of.set(first);
    scratch.of.set(second, first.length);
    data = scratch.get(n);
  }
  out.write(hashOnce(nameOf(alg), data, 'binary'), 'latin1');
}

export function hmac(alg: number, key: Uint8Array, ...parts: Uint8Array[]): Buffer {
  const h = createHmac(nameOf(alg), key);
  for (const p of parts) h.update(p);
  return h.digest();
}

export function equal(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && (a.length === 0 || timingSafeEqual(a, b));
}

export const none = Buffer.alloc(0);

export function be32(v: number): Buffer {
  const b = Buffer.allocUnsafe(4);
  b.writeUInt32BE(v >>> 0);
  return b;
}
export function be16(v: number): Buffer {
  const b = Buffer.allocUnsafe(2);
  b.writeUInt16BE(v);
  return b;
}
export function be64(v: bigint): Buffer {
  const b = Buffer.allocUnsafe(8);
  b.writeBigUInt64BE(v);
  return b;
}

function blocks(alg: number, bits: number, block: (counter: number) => Buffer): Buffer {
  const bytes = (bits + 7) >> 3;
  const size = digestSize(alg);
  const out = Buffer.alloc(bytes);
  for (let at = 0, i = 1; at < bytes; at += size, i++) block(i).copy(out, at);
  if (bits & 7) out[0]! &= (1 << (bits & 7)) - 1;
  return out;
}

/** KDFa: SP 800-108 in counter mode with HMAC. `label` is without its terminating zero. */
export function kdfa(
  alg: number,
  key: Uint8Array,
  label: string | Uint8Array,
  contextU: Uint8Array,
  contextV: Uint8Array,
  bits: number,
): Buffer {
  const text = typeof label === 'string' ? Buffer.from(label, 'latin1') : label;
  const zero = text.length === 0 || text[text.length - 1] !== 0 ? Buffer.of(0) : none;
  return blocks(alg, bits, (i) => hmac(alg, key, be32(i), text, zero, contextU, contextV, be32(bits)));
}

/** KDFe: SP 800-56A with a hash, for secrets shared by ECDH. */
export function kdfe(
  alg: number,
  z: Uint8Array,
  label: string,
  partyU: Uint8Array,
  partyV: Uint8Array,
  bits: number,
): Buffer {
  const text = Buffer.from(`${label}\0`, 'latin1');
  return blocks(alg, bits, (i) => hash(alg, be32(i), z, text, partyU, partyV));
}
