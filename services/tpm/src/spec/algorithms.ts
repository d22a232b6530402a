/**
 * What of each algorithm is implemented, and its properties (TPMA_ALGORITHM, part 2, 8.2). No command derives anything by KDF2: a
 * scheme may name it.
 */
import { ALG, CURVE } from './constants.ts';

const A = {
  asymmetric: 1,
  symmetric: 2,
  hash: 4,
  object: 8,
  signing: 0x100,
  encrypting: 0x200,
  method: 0x400,
};

/** [algorithm, TPMA_ALGORITHM], ascending: the answer of TPM_CAP_ALGS. */
export const algorithms: readonly (readonly [number, number])[] = [
  [ALG.RSA, A.asymmetric | A.object],
  [ALG.SHA1, A.hash],
  [ALG.HMAC, A.hash | A.signing],
  [ALG.AES, A.symmetric],
  [ALG.MGF1, A.hash | A.method],
  [ALG.KEYEDHASH, A.hash | A.object | A.signing | A.encrypting],
  [ALG.XOR, A.hash | A.symmetric],
  [ALG.SHA256, A.hash],
  [ALG.SHA384, A.hash],
  [ALG.SHA512, A.hash],
  [ALG.RSASSA, A.asymmetric | A.signing],
  [ALG.RSAES, A.asymmetric | A.encrypting],
  [ALG.RSAPSS, A.asymmetric | A.signing],
  [ALG.OAEP, A.asymmetric | A.encrypting],
  [ALG.ECDSA, A.asymmetric | A.signing],
  [ALG.ECDH, A.asymmetric | A.method],
  [ALG.ECDAA, A.asymmetric | A.signing],
  [ALG.SM2, A.asymmetric | A.signing | A.method],
  [ALG.ECSCHNORR, A.asymmetric | A.signing],
  [ALG.ECMQV, A.asymmetric | A.method],
  [ALG.KDF1_SP800_56A, A.hash | A.method],
  [ALG.KDF2, A.hash | A.method],
  [ALG.KDF1_SP800_108, A.hash | A.method],
  [ALG.ECC, A.asymmetric | A.object],
  [ALG.SYMCIPHER, A.object],
  [ALG.CAMELLIA, A.symmetric],
  [ALG.CMAC, A.symmetric | A.signing],
  [ALG.CTR, A.symmetric | A.encrypting],
  [ALG.OFB, A.symmetric | A.encrypting],
  [ALG.CBC, A.symmetric | A.encrypting],
  [ALG.CFB, A.symmetric | A.encrypting],
  [ALG.ECB, A.symmetric | A.encrypting],
];

export interface HashInfo {
  alg: number;
  /** Name in node:crypto. */
  name: string;
  size: number;
  block: number;
  /** DigestInfo of PKCS #1 (RFC 8017, 9.2 note 1) before the digest. */
  prefix: Buffer;
}
const hash = (alg: number, name: string, size: number, block: number, prefix: string): HashInfo => ({
  alg,
  name,
  size,
  block,
  prefix: Buffer.from(prefix, 'hex'),
});
export const hashes: readonly HashInfo[] = [
  hash(ALG.SHA1, 'sha1', 20, 64, '3021300906052b0e03021a05000414'),
  hash(ALG.SHA256, 'sha256', 32, 64, '3031300d060960864801650304020105000420'),
  hash(ALG.SHA384, 'sha384', 48, 128, '3041300d060960864801650304020205000430'),
  hash(ALG.SHA512, 'sha512', 64, 128, '3051300d060960864801650304020305000440'),
];
const hashByAlg = new Map(hashes.map((h) => [h.alg, h]));
/** Undefined for TPM_ALG_NULL and what is no hash. */
export const hashInfo = (alg: number): HashInfo | undefined => hashByAlg.get(alg);
/** 0 for TPM_ALG_NULL. */
export const digestSize = (alg: number): number => hashByAlg.get(alg)?.size ?? 0;

/** Block ciphers: name in node:crypto, key sizes in bits, block in octets. */
export const ciphers: Readonly<Record<number, { name: string; bits: readonly number[]; block: number }>> = {
  [ALG.AES]: { name: 'aes', bits: [128, 192, 256], block: 16 },
  [ALG.CAMELLIA]: { name: 'camellia', bits: [128, 192, 256], block: 16 },
};
export const cipherModes: Readonly<Record<number, string>> = {
  [ALG.CTR]: 'ctr',
  [ALG.OFB]: 'ofb',
  [ALG.CBC]: 'cbc',
  [ALG.CFB]: 'cfb',
  [ALG.ECB]: 'ecb',
};

export const rsaBits: readonly number[] = [1024, 2048, 3072, 4096];
export const curveIds: readonly number[] = [
  CURVE.P192,
  CURVE.P224,
  CURVE.P256,
  CURVE.P384,
  CURVE.P521,
  CURVE.SM2_P256,
];

/** Which fields follow the selector of a scheme (TPMU_ASYM_SCHEME and its relatives, part 2, 11.1 and 11.2). */
export type SchemeField = 'hashAlg' | 'count' | 'kdf';
export const schemeFields: Readonly<Record<number, readonly SchemeField[]>> = {
  [ALG.NULL]: [],
  [ALG.RSAES]: [],
  [ALG.HMAC]: ['hashAlg'],
  [ALG.XOR]: ['hashAlg', 'kdf'],
  [ALG.RSASSA]: ['hashAlg'],
  [ALG.RSAPSS]: ['hashAlg'],
  [ALG.OAEP]: ['hashAlg'],
  [ALG.ECDSA]: ['hashAlg'],
  [ALG.ECDAA]: ['hashAlg', 'count'],
  [ALG.SM2]: ['hashAlg'],
  [ALG.ECSCHNORR]: ['hashAlg'],
  [ALG.ECDH]: ['hashAlg'],
  [ALG.ECMQV]: ['hashAlg'],
  [ALG.MGF1]: ['hashAlg'],
  [ALG.KDF1_SP800_56A]: ['hashAlg'],
  [ALG.KDF2]: ['hashAlg'],
  [ALG.KDF1_SP800_108]: ['hashAlg'],
};
export const signSchemes = {
  rsa: [ALG.RSASSA, ALG.RSAPSS] as readonly number[],
  ecc: [ALG.ECDSA, ALG.ECDAA, ALG.SM2, ALG.ECSCHNORR] as readonly number[],
};
export const decryptSchemes = {
  rsa: [ALG.RSAES, ALG.OAEP] as readonly number[],
  ecc: [ALG.ECDH, ALG.SM2, ALG.ECMQV] as readonly number[],
};
