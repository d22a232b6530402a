/** What the TPM attests (part 1, 31): structures that say what it is and are signed by a key of it. */
import { be32, hash, kdfa, none } from '../crypto/hash.ts';
import { encode } from '../spec/codec.ts';
import { ALG, GENERATED_VALUE, RC, RH } from '../spec/constants.ts';
import { asHandle, badHandle, badParam } from '../spec/refusal.ts';
import { attest, type ClockInfo, type Scheme, type Signature } from '../spec/types.ts';
import { objectOf } from './entity.ts';
import { signDigest, signingScheme, signs } from './signing.ts';
import type { LoadedObject } from './state.ts';
import type { Tpm } from './tpm.ts';

/** Reported by TPM_PT_FIRMWARE_VERSION_1 and 2, and in attestations. */
export const firmwareVersion = [0x00010000, 0x00000000] as const;

export function clockInfoOf(tpm: Tpm): ClockInfo {
  return {
    clock: tpm.clock.now64(),
    resetCount: tpm.persistent.resetCount,
    restartCount: tpm.reset.restartCount,
    safe: tpm.clock.safe,
  };
}

/** The key of handle `n` (from 1) for a signature with the scheme of parameter `schemeParam`. */
export interface Signer {
  key: LoadedObject | undefined;
  scheme: Scheme;
}
export function signer(tpm: Tpm, handle: number, n: number, inScheme: Scheme, schemeParam: number): Signer {
  if (handle === RH.NULL) return { key: undefined, scheme: inScheme };
  const key = asHandle(n, () => objectOf(tpm, handle));
  if (!signs(key)) badHandle(RC.KEY, n);
  const scheme = signingScheme(key, inScheme);
  if (!scheme) badParam(RC.SCHEME, schemeParam);
  return { key, scheme };
}

/** Builds the structure and signs it; without a key the signature is TPM_ALG_NULL. */
export function attestSigned(
  tpm: Tpm,
  { key, scheme }: Signer,
  type: number,
  qualifyingData: Buffer,
  attested: unknown,
): { attest: Buffer; signature: Signature } {
  const clockInfo = clockInfoOf(tpm);
  let version = (BigInt(firmwareVersion[0]) << 32n) | BigInt(firmwareVersion[1]);
  const hierarchy = key?.hierarchy ?? RH.NULL;
  if (hierarchy !== RH.PLATFORM && hierarchy !== RH.ENDORSEMENT) {
    // Counts and version identify the TPM; keys outside these hierarchies see them with a secret added (part 1, 36.7).
    const name = key?.qualifiedName ?? none;
    const mask = kdfa(ALG.SHA512, tpm.proof(RH.OWNER), 'OBFUSCATE', name, none, 128);
    version = BigInt.asUintN(64, version + mask.readBigUInt64BE(0));
    clockInfo.resetCount = (clockInfo.resetCount + mask.readUInt32BE(8)) >>> 0;
    clockInfo.restartCount = (clockInfo.restartCount + mask.readUInt32BE(12)) >>> 0;
  }
  let extraData = qualifyingData;
  if (scheme.scheme === ALG.ECDAA && key) extraData = hash(scheme.hashAlg, qualifyingData);
  const blob = encode(attest, {
    magic: GENERATED_VALUE,
    type,
    qualifiedSigner: key ? key.qualifiedName : be32(RH.NULL),
    extraData,
    clockInfo,
    firmwareVersion: version,
    attested,
  });
  if (!key) return { attest: blob, signature: { sigAlg: ALG.NULL, signature: undefined } };
  return { attest: blob, signature: signDigest(tpm, key, scheme, hash(scheme.hashAlg, blob)) };
}
