/** Signatures, attestation, encryption (part 3, 14, 15, 18, 20, 21). */

import { attestSigned, clockInfoOf, firmwareVersion, signer } from '../core/attest.ts';
import type { Handlers } from '../core/dispatch.ts';
import { findObject, objectOf } from '../core/entity.ts';
import { rsaPrivate, rsaPublic } from '../core/keys.ts';
import { publicPoint } from '../core/secret.ts';
import { Sequence } from '../core/sequence.ts';
import { signDigest, signingScheme, signs, verify } from '../core/signing.ts';
import type { LoadedObject } from '../core/state.ts';
import { makeTicket, nullTicket, ticketHolds } from '../core/ticket.ts';
import type { Tpm } from '../core/tpm.ts';
import { curveOf, mul, mulBase, newPrivate, onCurve, type Point } from '../crypto/ecc.ts';
import { be16, hash, none } from '../crypto/hash.ts';
import { toBytes, toInt } from '../crypto/numbers.ts';
import * as rsa from '../crypto/rsa.ts';
import { blockSize, crypt } from '../crypto/symmetric.ts';
import { digestSize } from '../spec/algorithms.ts';
import { ALG, OA, RC, RH, ST } from '../spec/constants.ts';
import { asHandle, asParam, badHandle, badParam, refuse } from '../spec/refusal.ts';
import { type EccPoint, nullScheme, type Scheme } from '../spec/types.ts';

type Curve = ReturnType<typeof curveOf>;
export const pointOut = (c: Curve, p: Point | undefined): EccPoint =>
  p ? { x: toBytes(p.x, c.bytes), y: toBytes(p.y, c.bytes) } : { x: none, y: none };
export const pointIn = ({ x, y }: EccPoint): Point => ({ x: toInt(x), y: toInt(y) });

/** The padding of an RSA decryption key: its own, else that of the command; undefined when they contradict. */
function rsaScheme(key: LoadedObject, wanted: Scheme): Scheme | undefined {
  const own = key.pub.parameters.scheme;
  if (own.scheme === ALG.NULL) return wanted;
  if (wanted.scheme === ALG.NULL) return own;
  return own.scheme === wanted.scheme && own.hashAlg === wanted.hashAlg ? own : undefined;
}
/** A label ends with a zero, or there is none. */
const badLabel = (label: Buffer) => label.length > 0 && label[label.length - 1] !== 0;

function eccKey(tpm: Tpm, handle: number): { key: LoadedObject; c: Curve } {
  const key = findObject(tpm, handle);
  if (!key || key instanceof Sequence || key.pub.type !== ALG.ECC) badHandle(RC.KEY, 1);
  return { key, c: curveOf(key.pub.parameters.curveID) };
}

function symmetricCrypt(
  tpm: Tpm,
  handle: number,
  decrypt: number,
  mode: number,
  ivIn: Buffer,
  data: Buffer,
  n: { decrypt: number; mode: number; iv: number; data: number },
): { outData: Buffer; ivOut: Buffer } {
  const key = asHandle(1, () => objectOf(tpm, handle));
  if (key.pub.type !== ALG.SYMCIPHER) badHandle(RC.KEY, 1);
  const a = key.pub.objectAttributes;
  if (a & OA.restricted) badHandle(RC.ATTRIBUTES, 1);
  if (!(a & (decrypt ? OA.decrypt : OA.sign))) badHandle(RC.ATTRIBUTES, 1);
  const sym = key.pub.parameters.symmetric;
  let m = sym.mode;
  if (m === ALG.CMAC) badParam(RC.MODE, n.mode);
  if (m === ALG.NULL) {
    m = mode;
    if (m === ALG.NULL) badParam(RC.MODE, n.mode);
  } else if (mode !== ALG.NULL && mode !== m) badParam(RC.MODE, n.mode);
  const block = blockSize(sym.algorithm);
  if (m === ALG.ECB ? ivIn.length !== 0 : ivIn.length !== block) badParam(RC.SIZE, n.iv);
  if ((m === ALG.CBC || m === ALG.ECB) && data.length % block !== 0) badParam(RC.SIZE, n.data);
  const out = crypt(decrypt === 1, sym, m, key.sensitive!.sensitive, ivIn, data);
  return { outData: out.data, ivOut: out.iv };
}

export const keyCommands: Handlers = {
  Sign(tpm, { keyHandle, digest, inScheme, validation }) {
    const key = asHandle(1, () => objectOf(tpm, keyHandle));
    const a = key.pub.objectAttributes;
    if (!signs(key)) badHandle(RC.KEY, 1);
    if (a & OA.x509sign) badHandle(RC.ATTRIBUTES, 1);
    const scheme = signingScheme(key, inScheme);
    if (!scheme) badParam(RC.SCHEME, 2);
    if (validation.digest.length === 0) {
      // Only a digest that the TPM made itself may be signed by a restricted key.
      if (a & OA.restricted) badParam(RC.TICKET, 3);
      if (digest.length !== digestSize(scheme.hashAlg)) badParam(RC.SIZE, 1);
    } else if (!ticketHolds(tpm, validation, be16(scheme.hashAlg), digest)) badParam(RC.TICKET, 3);
    return { signature: signDigest(tpm, key, scheme, digest) };
  },
  VerifySignature(tpm, { keyHandle, digest, signature }) {
    const key = asHandle(1, () => objectOf(tpm, keyHandle));
    if (!(key.pub.objectAttributes & OA.sign)) badHandle(RC.ATTRIBUTES, 1);
    asParam(2, () => verify(key, digest, signature));
    const { hierarchy } = key;
    return {
      validation:
        hierarchy === RH.NULL || key.pub.nameAlg === ALG.NULL
          ? nullTicket(ST.VERIFIED)
          : makeTicket(tpm, ST.VERIFIED, hierarchy, digest, key.name),
    };
  },

  Certify(tpm, { objectHandle, signHandle, qualifyingData, inScheme }) {
    const o = asHandle(1, () => objectOf(tpm, objectHandle));
    const s = signer(tpm, signHandle, 2, inScheme, 2);
    return attestSigned(tpm, s, ST.ATTEST_CERTIFY, qualifyingData, {
      name: o.name,
      qualifiedName: o.qualifiedName,
    });
  },
  CertifyCreation(tpm, { signHandle, objectHandle, qualifyingData, creationHash, inScheme, creationTicket }) {
    const o = asHandle(2, () => objectOf(tpm, objectHandle));
    const s = signer(tpm, signHandle, 1, inScheme, 3);
    if (!ticketHolds(tpm, creationTicket, o.name, creationHash)) badParam(RC.TICKET, 4);
    return attestSigned(tpm, s, ST.ATTEST_CREATION, qualifyingData, { objectName: o.name, creationHash });
  },
  Quote(tpm, { signHandle, qualifyingData, inScheme, PCRselect }) {
    const s = signer(tpm, signHandle, 1, inScheme, 2);
    // Without a key there is no hash to make the digest with.
    const alg = s.key ? s.scheme.hashAlg : ALG.NULL;
    if (digestSize(alg) === 0) badParam(RC.SCHEME, 2);
    const pcrSelect = tpm.pcrs.filter(PCRselect);
    return attestSigned(tpm, s, ST.ATTEST_QUOTE, qualifyingData, {
      pcrSelect,
      pcrDigest: tpm.pcrs.digest(alg, pcrSelect),
    });
  },
  GetTime(tpm, { signHandle, qualifyingData, inScheme }) {
    const s = signer(tpm, signHandle, 2, inScheme, 2);
    return attestSigned(tpm, s, ST.ATTEST_TIME, qualifyingData, {
      time: { time: tpm.clock.time64(), clockInfo: clockInfoOf(tpm) },
      firmwareVersion: (BigInt(firmwareVersion[0]) << 32n) | BigInt(firmwareVersion[1]),
    });
  },
  GetSessionAuditDigest(tpm, { signHandle, sessionHandle, qualifyingData, inScheme }) {
    const session = tpm.sessions.get(sessionHandle & 0xffffff)!;
    const s = signer(tpm, signHandle, 2, inScheme, 2);
    if (!session.isAudit) badHandle(RC.TYPE, 3);
    return attestSigned(tpm, s, ST.ATTEST_SESSION_AUDIT, qualifyingData, {
      exclusiveSession: tpm.exclusiveAudit === sessionHandle ? 1 : 0,
      sessionDigest: session.auditDigest,
    });
  },
  GetCommandAuditDigest(tpm, { signHandle, qualifyingData, inScheme }) {
    const s = signer(tpm, signHandle, 2, inScheme, 2);
    const { auditAlg, auditList, auditCounter } = tpm.persistent;
    const codes = Buffer.alloc(auditList.length * 4);
    [...auditList].sort((a, b) => a - b).forEach((c, i) => codes.writeUInt32BE(c, 4 * i));
    const out = attestSigned(tpm, s, ST.ATTEST_COMMAND_AUDIT, qualifyingData, {
      auditCounter,
      digestAlg: auditAlg,
      auditDigest: tpm.reset.commandAuditDigest,
      commandDigest: digestSize(auditAlg) ? hash(auditAlg, codes) : none,
    });
    // A signed digest is reported: the next one starts anew.
    if (s.key) tpm.reset.commandAuditDigest = none;
    return out;
  },

  RSA_Encrypt(tpm, { keyHandle, message, inScheme, label }) {
    const key = asHandle(1, () => objectOf(tpm, keyHandle));
    if (key.pub.type !== ALG.RSA) badHandle(RC.KEY, 1);
    if (!(key.pub.objectAttributes & OA.decrypt)) badHandle(RC.ATTRIBUTES, 1);
    if (badLabel(label)) badParam(RC.VALUE, 3);
    const scheme = rsaScheme(key, inScheme);
    if (!scheme) badParam(RC.SCHEME, 2);
    const n = key.pub.unique.x;
    const padded = asParam(1, () => {
      if (scheme.scheme === ALG.OAEP) {
        return rsa.oaepPad(n.length, scheme.hashAlg, label, message, tpm.random.bytes);
      }
      if (scheme.scheme === ALG.RSAES) return rsa.pkcs1Pad(n.length, message, tpm.random.bytes);
      if (message.length > n.length || toInt(message) >= toInt(n)) refuse(RC.VALUE);
      return Buffer.concat([Buffer.alloc(n.length - message.length), message]);
    });
    return { outData: rsa.rawPublic(rsaPublic(key), padded) };
  },
  RSA_Decrypt(tpm, { keyHandle, cipherText, inScheme, label }) {
    const key = asHandle(1, () => objectOf(tpm, keyHandle));
    if (key.pub.type !== ALG.RSA) badHandle(RC.KEY, 1);
    const a = key.pub.objectAttributes;
    if (a & OA.restricted || !(a & OA.decrypt)) badHandle(RC.ATTRIBUTES, 1);
    if (badLabel(label)) badParam(RC.VALUE, 3);
    const scheme = rsaScheme(key, inScheme);
    if (!scheme) badParam(RC.SCHEME, 2);
    const n = key.pub.unique.x;
    if (cipherText.length !== n.length) badParam(RC.SIZE, 1);
    if (toInt(cipherText) >= toInt(n)) badParam(RC.VALUE, 1);
    const plain = rsa.rawPrivate(rsaPrivate(key), cipherText);
    let message: Buffer | undefined = plain;
    if (scheme.scheme === ALG.OAEP) message = rsa.oaepUnpad(scheme.hashAlg, label, plain);
    else if (scheme.scheme === ALG.RSAES) message = rsa.pkcs1Unpad(plain);
    if (!message) badParam(RC.VALUE, 1);
    return { message };
  },

  ECDH_KeyGen(tpm, { keyHandle }) {
    const { key, c } = eccKey(tpm, keyHandle);
    const d = newPrivate(c, tpm.random.bytes);
    const q = publicPoint(key);
    if (!onCurve(c, q)) badHandle(RC.KEY, 1);
    return { zPoint: pointOut(c, mul(c, d, q)), pubPoint: pointOut(c, mulBase(c, d)) };
  },
  ECDH_ZGen(tpm, { keyHandle, inPoint }) {
    const { key, c } = eccKey(tpm, keyHandle);
    const a = key.pub.objectAttributes;
    if (a & OA.restricted || !(a & OA.decrypt)) badHandle(RC.ATTRIBUTES, 1);
    const { scheme } = key.pub.parameters.scheme;
    if (scheme !== ALG.ECDH && scheme !== ALG.NULL) badHandle(RC.SCHEME, 1);
    const p = pointIn(inPoint);
    if (!onCurve(c, p)) badParam(RC.ECC_POINT, 1);
    const z = mul(c, toInt(key.sensitive!.sensitive), p);
    if (!z) badParam(RC.NO_RESULT, 1);
    return { outPoint: pointOut(c, z) };
  },
  ECC_Parameters(_tpm, { curveID }) {
    const c = curveOf(curveID);
    const b = (v: bigint) => toBytes(v, c.bytes);
    return {
      parameters: {
        curveID,
        keySize: c.bits,
        kdf: nullScheme,
        sign: nullScheme,
        p: b(c.p),
        a: b(c.a),
        b: b(c.b),
        gX: b(c.g.x),
        gY: b(c.g.y),
        n: b(c.n),
        h: Buffer.of(1),
      },
    };
  },

  EncryptDecrypt: (tpm, { keyHandle, decrypt, mode, ivIn, inData }) =>
    symmetricCrypt(tpm, keyHandle, decrypt, mode, ivIn, inData, { decrypt: 1, mode: 2, iv: 3, data: 4 }),
  EncryptDecrypt2: (tpm, { keyHandle, inData, decrypt, mode, ivIn }) =>
    symmetricCrypt(tpm, keyHandle, decrypt, mode, ivIn, inData, { decrypt: 2, mode: 3, iv: 4, data: 1 }),
};
