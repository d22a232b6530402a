/** CMAC (SP 800-38B) whose state is plain data, for MAC sequences. */
import { ALG } from '../spec/constants.ts';
import { nullSym } from '../spec/types.ts';
import { none } from './hash.ts';
import { blockSize, crypt } from './symmetric.ts';

export interface CmacState {
  algorithm: number;
  keyBits: number;
  key: Buffer;
  chain: Buffer;
  /** What is not encrypted yet: the last block is treated otherwise, so a whole one waits. */
  tail: Buffer;
}

const encrypt = (s: CmacState, mode: number, data: Buffer) =>
  crypt(false, { ...nullSym, algorithm: s.algorithm, keyBits: s.keyBits }, mode, s.key, s.chain, data).data;

export function startCmac(algorithm: number, keyBits: number, key: Buffer): CmacState {
  return { algorithm, keyBits, key, chain: Buffer.alloc(blockSize(algorithm)), tail: none };
}

export function updateCmac(s: CmacState, data: Buffer): void {
  const block = blockSize(s.algorithm);
  const all = Buffer.concat([s.tail, data]);
  const whole = Math.max(0, Math.ceil(all.length / block) - 1) * block;
  if (whole > 0) s.chain = encrypt(s, ALG.CBC, all.subarray(0, whole)).subarray(whole - block);
  s.tail = all.subarray(whole);
}

/** Multiplication by x in GF(2^128). */
function doubled(b: Buffer): Buffer {
  const out = Buffer.alloc(b.length);
  for (let i = 0; i < b.length; i++) out[i] = ((b[i]! << 1) | ((b[i + 1] ?? 0) >> 7)) & 255;
  if (b[0]! & 0x80) out[b.length - 1]! ^= 0x87;
  return out;
}

export function finishCmac(s: CmacState): Buffer {
  const block = blockSize(s.algorithm);
  let subkey = doubled(encrypt(s, ALG.ECB, Buffer.alloc(block)));
  const last = Buffer.alloc(block);
  s.tail.copy(last);
  if (s.tail.length < block) {
    last[s.tail.length] = 0x80;
    subkey = doubled(subkey);
  }
  for (let i = 0; i < block; i++) last[i]! ^= subkey[i]!;
  return encrypt(s, ALG.CBC, last);
}
