/** Ephemeral keys by counter (part 1, C.2.2): of Commit for ECDAA, of EC_Ephemeral for a two-phase exchange. */
import { type Curve, type EccSignature, newPrivate } from '../crypto/ecc.ts';
import { be64, hash, kdfa } from '../crypto/hash.ts';
import { mod, toBytes, toInt } from '../crypto/numbers.ts';
import { ALG, RC } from '../spec/constants.ts';
import { refuse } from '../spec/refusal.ts';
import type { Scheme } from '../spec/types.ts';
import type { LoadedObject } from './state.ts';
import type { Tpm } from './tpm.ts';

/** Counters that may be outstanding: the bits of `commitUsed`. */
const window = 64n;

/** The ephemeral private key of a counter, for what `name` names. */
function ephemeral(tpm: Tpm, c: Curve, name: Buffer, counter: bigint): bigint {
  const bits = kdfa(
    ALG.SHA512,
    tpm.reset.commitNonce,
    'ECDAA Commit',
    name,
    be64(counter),
    (c.bytes + 8) * 8,
  );
  return mod(toInt(bits), c.n - 1n) + 1n;
}
const bitOf = (counter: bigint) => Number(counter % window);

/** A new counter and its key. */
export function commit(tpm: Tpm, c: Curve, name: Buffer): { r: bigint; counter: number } {
  const counter = tpm.reset.commitCounter;
  const bit = bitOf(counter);
  tpm.reset.commitUsed[bit >> 3]! |= 1 << (bit & 7);
  tpm.reset.commitCounter++;
  return { r: ephemeral(tpm, c, name, counter), counter: Number(counter & 0xffffn) };
}

/** The key of a counter that was given out; it can be used once. */
export function useCommit(tpm: Tpm, c: Curve, name: Buffer, low: number): bigint | undefined {
  const now = tpm.reset.commitCounter;
  let counter = (now & ~0xffffn) | BigInt(low);
  if (counter >= now) counter -= 0x10000n;
  if (counter < 0n || now - counter > window) return undefined;
  const bit = bitOf(counter);
  const mask = 1 << (bit & 7);
  if (!(tpm.reset.commitUsed[bit >> 3]! & mask)) return undefined;
  tpm.reset.commitUsed[bit >> 3]! &= ~mask;
  return ephemeral(tpm, c, name, counter);
}

/** ECDAA (part 1, C.4.2): `r` of the signature is a nonce, `s` the answer to the challenge. */
export function ecdaaSign(
  tpm: Tpm,
  key: LoadedObject,
  c: Curve,
  d: bigint,
  { hashAlg, count }: Scheme,
  digest: Buffer,
): EccSignature {
  const r = useCommit(tpm, c, key.name, count);
  if (r === undefined) refuse(RC.VALUE);
  for (;;) {
    const k = newPrivate(c, tpm.random.bytes);
    const t = mod(toInt(hash(hashAlg, toBytes(k, c.bytes), digest)), c.n);
    const s = mod(r + t * d, c.n);
    if (s !== 0n) return { r: k, s };
  }
}
