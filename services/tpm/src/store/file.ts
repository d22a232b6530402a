/**
 * Records in one file, changed by commits that are there whole or not at all, whenever the process is killed or the power goes.
 * One descriptor is all that is needed of the host; the file never has another name, and never grows beyond its layout:
 *
 *   header 0, header 1   4 KiB each; the valid one with the higher generation counts
 *   run 0, run 1         64 KiB each: the newest `run` record, where nothing else changed with it
 *   area 0, area 1       1 MiB each: frames, one a commit. The header says which area; its first frame has all records.
 *
 *   frame  u32 length of body, u32 CRC-32 of what follows, u64 generation, u64 sequence, body
 *   body   (u8 kind, u16 length, name, [u32 length, data])*     kind 1 put, 2 delete; sealed where there is a key
 *
 * A frame that is cut short, or does not match its checksum, and all after it, never happened. When an area is full all records
 * go into the other one, and then a header of the next generation is written. With a key, a frame that matches its checksum but
 * not its tag was forged: that is an error. That someone puts an older file back cannot be seen.
 */

import { randomBytes } from 'node:crypto';
import {
  closeSync,
  fdatasyncSync,
  fstatSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { crc32 } from 'node:zlib';
import { ofdLock } from '@nyx/native';
import { tpmWire } from '@nyx/protocol';
import { runRecord, type Store } from '../core/store.ts';
import { Reader, Writer } from '../spec/codec.ts';
import { applyChanges, type Changes, encodeChanges } from './records.ts';
import { keyCheck, Seal, StoreError, sameCheck, sealOverhead } from './seal.ts';

export { readKeyFile, StoreError } from './seal.ts';

const magic = Buffer.from('NYXTPM02', 'latin1');
const fileName = tpmWire.stateFile;
const headerBytes = 4096;
const runBytes = 64 * 1024;
const runAt = (slot: number) => 2 * headerBytes + slot * runBytes;
const defaultArea = 1 << 20;
const frameHead = 24;

export interface FileStoreOptions {
  /** 32 octets: the state is encrypted with it. */
  key?: Buffer;
  /** False: commits survive the end of the process, not that of the host; nothing waits for the disk. */
  sync?: boolean;
  /** Octets of an area of a new file, for tests. */
  areaBytes?: number;
}

interface Header {
  generation: bigint;
  area: number;
  areaBytes: number;
  encrypted: boolean;
  salt: Buffer;
  check: Buffer;
}
function encodeHeader(h: Header): Buffer {
  const w = new Writer(headerBytes);
  w.bytes(magic);
  w.u64(h.generation);
  w.u8(h.area);
  w.u8(h.encrypted ? 1 : 0);
  w.u32(h.areaBytes);
  w.bytes(h.salt);
  w.bytes(h.check);
  const fields = w.done();
  const out = Buffer.alloc(headerBytes);
  fields.copy(out);
  out.writeUInt32BE(crc32(fields), fields.length);
  return out;
}
function decodeHeader(b: Buffer): Header | undefined {
  const r = new Reader(b);
  if (b.length < headerBytes || !r.bytes(magic.length).equals(magic)) return undefined;
  const generation = r.u64();
  const area = r.u8();
  const encrypted = r.u8() === 1;
  const h = { generation, area, encrypted, areaBytes: r.u32(), salt: r.bytes(16), check: r.bytes(16) };
  return crc32(b.subarray(0, r.pos)) === r.u32() ? h : undefined;
}

export class FileStore implements Store {
  private readonly fd: number;
  private readonly key: Buffer | undefined;
  private readonly syncs: boolean;
  private readonly records = new Map<string, Buffer>();
  private header!: Header;
  private cipher: Seal | undefined;
  private sequence = 0n;
  /** Octets in use of the area. */
  private size = 0;
  private runSlot = 0;
  /** What a commit failed of: what is in the file and what was said are no longer the same. */
  private broken: unknown;

  /** The state in a descriptor that can be read and written; an empty file becomes a new state. Throws StoreError. */
  constructor(fd: number, options: FileStoreOptions = {}) {
    this.fd = fd;
    this.key = options.key;
    this.syncs = options.sync ?? true;
    if (this.key && this.key.length !== 32)
      throw new StoreError('TPM_STATE_KEY', 'the key must have 32 octets');
    const found = this.readHeader();
    if (found) this.recover(found);
    else this.create(options.areaBytes ?? defaultArea);
  }

  /** The state in a directory, made if there is none. While it is open, no other process can open it. */
  static open(dir: string, options: FileStoreOptions = {}): FileStore {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    const path = join(dir, fileName);
    let fd: number;
    try {
      fd = openSync(path, 'r+');
    } catch (e) {
      if ((e as NodeJS.ErrnoException).code !== 'ENOENT')
        throw new StoreError('TPM_STATE', (e as Error).message);
      fd = openSync(path, 'wx+', 0o600);
      syncDir(dirname(path));
    }
    try {
      if (!ofdLock(fd, 'write', 0, 1)) throw new StoreError('TPM_STATE', 'another process has this TPM open');
      return new FileStore(fd, options);
    } catch (e) {
      closeSync(fd);
      if (e instanceof StoreError) throw new StoreError(e.code, `${path}: ${e.message}`);
      throw e;
    }
  }

  private readHeader(): Header | undefined {
    const blocks = [0, 1].map((i) => this.read(i * headerBytes, headerBytes));
    const valid = blocks.flatMap((b) => decodeHeader(b) ?? []);
    const newest = valid.sort((a, b) => (a.generation < b.generation ? 1 : -1))[0];
    if (newest) return newest;
    // Killed while it was made: nothing was ever in it. Both headers are written before anything is.
    const blank = (b: Buffer) => b.every((octet) => octet === 0);
    const torn = (b: Buffer) => magic.every((octet, i) => (b[i] ?? 0) === octet || !b[i]);
    if (blocks.some(blank) && blocks.every((b) => blank(b) || torn(b))) return undefined;
    throw new StoreError('TPM_STATE', 'this is not the state of a TPM, or both of its headers are damaged');
  }

  private create(areaBytes: number): void {
    const none = Buffer.alloc(16);
    this.header = { generation: 0n, area: 1, areaBytes, encrypted: !!this.key, salt: none, check: none };
    this.rewrite();
    this.rewrite();
    fsyncSync(this.fd);
  }

  private recover(header: Header): void {
    this.header = header;
    if (header.encrypted && !this.key)
      throw new StoreError('TPM_STATE_KEY', 'the state is encrypted: give its key file');
    if (!header.encrypted && this.key)
      throw new StoreError('TPM_STATE_KEY', 'the state is not encrypted: give no key file');
    if (this.key && !sameCheck(keyCheck(this.key, header.salt), header.check))
      throw new StoreError('TPM_STATE_KEY', 'the state was encrypted with another key');
    if (this.key) this.cipher = new Seal(this.key, header.salt);
    const area = this.read(this.areaAt(header.area), header.areaBytes);
    for (;;) {
      const f = this.parse(area.subarray(this.size));
      if (!f || f.sequence < this.sequence) break;
      this.apply(f.body);
      this.sequence = f.sequence;
      this.size += f.bytes;
    }
    this.checkEnd(area);
    if (this.size === 0)
      throw new StoreError(
        'TPM_STATE_CORRUPT',
        'the state is damaged: its records do not match their checksum',
      );
    for (const slot of [0, 1]) {
      const f = this.parse(this.read(runAt(slot), runBytes));
      if (!f || f.sequence <= this.sequence) continue;
      this.apply(f.body);
      this.sequence = f.sequence;
      this.runSlot = slot ^ 1;
    }
    // Killed while it was made, after the first header.
    if (header.generation === 1n) this.rewrite();
  }
  /** Only the last frame can be torn: the one before was complete when it was begun. */
  private checkEnd(area: Buffer): void {
    const rest = area.subarray(this.size);
    const next = rest.length < 4 ? undefined : this.parse(rest.subarray(frameHead + rest.readUInt32BE(0)));
    if (next && next.sequence > this.sequence)
      throw new StoreError(
        'TPM_STATE_CORRUPT',
        `the state is damaged at octet ${this.size} of area ${this.header.area}`,
      );
  }
  private apply(body: Buffer): void {
    if (!applyChanges(this.records, body))
      throw new StoreError('TPM_STATE_CORRUPT', 'a record of the state does not parse');
  }

  /** The frame that `b` begins with; undefined: it never happened. */
  private parse(b: Buffer): { sequence: bigint; body: Buffer; bytes: number } | undefined {
    if (b.length < frameHead) return undefined;
    const length = b.readUInt32BE(0);
    const bytes = frameHead + length;
    if (bytes > b.length || crc32(b.subarray(8, bytes)) !== b.readUInt32BE(4)) return undefined;
    if (b.readBigUInt64BE(8) !== this.header.generation) return undefined;
    const raw = b.subarray(frameHead, bytes);
    const body = this.cipher ? this.cipher.open(b.subarray(8, frameHead), raw) : raw;
    if (!body)
      throw new StoreError(
        'TPM_STATE_CORRUPT',
        'a record of the state was changed by somebody without the key',
      );
    return { sequence: b.readBigUInt64BE(16), body, bytes };
  }
  private frame(changes: Changes): Buffer {
    const plain = encodeChanges(changes);
    const head = Buffer.alloc(frameHead);
    head.writeBigUInt64BE(this.header.generation, 8);
    head.writeBigUInt64BE(++this.sequence, 16);
    const body = this.cipher ? this.cipher.seal(head.subarray(8), plain) : plain;
    head.writeUInt32BE(body.length, 0);
    const out = Buffer.concat([head, body]);
    out.writeUInt32BE(crc32(out.subarray(8)), 4);
    return out;
  }

  load(): Map<string, Buffer> {
    return new Map(this.records);
  }

  private put(changes: ReadonlyMap<string, Buffer | undefined>, durable: boolean): void {
    for (const [name, data] of changes) {
      if (data) this.records.set(name, Buffer.from(data));
      else this.records.delete(name);
    }
    const run = changes.get(runRecord);
    if (!durable && run && changes.size === 1 && run.length + 64 + frameHead + sealOverhead <= runBytes) {
      // Into the slot that does not hold the newest.
      this.write(this.frame(changes), runAt(this.runSlot));
      this.runSlot ^= 1;
      return;
    }
    const bytes = this.frame(changes);
    if (this.size + bytes.length > this.header.areaBytes) {
      this.rewrite();
      return;
    }
    this.write(bytes, this.areaAt(this.header.area) + this.size);
    if (durable) this.sync();
    this.size += bytes.length;
  }
  commit(changes: ReadonlyMap<string, Buffer | undefined>, durable = true): void {
    if (this.broken) throw this.broken;
    try {
      this.put(changes, durable);
    } catch (e) {
      this.broken = e;
      throw e;
    }
  }

  /** All records into the other area; the header of the next generation makes it so. */
  private rewrite(): void {
    const old = this.header;
    const salt = this.key ? randomBytes(16) : old.salt;
    const check = this.key ? keyCheck(this.key, salt) : old.check;
    this.header = { ...old, generation: old.generation + 1n, area: old.area ^ 1, salt, check };
    if (this.key) this.cipher = new Seal(this.key, salt);
    const whole = this.frame(this.records);
    if (whole.length > this.header.areaBytes)
      throw new StoreError(
        'TPM_STATE',
        `the records need ${whole.length} octets, there is room for ${this.header.areaBytes}`,
      );
    this.write(whole, this.areaAt(this.header.area));
    this.sync();
    this.write(encodeHeader(this.header), Number(this.header.generation & 1n) * headerBytes);
    this.sync();
    this.size = whole.length;
    this.runSlot = 0;
  }

  private sync(): void {
    if (this.syncs) fdatasyncSync(this.fd);
  }
  private areaAt(area: number): number {
    return runAt(2) + area * this.header.areaBytes;
  }
  private write(bytes: Buffer, at: number): void {
    for (let done = 0; done < bytes.length; ) {
      done += writeSync(this.fd, bytes, done, bytes.length - done, at + done);
    }
  }
  /** Up to `length` octets; zeros where the file ends before. */
  private read(at: number, length: number): Buffer {
    const out = Buffer.alloc(Math.max(0, Math.min(length, fstatSync(this.fd).size - at)));
    for (let done = 0; done < out.length; ) {
      const n = readSync(this.fd, out, done, out.length - done, at + done);
      if (n === 0) break;
      done += n;
    }
    return out;
  }

  close(): void {
    closeSync(this.fd);
  }
}

function syncDir(dir: string): void {
  const fd = openSync(dir, 'r');
  fsyncSync(fd);
  closeSync(fd);
}
