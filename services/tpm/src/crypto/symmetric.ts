/** Block ciphers and the encryption of session parameters. */
import { createCipheriv, createDecipheriv } from 'node:crypto';
import { cipherModes, ciphers } from '../spec/algorithms.ts';
import { ALG, RC } from '../spec/constants.ts';
import { refuse } from '../spec/refusal.ts';
import type { SymDef } from '../spec/types.ts';
import { kdfa, none } from './hash.ts';

export const blockSize = (alg: number): number => ciphers[alg]?.block ?? 0;

/**
 * Encrypts or decrypts whole octets in the mode given, and returns the IV for what follows (part 3, 15.2). Without
 * padding: CBC and ECB want whole blocks (RC.SIZE).
 */
export function crypt(
  decrypt: boolean,
  { algorithm, keyBits }: SymDef,
  mode: number,
  key: Uint8Array,
  iv: Uint8Array,
  data: Buffer,
): { data: Buffer; iv: Buffer } {
  const { name, block } = ciphers[algorithm]!;
  const modeName = cipherModes[mode]!;
  const whole = mode === ALG.CBC || mode === ALG.ECB;
  if (whole && data.length % block !== 0) refuse(RC.SIZE);
  const make = decrypt ? createDecipheriv : createCipheriv;
  const c = make(`${name}-${keyBits}-${modeName}`, key, mode === ALG.ECB ? null : iv);
  if (whole) c.setAutoPadding(false);
  const out = Buffer.concat([c.update(data), c.final()]);
  return { data: out, iv: nextIv(mode, block, Buffer.from(iv), decrypt ? data : out, decrypt ? out : data) };
}

function nextIv(mode: number, block: number, iv: Buffer, cipherText: Buffer, plain: Buffer): Buffer {
  const n = cipherText.length;
  if (mode === ALG.ECB) return none;
  if (n === 0) return iv;
  const used = Math.ceil(n / block);
  if (mode === ALG.CTR) {
    const next = Buffer.from(iv);
    for (let i = 0; i < used; i++) for (let j = block - 1; j >= 0; j--) if (++next[j]! & 255) break;
    return next;
  }
  const start = (used - 1) * block;
  if (mode === ALG.OFB) {
    // The key stream of the last block; it is known only as far as there was data.
    const out = Buffer.alloc(block);
    for (let i = 0; start + i < n; i++) out[i] = cipherText[start + i]! ^ plain[start + i]!;
    return out;
  }
  const out = Buffer.alloc(block);
  cipherText.copy(out, 0, start, n);
  return out;
}

/** CFB with a zero IV unless one is given: how the TPM wraps what it lets out. */
export function cfb(decrypt: boolean, sym: SymDef, key: Uint8Array, data: Buffer, iv?: Uint8Array): Buffer {
  return crypt(decrypt, sym, ALG.CFB, key, iv ?? Buffer.alloc(blockSize(sym.algorithm)), data).data;
}

/** Encryption of the first parameter of a command or a response (part 1, 21). XOR is its own inverse. */
export function cryptParameter(
  decrypt: boolean,
  sym: SymDef,
  sessionHash: number,
  sessionValue: Uint8Array,
  nonceNewer: Buffer,
  nonceOlder: Buffer,
  data: Buffer,
): Buffer {
  if (sym.algorithm === ALG.XOR) {
    const mask = kdfa(sym.keyBits, sessionValue, 'XOR', nonceNewer, nonceOlder, data.length * 8);
    for (let i = 0; i < data.length; i++) mask[i]! ^= data[i]!;
    return mask;
  }
  const keyBytes = sym.keyBits / 8;
  const both = kdfa(
    sessionHash,
    sessionValue,
    'CFB',
    nonceNewer,
    nonceOlder,
    sym.keyBits + 8 * blockSize(sym.algorithm),
  );
  return cfb(decrypt, sym, both.subarray(0, keyBytes), data, both.subarray(keyBytes));
}
