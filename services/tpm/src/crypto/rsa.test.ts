import { constants, createHash, createVerify, privateDecrypt, publicEncrypt } from 'node:crypto';
import { expect, test } from 'vitest';
import { ALG } from '../spec/constants.ts';
import { seededRandom } from './random.ts';
import * as rsa from './rsa.ts';

const rand = seededRandom(Buffer.from(process.env.NYX_SEED ?? '1'));
const e = rsa.defaultExponent;
const key = rsa.seededKey(1024, e, seededRandom(Buffer.from('seed')));
const priv = rsa.privateKeyOf(key, e);
const pub = rsa.publicKeyOf(key.n, e);

test('a key is a function of its seed', () => {
  expect(rsa.matches(key)).toBe(true);
  expect(rsa.seededKey(1024, e, seededRandom(Buffer.from('seed')))).toEqual(key);
  expect(rsa.seededKey(1024, e, seededRandom(Buffer.from('other'))).n).not.toEqual(key.n);
});

test('OAEP and PKCS #1 v1.5 as node:crypto does them', () => {
  const message = Buffer.from('secret');
  const label = Buffer.from('LABEL\0');
  const ours = rsa.rawPublic(pub, rsa.oaepPad(128, ALG.SHA256, label, message, rand));
  const options = {
    key: priv,
    oaepHash: 'sha256',
    oaepLabel: label,
    padding: constants.RSA_PKCS1_OAEP_PADDING,
  };
  expect(privateDecrypt(options, ours)).toEqual(message);
  const theirs = publicEncrypt({ ...options, key: pub }, message);
  expect(rsa.oaepUnpad(ALG.SHA256, label, rsa.rawPrivate(priv, theirs))).toEqual(message);
  expect(rsa.oaepUnpad(ALG.SHA256, Buffer.from('X'), rsa.rawPrivate(priv, theirs))).toBeUndefined();
  const v15 = publicEncrypt({ key: pub, padding: constants.RSA_PKCS1_PADDING }, message);
  expect(rsa.pkcs1Unpad(rsa.rawPrivate(priv, v15))).toEqual(message);
  expect(rsa.pkcs1Unpad(rsa.pkcs1Pad(128, message, rand))).toEqual(message);
});

test('signatures verify with node:crypto', () => {
  const message = Buffer.from('signed');
  const digest = createHash('sha256').update(message).digest();
  const v15 = rsa.rawPrivate(priv, rsa.rsassaEncode(128, ALG.SHA256, digest)!);
  expect(createVerify('sha256').update(message).verify(pub, v15)).toBe(true);
  const pss = rsa.rawPrivate(priv, rsa.pssEncode(1024, ALG.SHA256, digest, rand)!);
  const options = { key: pub, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: 32 };
  expect(createVerify('sha256').update(message).verify(options, pss)).toBe(true);
  expect(rsa.pssVerify(ALG.SHA256, digest, rsa.rawPublic(pub, pss))).toBe(true);
  expect(rsa.pssVerify(ALG.SHA256, rand(32), rsa.rawPublic(pub, pss))).toBe(false);
});
