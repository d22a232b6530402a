/** A local certificate authority: a key and a self-signed certificate in a directory, made when it is first used. */
import {
  createHash,
  createPrivateKey,
  generateKeyPairSync,
  type KeyObject,
  randomBytes,
  sign,
  X509Certificate,
} from 'node:crypto';
import { linkSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as der from '../crypto/der.ts';
import { StoreError } from '../store/seal.ts';

const keyFile = 'ca-key.pem';
const certificateFile = 'ca.pem';
const ecdsaSha384 = der.sequence(der.oid('1.2.840.10045.4.3.3'));
/** No certificate of hardware ends with time (RFC 5280, 4.1.2.5). */
const forever = new Date('9999-12-31T23:59:59Z');

export interface CertificateRequest {
  subject: string;
  /** SubjectPublicKeyInfo. */
  publicKey: Buffer;
  extensions: Buffer[];
}

export const extension = (id: string, critical: boolean, value: Buffer): Buffer =>
  der.sequence(der.oid(id), ...(critical ? [der.bool(true)] : []), der.octetString(value));
/** Bits of KeyUsage, from 0. */
export function keyUsage(...bits: number[]): Buffer {
  const octet = bits.reduce((v, b) => v | (0x80 >> b), 0);
  return extension('2.5.29.15', true, der.bitString(Buffer.of(octet), 7 - Math.max(...bits)));
}
export const basicConstraints = (ca: boolean): Buffer =>
  extension('2.5.29.19', true, der.sequence(...(ca ? [der.bool(true)] : [])));

const name = (cn: string) => der.sequence(der.set(der.sequence(der.oid('2.5.4.3'), der.utf8(cn))));
/** SHA-1 of the key's bit string (RFC 5280, 4.2.1.2 method 1). */
function keyIdentifier(spki: Buffer): Buffer {
  const [outer] = der.elements(spki)!;
  const bits = der.elements(outer!.content)![1]!;
  return createHash('sha1').update(bits.content.subarray(1)).digest();
}

function certificate(r: CertificateRequest, issuer: string, issuerSpki: Buffer, key: KeyObject): Buffer {
  // Positive, and not 0.
  const serial = randomBytes(16);
  serial[0] = (serial[0]! & 0x7f) | 0x40;
  const from = new Date();
  from.setUTCMilliseconds(0);
  const extensions = der.sequence(
    ...r.extensions,
    extension('2.5.29.14', false, der.octetString(keyIdentifier(r.publicKey))),
    extension('2.5.29.35', false, der.sequence(der.contextPrimitive(0, keyIdentifier(issuerSpki)))),
  );
  const tbs = der.sequence(
    der.context(0, der.integer(2)),
    der.integer(serial),
    ecdsaSha384,
    name(issuer),
    der.sequence(der.time(from), der.time(forever)),
    name(r.subject),
    r.publicKey,
    der.context(3, extensions),
  );
  return der.sequence(tbs, ecdsaSha384, der.bitString(sign('sha384', tbs, key)));
}

const pem = (b: Buffer) =>
  `-----BEGIN CERTIFICATE-----\n${b.toString('base64').replace(/.{64}(?=.)/g, '$&\n')}\n-----END CERTIFICATE-----\n`;

export class LocalCa {
  private readonly key: KeyObject;
  /** Its certificate. */
  readonly certificate: X509Certificate;

  private constructor(key: KeyObject, certificate: X509Certificate) {
    this.key = key;
    this.certificate = certificate;
  }

  /** Throws StoreError when the directory holds something else. */
  static open(dir: string): LocalCa {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    try {
      readFileSync(join(dir, certificateFile));
    } catch {
      LocalCa.make(dir);
    }
    try {
      const key = createPrivateKey(readFileSync(join(dir, keyFile)));
      const own = new X509Certificate(readFileSync(join(dir, certificateFile)));
      if (!own.checkPrivateKey(key)) throw new Error('key and certificate do not belong together');
      return new LocalCa(key, own);
    } catch (e) {
      throw new StoreError('TPM_STATE', `${dir} is not a certificate authority: ${(e as Error).message}`);
    }
  }

  /** Two at a time make one: the certificate names the key that is there. */
  private static make(dir: string): void {
    const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-384' });
    const temporary = join(dir, `.${process.pid}.${randomBytes(4).toString('hex')}`);
    const put = (file: string, text: string | Buffer) => {
      writeFileSync(temporary, text, { mode: 0o600 });
      try {
        linkSync(temporary, join(dir, file));
      } catch (e) {
        if ((e as NodeJS.ErrnoException).code !== 'EEXIST') throw e;
      } finally {
        rmSync(temporary, { force: true });
      }
    };
    put(keyFile, privateKey.export({ type: 'pkcs8', format: 'pem' }));
    const key = createPrivateKey(readFileSync(join(dir, keyFile)));
    const { x, y } = key.export({ format: 'jwk' });
    const point = Buffer.concat([Buffer.of(4), Buffer.from(x!, 'base64url'), Buffer.from(y!, 'base64url')]);
    const algorithm = der.sequence(der.oid('1.2.840.10045.2.1'), der.oid('1.3.132.0.34'));
    const publicKey = der.sequence(algorithm, der.bitString(point));
    const subject = 'Nyx local TPM CA';
    // Of certificates and revocation lists.
    const extensions = [basicConstraints(true), keyUsage(5, 6)];
    put(certificateFile, pem(certificate({ subject, publicKey, extensions }, subject, publicKey, key)));
  }

  /** A certificate, DER. */
  issue(request: CertificateRequest): Buffer {
    const spki = this.certificate.publicKey.export({ type: 'spki', format: 'der' });
    return certificate(request, this.certificate.subject.replace(/^CN=/, ''), spki, this.key);
  }
}
