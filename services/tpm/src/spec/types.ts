/** Structures (part 2, 9 to 15): tables of fields. What a type refuses, and with which code, is in its entry. */
import {
  cipherModes,
  ciphers,
  curveIds,
  decryptSchemes,
  digestSize,
  hashes,
  rsaBits,
  schemeFields,
  signSchemes,
} from './algorithms.ts';
import type { Codec, TypeOf } from './codec.ts';
import {
  checked,
  empty,
  list,
  octets,
  oneOf,
  sized,
  sizedOf,
  sizedOptional,
  struct,
  u8,
  u16,
  u32,
  u64,
  union,
} from './codec.ts';
import { ALG, CAP, GENERATED_VALUE, HT, LIMIT, NVA_RESERVED, OA_ALL, RC, RH, ST } from './constants.ts';
import { refuse } from './refusal.ts';

const hashAlgs = hashes.map((h) => h.alg);

// Interface types
export const yesNo = oneOf(u8, [0, 1], RC.VALUE);
export const hashAlg = oneOf(u16, hashAlgs, RC.HASH);
export const hashAlgOrNull = oneOf(u16, [...hashAlgs, ALG.NULL], RC.HASH);
export const curve = oneOf(u16, curveIds, RC.CURVE);
const modes = [...Object.keys(cipherModes).map(Number), ALG.NULL];
export const cipherMode = oneOf(u16, modes, RC.MODE);
/** Of a symmetric key: also one that is for MACs. */
const symMode = oneOf(u16, [...modes, ALG.CMAC], RC.MODE);
export const macScheme = oneOf(u16, [...hashAlgs, ALG.CMAC, ALG.NULL], RC.SYMMETRIC);
export const hierarchy = oneOf(u32, [RH.OWNER, RH.ENDORSEMENT, RH.PLATFORM, RH.NULL], RC.VALUE);
export const keyExchange = oneOf(u16, decryptSchemes.ecc, RC.SCHEME);
export const objectAttributes = checked(u32, (v) => (v & ~OA_ALL) === 0, RC.RESERVED_BITS);
export const nvAttributes = checked(u32, (v) => (v & NVA_RESERVED) === 0, RC.RESERVED_BITS);
export const handleType = (h: number) => h >>> 24;
const number = (h: number) => h & 0xffffff;
/** TPMI_SH_AUTH_SESSION, without the password. */
export const isSession = (h: number): boolean =>
  (handleType(h) === HT.HMAC_SESSION || handleType(h) === HT.POLICY_SESSION) &&
  number(h) < LIMIT.activeSessions;
/** TPMI_DH_SAVED: the number of a saved object says of which kind it is. */
const savedHandle = checked(
  u32,
  (h) => isSession(h) || (handleType(h) === HT.TRANSIENT && number(h) <= 2),
  RC.VALUE,
);

// TPM2B
export const digest = sized(LIMIT.digest);
export const data2b = sized(LIMIT.digest + 2);
export const nonce = digest;
export const auth = digest;
export const operand = digest;
export const timeout = sized(8);
export const event = sized(1024);
export const maxBuffer = sized(LIMIT.buffer);
export const nvBuffer = sized(LIMIT.nvBuffer);
export const name2b = sized(LIMIT.digest + 2);
export const iv = sized(16);
export const sensitiveData = sized(LIMIT.sensitiveData);
export const eccParameter = sized(LIMIT.eccBytes);
export const rsaKey = sized(LIMIT.rsaBytes);
export const encryptedSecret = sized(LIMIT.rsaBytes);
export const idObject = sized(2 * (LIMIT.digest + 2));
export const privateBlob = sized(1024);
export const attest2b = sized(1024);
export const template2b = sized(1024);
export const contextData = sized(3072);

// PCR selections
export const pcrSelection = struct({
  hash: hashAlg,
  pcrSelect: {
    read(r) {
      const n = r.u8();
      if (n !== LIMIT.pcrSelectBytes) refuse(RC.VALUE);
      return r.bytes(n);
    },
    write(w, v) {
      w.u8(v.length);
      w.bytes(v);
    },
  } as Codec<Buffer>,
});
export const pcrSelections = list(pcrSelection, hashes.length);
export type PcrSelection = TypeOf<typeof pcrSelection>;

/** TPMT_HA: a digest of the size of its algorithm. */
export const ha = struct({ hashAlg, digest: octets((s) => digestSize(s.hashAlg as number)) });
export const digestValues = list(ha, hashes.length);

// Schemes
export interface Scheme {
  scheme: number;
  hashAlg: number;
  count: number;
  kdf: number;
}
export const nullScheme: Scheme = { scheme: ALG.NULL, hashAlg: ALG.NULL, count: 0, kdf: ALG.NULL };
const kdfs = [ALG.MGF1, ALG.KDF1_SP800_56A, ALG.KDF2, ALG.KDF1_SP800_108];
const kdfAlg = oneOf(u16, kdfs, RC.KDF);
function scheme(allowed: readonly number[], rc: number): Codec<Scheme> {
  const fields = { hashAlg, count: u16, kdf: kdfAlg };
  return {
    read(r, within) {
      const out: Scheme = { ...nullScheme, scheme: r.u16() };
      if (!allowed.includes(out.scheme)) refuse(rc);
      for (const f of schemeFields[out.scheme]!) out[f] = fields[f].read(r, within);
      return out;
    },
    write(w, v) {
      w.u16(v.scheme);
      for (const f of schemeFields[v.scheme]!) w.u16(v[f]);
    },
  };
}
export const sigScheme = scheme([...signSchemes.rsa, ...signSchemes.ecc, ALG.HMAC, ALG.NULL], RC.SCHEME);
export const rsaScheme = scheme([...signSchemes.rsa, ...decryptSchemes.rsa, ALG.NULL], RC.VALUE);
export const rsaDecryptScheme = scheme([...decryptSchemes.rsa, ALG.NULL], RC.VALUE);
export const eccScheme = scheme([...signSchemes.ecc, ...decryptSchemes.ecc, ALG.NULL], RC.SCHEME);
export const asymScheme = scheme(
  [...signSchemes.rsa, ...decryptSchemes.rsa, ...signSchemes.ecc, ...decryptSchemes.ecc, ALG.NULL],
  RC.VALUE,
);
export const keyedHashScheme = scheme([ALG.HMAC, ALG.XOR, ALG.NULL], RC.VALUE);
export const kdfScheme = scheme([...kdfs, ALG.NULL], RC.KDF);

/** TPMT_SYM_DEF: `keyBits` is the hash for XOR. */
export interface SymDef {
  algorithm: number;
  keyBits: number;
  mode: number;
}
export const nullSym: SymDef = { algorithm: ALG.NULL, keyBits: 0, mode: ALG.NULL };
function sym(xor: boolean, none: boolean): Codec<SymDef> {
  return {
    read(r, within) {
      const algorithm = r.u16();
      if (algorithm === ALG.NULL && none) return nullSym;
      if (algorithm === ALG.XOR && xor)
        return { algorithm, keyBits: hashAlg.read(r, within), mode: ALG.NULL };
      const cipher = ciphers[algorithm] ?? refuse(RC.SYMMETRIC);
      const keyBits = r.u16();
      if (!cipher.bits.includes(keyBits)) refuse(RC.VALUE);
      return { algorithm, keyBits, mode: symMode.read(r, within) };
    },
    write(w, v) {
      w.u16(v.algorithm);
      if (v.algorithm === ALG.NULL) return;
      w.u16(v.keyBits);
      if (v.algorithm !== ALG.XOR) w.u16(v.mode);
    },
  };
}
export const symDef = sym(true, true);
export const symDefObject = sym(false, true);

// Keys
export const eccPoint = struct({ x: eccParameter, y: eccParameter });
export type EccPoint = TypeOf<typeof eccPoint>;
export const eccPoint2b = sizedOf(eccPoint);

/** TPMU_PUBLIC_PARMS; which members are there is a question of the type. */
export interface PublicParms {
  symmetric: SymDef;
  scheme: Scheme;
  keyBits: number;
  exponent: number;
  curveID: number;
  kdf: Scheme;
}
const parmArms = {
  [ALG.KEYEDHASH]: struct({ scheme: keyedHashScheme }),
  [ALG.SYMCIPHER]: struct({ symmetric: sym(false, false) }),
  [ALG.RSA]: struct({
    symmetric: symDefObject,
    scheme: rsaScheme,
    keyBits: oneOf(u16, rsaBits, RC.VALUE),
    exponent: u32,
  }),
  [ALG.ECC]: struct({ symmetric: symDefObject, scheme: eccScheme, curveID: curve, kdf: kdfScheme }),
};
const publicParms = union('type', parmArms) as Codec<PublicParms>;
/** TPMU_PUBLIC_ID: only an ECC key has a `y`. */
export interface PublicId {
  x: Buffer;
  y: Buffer;
}
const uniqueOf = (max: number) => struct({ x: sized(max) });
const publicId = union('type', {
  [ALG.KEYEDHASH]: uniqueOf(LIMIT.digest),
  [ALG.SYMCIPHER]: uniqueOf(LIMIT.digest),
  [ALG.RSA]: uniqueOf(LIMIT.rsaBytes),
  [ALG.ECC]: eccPoint,
}) as Codec<PublicId>;
export const publicType = oneOf(u16, [ALG.KEYEDHASH, ALG.SYMCIPHER, ALG.RSA, ALG.ECC], RC.TYPE);
const publicHead = {
  type: publicType,
  nameAlg: hashAlgOrNull,
  objectAttributes,
  authPolicy: digest,
  parameters: publicParms,
};
export const publicArea = struct({ ...publicHead, unique: publicId });
export type PublicArea = TypeOf<typeof publicArea>;
/** TPM2B_PUBLIC+: an object without a Name may be meant. */
export const publicOrNameless2b = sizedOf(publicArea);
export const public2b = sizedOf(struct({ ...publicHead, nameAlg: hashAlg, unique: publicId }));
/** A template of a derived object: label and context stand for the unique field (part 2, 11.1.8 and 12.2.6). */
const derive = sized(32);
export const derivedTemplate = struct({ ...publicHead, label: derive, context: derive });
export const publicParmsOnly = struct({ type: publicType, parameters: publicParms });

export const sensitiveArea = struct({
  sensitiveType: publicType,
  authValue: auth,
  seedValue: digest,
  sensitive: union('sensitiveType', {
    [ALG.RSA]: sized(LIMIT.rsaBytes / 2),
    [ALG.ECC]: eccParameter,
    [ALG.KEYEDHASH]: sensitiveData,
    [ALG.SYMCIPHER]: sized(LIMIT.symKey),
  }),
});
export type SensitiveArea = TypeOf<typeof sensitiveArea>;
export const sensitive2b = sizedOptional(sensitiveArea);
export const sensitiveCreate2b = sizedOf(struct({ userAuth: auth, data: sensitiveData }));

// Signatures
/** TPMU_SIGNATURE; `hmac` is the digest of an HMAC. */
export interface SignatureBody {
  hash: number;
  sig: Buffer;
  r: Buffer;
  s: Buffer;
  hmac: Buffer;
}
const rsaSignature = struct({ hash: hashAlg, sig: rsaKey });
const eccSignature = struct({ hash: hashAlg, r: eccParameter, s: eccParameter });
const hmacSignature = struct({ hash: hashAlg, hmac: octets((s) => digestSize(s.hash as number)) });
export const signature = struct({
  // TPM_ALG_NULL is only written: in responses, where nothing was signed.
  sigAlg: oneOf(u16, [...signSchemes.rsa, ...signSchemes.ecc, ALG.HMAC], RC.SCHEME),
  signature: union('sigAlg', {
    [ALG.RSASSA]: rsaSignature,
    [ALG.RSAPSS]: rsaSignature,
    [ALG.ECDSA]: eccSignature,
    [ALG.ECDAA]: eccSignature,
    [ALG.SM2]: eccSignature,
    [ALG.ECSCHNORR]: eccSignature,
    [ALG.HMAC]: hmacSignature,
    [ALG.NULL]: empty,
  }) as Codec<Partial<SignatureBody> | undefined>,
});
export type Signature = TypeOf<typeof signature>;

// Tickets
const ticket = (...tags: number[]) => struct({ tag: oneOf(u16, tags, RC.TAG), hierarchy, digest });
export const creationTicket = ticket(ST.CREATION);
export const verifiedTicket = ticket(ST.VERIFIED);
export const authTicket = ticket(ST.AUTH_SIGNED, ST.AUTH_SECRET);
export const hashcheckTicket = ticket(ST.HASHCHECK);
export type Ticket = TypeOf<typeof creationTicket>;

// Attestation
export const clockInfo = struct({ clock: u64, resetCount: u32, restartCount: u32, safe: yesNo });
export const timeInfo = struct({ time: u64, clockInfo });
export type ClockInfo = TypeOf<typeof clockInfo>;
export const creationData = struct({
  pcrSelect: pcrSelections,
  pcrDigest: digest,
  locality: u8,
  parentNameAlg: u16,
  parentName: name2b,
  parentQualifiedName: name2b,
  outsideInfo: data2b,
});
export const creationData2b = sizedOf(creationData);
export const attest = struct({
  magic: oneOf(u32, [GENERATED_VALUE], RC.VALUE),
  type: u16,
  qualifiedSigner: name2b,
  extraData: data2b,
  clockInfo,
  firmwareVersion: u64,
  attested: union('type', {
    [ST.ATTEST_CERTIFY]: struct({ name: name2b, qualifiedName: name2b }),
    [ST.ATTEST_CREATION]: struct({ objectName: name2b, creationHash: digest }),
    [ST.ATTEST_QUOTE]: struct({ pcrSelect: pcrSelections, pcrDigest: digest }),
    [ST.ATTEST_COMMAND_AUDIT]: struct({
      auditCounter: u64,
      digestAlg: u16,
      auditDigest: digest,
      commandDigest: digest,
    }),
    [ST.ATTEST_SESSION_AUDIT]: struct({ exclusiveSession: yesNo, sessionDigest: digest }),
    [ST.ATTEST_TIME]: struct({ time: timeInfo, firmwareVersion: u64 }),
    [ST.ATTEST_NV]: struct({ indexName: name2b, offset: u16, nvContents: nvBuffer }),
    [ST.ATTEST_NV_DIGEST]: struct({ indexName: name2b, nvDigest: digest }),
  }) as Codec<unknown>,
});

// NV
export const nvIndexHandle = checked(u32, (h) => handleType(h) === HT.NV_INDEX, RC.VALUE);
export const nvPublic = struct({
  nvIndex: nvIndexHandle,
  nameAlg: hashAlg,
  attributes: nvAttributes,
  authPolicy: digest,
  dataSize: checked(u16, (n) => n <= LIMIT.nvIndex, RC.SIZE),
});
export type NvPublic = TypeOf<typeof nvPublic>;
export const nvPublic2b = sizedOf(nvPublic);

// Contexts
export const context = struct({
  sequence: u64,
  savedHandle,
  hierarchy,
  contextBlob: contextData,
});

// Capabilities
const capList = <T>(element: Codec<T>) => struct({ list: list(element, 1024) });
export const capabilityData = struct({
  capability: u32,
  data: union('capability', {
    [CAP.ALGS]: capList(struct({ alg: u16, properties: u32 })),
    [CAP.HANDLES]: capList(u32),
    [CAP.COMMANDS]: capList(u32),
    [CAP.PP_COMMANDS]: capList(u32),
    [CAP.AUDIT_COMMANDS]: capList(u32),
    [CAP.PCRS]: struct({ list: pcrSelections }),
    [CAP.TPM_PROPERTIES]: capList(struct({ property: u32, value: u32 })),
    [CAP.PCR_PROPERTIES]: capList(
      struct({
        tag: u32,
        pcrSelect: {
          read: (r) => r.bytes(r.u8()),
          write(w, v) {
            w.u8(v.length);
            w.bytes(v);
          },
        } as Codec<Buffer>,
      }),
    ),
    [CAP.ECC_CURVES]: capList(u16),
    [CAP.AUTH_POLICIES]: capList(
      struct({ handle: u32, hashAlg: u16, digest: octets((s) => digestSize(s.hashAlg as number)) }),
    ),
    [CAP.ACT]: capList(struct({ handle: u32, timeout: u32, attributes: u32 })),
  }) as Codec<{ list: unknown[] }>,
});

export const eccDetail = struct({
  curveID: u16,
  keySize: u16,
  kdf: kdfScheme,
  sign: eccScheme,
  p: eccParameter,
  a: eccParameter,
  b: eccParameter,
  gX: eccParameter,
  gY: eccParameter,
  n: eccParameter,
  h: eccParameter,
});
