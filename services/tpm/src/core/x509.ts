/** Keys and algorithms as X.509 says them (RFC 3279, 4055, 5480, 5758). */
import * as der from '../crypto/der.ts';
import { be32 } from '../crypto/hash.ts';
import { defaultExponent } from '../crypto/rsa.ts';
import { digestSize } from '../spec/algorithms.ts';
import { ALG, CURVE } from '../spec/constants.ts';
import type { PublicArea, Scheme } from '../spec/types.ts';

const curveOids: Readonly<Record<number, string>> = {
  [CURVE.P192]: '1.2.840.10045.3.1.1',
  [CURVE.P224]: '1.3.132.0.33',
  [CURVE.P256]: '1.2.840.10045.3.1.7',
  [CURVE.P384]: '1.3.132.0.34',
  [CURVE.P521]: '1.3.132.0.35',
};
interface HashOids {
  hash: string;
  rsassa: string;
  ecdsa: string;
}
const hashOids: Readonly<Record<number, HashOids>> = {
  [ALG.SHA1]: { hash: '1.3.14.3.2.26', rsassa: '1.2.840.113549.1.1.5', ecdsa: '1.2.840.10045.4.1' },
  [ALG.SHA256]: {
    hash: '2.16.840.1.101.3.4.2.1',
    rsassa: '1.2.840.113549.1.1.11',
    ecdsa: '1.2.840.10045.4.3.2',
  },
  [ALG.SHA384]: {
    hash: '2.16.840.1.101.3.4.2.2',
    rsassa: '1.2.840.113549.1.1.12',
    ecdsa: '1.2.840.10045.4.3.3',
  },
  [ALG.SHA512]: {
    hash: '2.16.840.1.101.3.4.2.3',
    rsassa: '1.2.840.113549.1.1.13',
    ecdsa: '1.2.840.10045.4.3.4',
  },
};
const rsaEncryption = '1.2.840.113549.1.1.1';
const rsassaPss = '1.2.840.113549.1.1.10';
const mgf1 = '1.2.840.113549.1.1.8';
const ecPublicKey = '1.2.840.10045.2.1';

const withNull = (id: string) => der.sequence(der.oid(id), der.nil);

/** SubjectPublicKeyInfo; undefined for what X.509 has no name for. */
export function publicKeyInfo({ type, parameters, unique }: PublicArea): Buffer | undefined {
  if (type === ALG.RSA) {
    const exponent = parameters.exponent || defaultExponent;
    const key = der.sequence(der.integer(unique.x), der.integer(be32(exponent)));
    return der.sequence(withNull(rsaEncryption), der.bitString(key));
  }
  const curve = type === ALG.ECC ? curveOids[parameters.curveID] : undefined;
  if (!curve) return undefined;
  const point = Buffer.concat([Buffer.of(4), unique.x, unique.y]);
  return der.sequence(der.sequence(der.oid(ecPublicKey), der.oid(curve)), der.bitString(point));
}

/** AlgorithmIdentifier of a signature; undefined where there is none. `keyBytes`: of the modulus, for the salt of PSS. */
export function signatureAlgorithm({ scheme, hashAlg }: Scheme, keyBytes: number): Buffer | undefined {
  const oids = hashOids[hashAlg];
  if (!oids) return undefined;
  switch (scheme) {
    case ALG.RSASSA:
      return withNull(oids.rsassa);
    case ALG.ECDSA:
      return der.sequence(der.oid(oids.ecdsa));
    case ALG.RSAPSS: {
      const h = digestSize(hashAlg);
      const salt = Math.min(h, keyBytes - h - 2);
      // What is the default is left out (RFC 4055, 3.1): with SHA-1 all of it, but for a salt that is not 20.
      const parts = [];
      if (hashAlg !== ALG.SHA1) {
        parts.push(der.context(0, withNull(oids.hash)));
        parts.push(der.context(1, der.sequence(der.oid(mgf1), withNull(oids.hash))));
      }
      if (salt !== 20) parts.push(der.context(2, der.integer(salt)));
      return der.sequence(der.oid(rsassaPss), der.sequence(...parts));
    }
    default:
      return undefined;
  }
}
