/** TPM2_CertifyX509 (part 3, 18.8): the caller brings most of a certificate, the TPM adds what it knows and signs. */
import type { Handlers } from '../core/dispatch.ts';
import { objectOf } from '../core/entity.ts';
import { signDigest, signingScheme, signs } from '../core/signing.ts';
import { publicKeyInfo, signatureAlgorithm } from '../core/x509.ts';
import * as der from '../crypto/der.ts';
import { hash } from '../crypto/hash.ts';
import { ALG, OA, RC } from '../spec/constants.ts';
import { asHandle, badHandle, badParam } from '../spec/refusal.ts';

const SEQUENCE = 0x30;
const EXTENSIONS = 0xa3;
const keyUsageOid = der.oid('2.5.29.15');
/** tcg-tpmaObject. */
const attributesOid = der.oid('2.23.133.10.1.1.1');
/** Octets of a serial number at most (RFC 5280, 4.1.2.2). */
const serialBytes = 20;

/** KeyUsage (RFC 5280, 4.2.1.3), its bit 0 as the most significant one. */
const usage = {
  sign: 0x80000000 | 0x04000000 | 0x02000000,
  decrypt: 0x20000000 | 0x10000000 | 0x01000000 | 0x00800000,
  nonRepudiation: 0x40000000,
  keyAgreement: 0x08000000,
};

/** The bits in the value of the extension `id`, left-justified; undefined: it is not there; null: it is malformed. */
function extensionBits(list: readonly der.Element[], id: Buffer): number | undefined | null {
  for (const e of list) {
    const fields = e.tag === SEQUENCE ? der.elements(e.content) : undefined;
    if (!fields) return null;
    if (!fields[0]?.whole.equals(id)) continue;
    const value = fields.find((f) => f.tag === 4);
    const bits = value && der.elements(value.content)?.[0];
    if (bits?.tag !== 3 || bits.content.length < 1 || bits.content.length > 5 || bits.content[0]! > 7)
      return null;
    const out = Buffer.alloc(4);
    bits.content.copy(out, 0, 1);
    return out.readUInt32BE(0);
  }
  return undefined;
}

/** Extensions against the attributes of the certified key. */
function checkExtensions(extensions: der.Element, a: number): void {
  const outer = der.elements(extensions.content);
  const list =
    outer?.length === 1 && outer[0]!.tag === SEQUENCE ? der.elements(outer[0]!.content) : undefined;
  if (!list) badParam(RC.VALUE, 3);
  const attributes = extensionBits(list, attributesOid);
  if (attributes === null) badParam(RC.VALUE, 3);
  if (attributes !== undefined && attributes !== a) badHandle(RC.ATTRIBUTES, 1);
  const bits = extensionBits(list, keyUsageOid);
  if (bits === undefined || bits === null) badParam(RC.VALUE, 3);
  const bad =
    (bits & usage.sign && !(a & OA.sign)) ||
    (bits & usage.decrypt && !(a & OA.decrypt)) ||
    (bits & usage.nonRepudiation && !(a & OA.fixedTPM)) ||
    (bits & usage.keyAgreement && !(a & OA.restricted));
  if (bad) badParam(RC.VALUE, 3);
}

/** What the caller brings: [signature algorithm], issuer, validity, subject, and extensions. */
function parsePartial(partial: Buffer): { sequences: Buffer[]; extensions: der.Element } {
  const whole = der.elements(partial);
  if (whole?.length !== 1 || whole[0]!.tag !== SEQUENCE) badParam(RC.SIZE, 3);
  const parts = der.elements(whole[0]!.content);
  if (!parts) badParam(RC.VALUE, 3);
  const sequences = parts.filter((p) => p.tag === SEQUENCE).map((p) => p.whole);
  const [extensions, ...more] = parts.filter((p) => p.tag === EXTENSIONS);
  if (!extensions || more.length > 0 || sequences.length + 1 !== parts.length) badParam(RC.VALUE, 3);
  if (sequences.length < 3 || sequences.length > 4) badParam(RC.VALUE, 3);
  return { sequences, extensions };
}

export const x509Commands: Handlers = {
  CertifyX509(tpm, { objectHandle, signHandle, reserved, inScheme, partialCertificate }) {
    const object = asHandle(1, () => objectOf(tpm, objectHandle));
    const key = asHandle(2, () => objectOf(tpm, signHandle));
    if (reserved.length !== 0) badParam(RC.SIZE, 1);
    if (!signs(key)) badHandle(RC.KEY, 2);
    const scheme = signingScheme(key, inScheme);
    if (!scheme) badParam(RC.SCHEME, 2);
    const publicKey = publicKeyInfo(object.pub);
    if (!publicKey) badHandle(RC.ASYMMETRIC, 1);
    const { sequences, extensions } = parsePartial(partialCertificate);
    const keyBytes = key.pub.type === ALG.RSA ? key.pub.unique.x.length : 0;
    const own = sequences.length === 3 ? signatureAlgorithm(scheme, keyBytes) : undefined;
    if (sequences.length === 3 && !own) badHandle(RC.SCHEME, 2);
    checkExtensions(extensions, object.pub.objectAttributes);

    const algorithm = own ?? sequences[0]!;
    const names = sequences.slice(-3);
    const rest = [algorithm, ...names, publicKey, extensions.whole];
    const unique = hash(key.pub.nameAlg, ...rest, key.name, object.name);
    const serial = der.integer(unique.subarray(0, serialBytes));
    const version = der.context(0, der.integer(2));
    const added = own ? [version, serial, own, publicKey] : [version, serial, publicKey];
    const tbsDigest = hash(scheme.hashAlg, der.sequence(version, serial, ...rest));
    return {
      addedToCertificate: der.sequence(...added),
      tbsDigest,
      signature: signDigest(tpm, key, scheme, tbsDigest),
    };
  },
};
