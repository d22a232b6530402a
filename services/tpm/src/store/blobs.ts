/**
 * The state as blobs that leave this TPM: for migration, snapshots, backups. Versioned, with a checksum; sealed where there is a
 * key.
 *
 *   magic(8) u8 type u8 flags(1: sealed) salt(16) u32 CRC-32 of body, body
 */
import { randomBytes } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { applyChanges, encodeChanges } from './records.ts';
import { Seal } from './seal.ts';

const magic = Buffer.from('NYXTPMB1', 'latin1');
export const BLOB = { PERMANENT: 1, VOLATILE: 2, SAVESTATE: 3 } as const;
const head = 30;

export function packBlob(type: number, body: Buffer, key?: Buffer): Buffer {
  const out = Buffer.alloc(head);
  magic.copy(out);
  out[8] = type;
  out[9] = key ? 1 : 0;
  if (!key) {
    out.writeUInt32BE(crc32(body), 26);
    return Buffer.concat([out, body]);
  }
  randomBytes(16).copy(out, 10);
  const salt = out.subarray(10, 26);
  const sealed = new Seal(key, salt).seal(out.subarray(0, 26), body);
  out.writeUInt32BE(crc32(sealed), 26);
  return Buffer.concat([out, sealed]);
}

export type Unpacked = { body: Buffer } | { wrong: 'damaged' | 'key' };
export function unpackBlob(type: number, blob: Buffer, key?: Buffer): Unpacked {
  const good = blob.length >= head && blob.subarray(0, 8).equals(magic) && blob[8] === type && blob[9]! < 2;
  if (!good) return { wrong: 'damaged' };
  const raw = blob.subarray(head);
  if (crc32(raw) !== blob.readUInt32BE(26)) return { wrong: 'damaged' };
  if (blob[9] === 0) return { body: raw };
  const body = key && new Seal(key, blob.subarray(10, 26)).open(blob.subarray(0, 26), raw);
  return body ? { body } : { wrong: 'key' };
}
export const isSealed = (blob: Buffer): boolean => blob.length >= head && blob[9] === 1;

export const packRecords = (records: ReadonlyMap<string, Buffer>): Buffer => encodeChanges(records);
export function unpackRecords(body: Buffer): Map<string, Buffer> | undefined {
  const records = new Map<string, Buffer>();
  return applyChanges(records, body) ? records : undefined;
}
