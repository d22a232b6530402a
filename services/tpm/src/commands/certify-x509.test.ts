/** A certificate put together from what the caller brought and the TPM added is one that others accept. */
import { createPublicKey, X509Certificate } from 'node:crypto';
import { expect, test } from 'vitest';
import { publicKeyInfo, signatureAlgorithm } from '../core/x509.ts';
import * as der from '../crypto/der.ts';
import { ALG, OA, RC, RC_P } from '../spec/constants.ts';
import { nullScheme } from '../spec/types.ts';
import { Client, templates } from '../testing/client.ts';

const name = (cn: string) => der.sequence(der.set(der.sequence(der.oid('2.5.4.3'), der.utf8(cn))));
const validity = der.sequence(
  der.time(new Date('2020-01-02T03:04:05Z')),
  der.time(new Date('2055-01-01T00:00:00Z')),
);
const extension = (id: string, value: Buffer) => der.sequence(der.oid(id), der.octetString(value));
const keyUsage = (octet: number) => extension('2.5.29.15', der.bitString(Buffer.of(octet)));
const extensions = (...list: Buffer[]) => der.context(3, der.sequence(...list));
const signs = 0x80;
const partialOf = (...more: Buffer[]) => der.sequence(name('Root'), validity, name('Key'), ...more);

const schemes = [
  ['ECDSA, SHA-256', templates.signer, { scheme: ALG.ECDSA, hashAlg: ALG.SHA256 }],
  ['RSASSA, SHA-384', templates.rsa, { scheme: ALG.RSASSA, hashAlg: ALG.SHA384 }],
  ['RSAPSS, SHA-256', templates.rsa, { scheme: ALG.RSAPSS, hashAlg: ALG.SHA256 }],
  ['RSAPSS, SHA-1', templates.rsa, { scheme: ALG.RSAPSS, hashAlg: ALG.SHA1 }],
] as const;

test.each(schemes)('%s', (_, template, wanted) => {
  const c = new Client().startup();
  const pub = { ...template, objectAttributes: template.objectAttributes & ~OA.decrypt };
  const key = c.ok('CreatePrimary', {
    primaryHandle: 0x40000001,
    inSensitive: { userAuth: Buffer.alloc(0), data: Buffer.alloc(0) },
    inPublic: pub,
    outsideInfo: Buffer.alloc(0),
    creationPCR: [],
  });
  const inScheme = { ...nullScheme, ...wanted };
  const attributes = Buffer.alloc(4);
  attributes.writeUInt32BE(pub.objectAttributes);
  const exts = extensions(keyUsage(signs), extension('2.23.133.10.1.1.1', der.bitString(attributes)));
  const out = c.ok('CertifyX509', {
    objectHandle: key.handle,
    signHandle: key.handle,
    reserved: Buffer.alloc(0),
    inScheme,
    partialCertificate: partialOf(exts),
  });
  const [added] = der.elements(out.addedToCertificate)!;
  const [version, serial, algorithm, publicKey] = der.elements(added!.content)!.map((e) => e.whole);
  const tbs = der.sequence(
    version!,
    serial!,
    algorithm!,
    name('Root'),
    validity,
    name('Key'),
    publicKey!,
    exts,
  );
  const s = out.signature.signature!;
  const signature = s.sig ?? der.sequence(der.integer(s.r!), der.integer(s.s!));
  const certificate = new X509Certificate(der.sequence(tbs, algorithm!, der.bitString(signature)));
  const spki = publicKeyInfo(key.outPublic)!;
  expect(certificate.verify(createPublicKey({ key: spki, format: 'der', type: 'spki' }))).toBe(true);
  expect(certificate.subject).toBe('CN=Key');
  expect(certificate.validTo).toMatch(/2055/);
  expect(algorithm).toEqual(signatureAlgorithm(inScheme, key.outPublic.unique.x.length));
});

test('what is refused, and with which code', () => {
  const c = new Client().startup();
  const handle = c.primary(templates.signer);
  const inScheme = { ...nullScheme, scheme: ALG.ECDSA, hashAlg: ALG.SHA256 };
  const rc = (partialCertificate: Buffer, reserved = Buffer.alloc(0)) =>
    c.rc('CertifyX509', { objectHandle: handle, signHandle: handle, reserved, inScheme, partialCertificate });
  const good = partialOf(extensions(keyUsage(signs)));
  const param = (code: number, n: number) => code + RC_P + n * 0x100;
  expect(rc(good)).toBe(RC.SUCCESS);
  expect(rc(good, Buffer.of(0))).toBe(param(RC.SIZE, 1));
  const value = param(RC.VALUE, 3);
  expect(rc(Buffer.alloc(0))).toBe(param(RC.SIZE, 3));
  expect(rc(Buffer.concat([good, Buffer.of(5, 0)]))).toBe(param(RC.SIZE, 3));
  for (let n = 1; n < good.length; n++) expect(rc(good.subarray(0, n))).toBe(param(RC.SIZE, 3));
  expect(rc(partialOf())).toBe(value);
  expect(rc(partialOf(extensions()))).toBe(value);
  expect(rc(partialOf(extensions(keyUsage(signs)), extensions(keyUsage(signs))))).toBe(value);
  expect(rc(partialOf(name('a'), name('b'), extensions(keyUsage(signs))))).toBe(value);
  // Decryption by a key that signs only; agreement by one that is not restricted.
  expect(rc(partialOf(extensions(keyUsage(0x20))))).toBe(value);
  expect(rc(partialOf(extensions(keyUsage(0x08))))).toBe(value);
  const wrong = extension('2.23.133.10.1.1.1', der.bitString(Buffer.alloc(4)));
  expect(rc(partialOf(extensions(keyUsage(signs), wrong)))).toBe(RC.ATTRIBUTES + 0x100);
});
