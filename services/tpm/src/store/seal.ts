/** Encryption of the state with a key file: AES-256-GCM under a key of each generation of the journal (SP 800-38D, RFC 5869). */
import {
  createCipheriv,
  createDecipheriv,
  createHmac,
  hkdfSync,
  randomBytes,
  timingSafeEqual,
} from 'node:crypto';
import { readFileSync } from 'node:fs';

const nonceBytes = 12;
const tagBytes = 16;
export const sealOverhead = nonceBytes + tagBytes;

/** Something is wrong with the state: `code` says what, the message what to do. */
export class StoreError extends Error {
  readonly code: 'TPM_STATE' | 'TPM_STATE_KEY' | 'TPM_STATE_CORRUPT';
  constructor(code: StoreError['code'], message: string) {
    super(message);
    this.code = code;
  }
}

/** Reads a key file: 32 octets, or 64 hexadecimal digits. */
export function readKeyFile(path: string): Buffer {
  let raw: Buffer;
  try {
    raw = readFileSync(path);
  } catch (e) {
    throw new StoreError('TPM_STATE_KEY', `the key file ${path} cannot be read: ${(e as Error).message}`);
  }
  return parseKey(raw, `the key file ${path}`);
}

/** The key in the content of a key file, called `what` in errors. */
export function parseKey(raw: Buffer, what: string): Buffer {
  if (raw.length === 32) return raw;
  const text = raw.toString('latin1').trim();
  if (/^[0-9a-fA-F]{64}$/.test(text)) return Buffer.from(text, 'hex');
  throw new StoreError(
    'TPM_STATE_KEY',
    `${what} must have 32 octets or 64 hexadecimal digits, it has ${raw.length} octets`,
  );
}

/** Proves that a key is the one the state was made with, without telling anything of it. */
export const keyCheck = (key: Buffer, salt: Buffer): Buffer =>
  createHmac('sha256', key).update('nyx tpm key check').update(salt).digest().subarray(0, 16);
export const sameCheck = (a: Buffer, b: Buffer): boolean => a.length === b.length && timingSafeEqual(a, b);

/** The cipher of one generation. Nonces are random: a key must not seal more than 2^32 bodies. */
export class Seal {
  private readonly key: Buffer;
  constructor(key: Buffer, salt: Buffer) {
    this.key = Buffer.from(hkdfSync('sha256', key, salt, 'nyx tpm state', 32));
  }
  /** `head` is authenticated, too. */
  seal(head: Buffer, body: Buffer): Buffer {
    const nonce = randomBytes(nonceBytes);
    const c = createCipheriv('aes-256-gcm', this.key, nonce);
    c.setAAD(head);
    const data = c.update(body);
    c.final();
    return Buffer.concat([nonce, c.getAuthTag(), data]);
  }
  /** Undefined: not what was sealed. */
  open(head: Buffer, sealed: Buffer): Buffer | undefined {
    if (sealed.length < sealOverhead) return undefined;
    const d = createDecipheriv('aes-256-gcm', this.key, sealed.subarray(0, nonceBytes));
    d.setAAD(head);
    d.setAuthTag(sealed.subarray(nonceBytes, sealOverhead));
    const body = d.update(sealed.subarray(sealOverhead));
    try {
      d.final();
      return body;
    } catch {
      return undefined;
    }
  }
}
