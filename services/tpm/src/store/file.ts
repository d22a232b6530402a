/**
 * Records in a file that only grows until it is rewritten. A commit is one frame: length, CRC-32C, changes. It counts
 * when all of it is there: a frame that is cut short or does not match its checksum, and all after it, never happened.
 * Rewriting makes a new file beside the old one and renames it.
 *
 *   file   magic frame*
 *   frame  u32 length of body, u32 crc of body, body
 *   body   (u8 kind, u16 length, name, [u32 length, data])*     kind 1 put, 2 delete
 */
import {
  closeSync,
  existsSync,
  fdatasyncSync,
  fsyncSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import type { Store } from '../core/store.ts';
import { Reader, Writer } from '../spec/codec.ts';
import { Refusal } from '../spec/refusal.ts';
import { crc32c } from './crc.ts';

const magic = Buffer.from('NYXTPM01', 'latin1');
const fileName = 'tpm.journal';
/** Rewritten when it is this large and at least twice what it holds. */
const compactAt = 1 << 20;

export class StoreError extends Error {
  readonly code = 'TPM_STATE';
}

function encodeChanges(changes: Iterable<[string, Buffer | undefined]>): Buffer {
  const w = new Writer(1024);
  for (const [name, data] of changes) {
    w.u8(data ? 1 : 2);
    const n = Buffer.from(name);
    w.u16(n.length);
    w.bytes(n);
    if (data) {
      w.u32(data.length);
      w.bytes(data);
    }
  }
  return w.done();
}

function frame(body: Buffer): Buffer {
  const head = Buffer.alloc(8);
  head.writeUInt32BE(body.length, 0);
  head.writeUInt32BE(crc32c(body), 4);
  return Buffer.concat([head, body]);
}

function apply(records: Map<string, Buffer>, body: Buffer): void {
  const r = new Reader(body);
  while (r.left > 0) {
    const kind = r.u8();
    const name = r.bytes(r.u16()).toString();
    if (kind === 1) records.set(name, r.bytes(r.u32()));
    else records.delete(name);
  }
}

export class FileStore implements Store {
  private readonly dir: string;
  private fd: number;
  private size: number;
  private readonly records: Map<string, Buffer>;

  private constructor(dir: string, fd: number, size: number, records: Map<string, Buffer>) {
    this.dir = dir;
    this.fd = fd;
    this.size = size;
    this.records = records;
  }

  /** Opens the state of a directory, or makes a new one. Throws StoreError when the file is not one of ours. */
  static open(dir: string): FileStore {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    const path = join(dir, fileName);
    const records = new Map<string, Buffer>();
    if (!existsSync(path)) {
      const fd = openSync(path, 'wx', 0o600);
      writeSync(fd, magic);
      fsyncSync(fd);
      syncDir(dir);
      return new FileStore(dir, fd, magic.length, records);
    }
    const all = readFileSync(path);
    if (all.length < magic.length || !all.subarray(0, magic.length).equals(magic)) {
      // Killed between making the file and its magic: nothing was ever in it.
      if (!magic.subarray(0, all.length).equals(all))
        throw new StoreError(`${path} is not the state of a TPM`);
      const fd = openSync(path, 'r+');
      writeSync(fd, magic, 0, magic.length, 0);
      return new FileStore(dir, fd, magic.length, records);
    }
    let at = magic.length;
    while (at + 8 <= all.length) {
      const length = all.readUInt32BE(at);
      const body = all.subarray(at + 8, at + 8 + length);
      if (body.length !== length || crc32c(body) !== all.readUInt32BE(at + 4)) break;
      try {
        apply(records, body);
      } catch (e) {
        if (e instanceof Refusal) throw new StoreError(`${path}: a record at ${at} does not parse`);
        throw e;
      }
      at += 8 + length;
    }
    const fd = openSync(path, 'r+');
    if (at < all.length) ftruncateSync(fd, at);
    return new FileStore(dir, fd, at, records);
  }

  load(): Map<string, Buffer> {
    return new Map(this.records);
  }

  commit(changes: ReadonlyMap<string, Buffer | undefined>, durable = true): void {
    const bytes = frame(encodeChanges(changes));
    writeAll(this.fd, bytes, this.size);
    if (durable) fdatasyncSync(this.fd);
    this.size += bytes.length;
    for (const [name, data] of changes) {
      if (data) this.records.set(name, Buffer.from(data));
      else this.records.delete(name);
    }
    if (this.size > compactAt) this.compact();
  }

  private compact(): void {
    const whole = Buffer.concat([magic, frame(encodeChanges(this.records))]);
    if (whole.length * 2 > this.size) return;
    const path = join(this.dir, fileName);
    const fd = openSync(`${path}.new`, 'w', 0o600);
    writeAll(fd, whole, 0);
    fsyncSync(fd);
    renameSync(`${path}.new`, path);
    syncDir(this.dir);
    closeSync(this.fd);
    this.fd = fd;
    this.size = whole.length;
  }

  close(): void {
    closeSync(this.fd);
  }
}

function writeAll(fd: number, bytes: Buffer, at: number): void {
  for (let done = 0; done < bytes.length; ) {
    done += writeSync(fd, bytes, done, bytes.length - done, at + done);
  }
}
function syncDir(dir: string): void {
  const fd = openSync(dir, 'r');
  fsyncSync(fd);
  closeSync(fd);
}
