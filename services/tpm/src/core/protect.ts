/** Protection of what leaves the TPM: private areas, duplicates, credentials (part 1, 22 to 24). */
import { equal, hash, hmac, kdfa, none } from '../crypto/hash.ts';
import type { Rand } from '../crypto/random.ts';
import { blockSize, cfb } from '../crypto/symmetric.ts';
import { digestSize } from '../spec/algorithms.ts';
import { encode, Reader, Writer } from '../spec/codec.ts';
import { RC } from '../spec/constants.ts';
import { refuse } from '../spec/refusal.ts';
import { digest, iv as iv2b, type SensitiveArea, type SymDef, sensitive2b } from '../spec/types.ts';
import type { LoadedObject } from './state.ts';

/** With what something is wrapped. */
export interface Protector {
  /** nameAlg of the protector. */
  alg: number;
  symmetric: SymDef;
  seed: Buffer;
}
export const protectorOf = (parent: LoadedObject, seed?: Buffer): Protector => ({
  alg: parent.pub.nameAlg,
  symmetric: parent.pub.parameters.symmetric,
  seed: seed ?? parent.sensitive!.seedValue,
});

function keys({ alg, symmetric, seed }: Protector, name: Buffer) {
  return {
    storage: kdfa(alg, seed, 'STORAGE', name, none, symmetric.keyBits),
    integrity: kdfa(alg, seed, 'INTEGRITY', none, none, digestSize(alg) * 8),
  };
}

/** Encrypts and adds the HMAC; with an IV of its own, or (duplicates, credentials) an IV of zeros. */
export function wrapOuter(p: Protector, name: Buffer, data: Buffer, rand: Rand | undefined): Buffer {
  const { storage, integrity } = keys(p, name);
  const iv = rand?.(blockSize(p.symmetric.algorithm));
  const w = new Writer(512);
  if (iv) iv2b.write(w, iv, {});
  w.bytes(cfb(false, p.symmetric, storage, data, iv));
  const body = w.done();
  return Buffer.concat([encode(digest, hmac(p.alg, integrity, body, name)), body]);
}
export function unwrapOuter(p: Protector, name: Buffer, blob: Buffer, hasIv: boolean): Buffer {
  const { storage, integrity } = keys(p, name);
  const r = new Reader(blob);
  const mac = digest.read(r, {});
  const body = r.bytes(r.left);
  if (!equal(mac, hmac(p.alg, integrity, body, name))) refuse(RC.INTEGRITY);
  const b = new Reader(body);
  let iv: Buffer | undefined;
  if (hasIv) {
    iv = iv2b.read(b, {});
    if (iv.length !== blockSize(p.symmetric.algorithm)) refuse(RC.SIZE);
  }
  return cfb(true, p.symmetric, storage, b.bytes(b.left), iv);
}

function readSensitive(bytes: Buffer): SensitiveArea {
  if (bytes.length < 2 || bytes.readUInt16BE(0) !== bytes.length - 2) refuse(RC.SIZE);
  const s = sensitive2b.read(new Reader(bytes), {});
  if (!s) refuse(RC.SIZE);
  return s;
}

export function wrapPrivate(parent: LoadedObject, name: Buffer, s: SensitiveArea, rand: Rand): Buffer {
  return wrapOuter(protectorOf(parent), name, encode(sensitive2b, s), rand);
}
export function unwrapPrivate(parent: LoadedObject, name: Buffer, blob: Buffer): SensitiveArea {
  return readSensitive(unwrapOuter(protectorOf(parent), name, blob, true));
}

/** Inner wrap of a duplicate: a hash for integrity, encrypted with a key that the caller knows (part 1, 23.3). */
export function wrapDuplicate(
  s: SensitiveArea,
  name: Buffer,
  nameAlg: number,
  inner: { symmetric: SymDef; key: Buffer } | undefined,
  outer: Protector | undefined,
): Buffer {
  let data = encode(sensitive2b, s);
  if (inner) {
    const guarded = Buffer.concat([encode(digest, hash(nameAlg, data, name)), data]);
    data = cfb(false, inner.symmetric, inner.key, guarded);
  }
  return outer ? wrapOuter(outer, name, data, undefined) : data;
}
export function unwrapDuplicate(
  blob: Buffer,
  name: Buffer,
  nameAlg: number,
  inner: { symmetric: SymDef; key: Buffer } | undefined,
  outer: Protector | undefined,
): SensitiveArea {
  let data = outer ? unwrapOuter(outer, name, blob, false) : blob;
  if (inner) {
    const r = new Reader(cfb(true, inner.symmetric, inner.key, data));
    const integrity = digest.read(r, {});
    data = r.bytes(r.left);
    if (!equal(integrity, hash(nameAlg, data, name))) refuse(RC.INTEGRITY);
  }
  return readSensitive(data);
}
