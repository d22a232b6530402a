/**
 * The protocol of network block devices (NetworkBlockDevice/nbd, doc/proto.md): numbers, and the fixed newstyle handshake of a
 * client. All numbers are big-endian. The server is not trusted.
 */
import { readSync, writeSync } from 'node:fs';
import { blockError } from '../host.ts';

export const Magic = {
  passwdHi: 0x4e42444d,
  passwdLo: 0x41474943,
  optionHi: 0x49484156,
  optionLo: 0x454f5054,
  optionReplyHi: 0x0003e889,
  optionReplyLo: 0x045565a9,
  request: 0x25609513,
  simpleReply: 0x67446698,
  structuredReply: 0x668e33ef,
} as const;

/** Handshake flags, of the server and of the client. */
const Handshake = { fixedNewstyle: 1, noZeroes: 2 } as const;
const Option = { exportName: 1, go: 7, structuredReply: 8 } as const;
const OptionReply = { ack: 1, info: 3, error: 0x8000_0000, unsupported: 0x8000_0001 } as const;
const Info = { export: 0, blockSize: 3 } as const;

export const Transmission = {
  readOnly: 2,
  flush: 4,
  fua: 8,
  trim: 32,
  writeZeroes: 64,
} as const;

export const Command = { read: 0, write: 1, disconnect: 2, flush: 3, trim: 4, writeZeroes: 6 } as const;
export const CommandFlag = { fua: 1, noHole: 2 } as const;
export const Chunk = { none: 0, data: 1, hole: 2, error: 0x8001, errorOffset: 0x8002 } as const;
export const ReplyFlag = { done: 1 } as const;

export const requestBytes = 28;
/** Bytes of a request where the server does not say otherwise. */
const usualMost = 32 << 20;
const LONGEST = 65536;

/** What a server says of an export. */
export interface Export {
  size: number;
  /** Transmission. */
  flags: number;
  structured: boolean;
  /** Most bytes of a read or write. */
  most: number;
  physicalBytes: number;
}

export const broken = (what: string): Error => blockError('NBD_PROTOCOL', `nbd: ${what}`);
export const gone = (what: string): Error => blockError('NBD_GONE', `nbd: ${what}`);

const pause = new Int32Array(new SharedArrayBuffer(4));

/** A socket that does not block, for a moment as if it did. */
class Wire {
  constructor(
    private readonly fd: number,
    private readonly end: number,
  ) {}

  #wait(): void {
    if (Date.now() > this.end) throw gone('the server does not answer');
    Atomics.wait(pause, 0, 0, 1);
  }
  read(bytes: number): DataView {
    if (bytes > LONGEST) throw broken(`a reply of ${bytes} bytes to an option`);
    const buffer = new Uint8Array(bytes);
    for (let done = 0; done < bytes; ) {
      try {
        const n = readSync(this.fd, buffer, done, bytes - done, null);
        if (n === 0) throw gone('the server closed the connection');
        done += n;
      } catch (e) {
        if ((e as { code?: string }).code !== 'EAGAIN') throw e;
        this.#wait();
      }
    }
    return new DataView(buffer.buffer);
  }
  write(...parts: (number[] | Uint8Array)[]): void {
    const bytes = Buffer.concat(parts.map((p) => Buffer.from(p)));
    for (let done = 0; done < bytes.length; ) {
      try {
        done += writeSync(this.fd, bytes, done, bytes.length - done);
      } catch (e) {
        if ((e as { code?: string }).code !== 'EAGAIN') throw e;
        this.#wait();
      }
    }
  }
}

const u16 = (n: number): number[] => [(n >> 8) & 0xff, n & 0xff];
const u32 = (n: number): number[] => [...u16(n >>> 16), ...u16(n & 0xffff)];

const option = (w: Wire, type: number, data: Uint8Array): void =>
  w.write(u32(Magic.optionHi), u32(Magic.optionLo), u32(type), u32(data.length), data);

/** @returns type and data of a reply to an option. @throws NBD_PROTOCOL, NBD_GONE */
function optionReply(w: Wire, type: number): { type: number; data: DataView } {
  const head = w.read(20);
  if (
    head.getUint32(0) !== Magic.optionReplyHi ||
    head.getUint32(4) !== Magic.optionReplyLo ||
    head.getUint32(8) !== type
  )
    throw broken('a reply to an option that was not sent');
  return { type: head.getUint32(12), data: w.read(head.getUint32(16)) };
}

const textOf = (v: DataView): string => new TextDecoder().decode(v).slice(0, 200);

const sizeOf = (v: DataView, at: number): number => {
  const n = v.getUint32(at) * 4294967296 + v.getUint32(at + 4);
  if (n > Number.MAX_SAFE_INTEGER) throw broken(`an export of ${n} bytes`);
  return n;
};

/**
 * Agrees with the server on an export; blocks for at most `timeoutMs`.
 * @param fd a connected socket that does not block, from which nothing was read
 * @throws NBD_PROTOCOL, NBD_GONE, NBD_EXPORT, or the host's error
 */
export function handshake(fd: number, exportName: string, timeoutMs: number): Export {
  const w = new Wire(fd, Date.now() + timeoutMs);
  const hello = w.read(18);
  if (hello.getUint32(0) !== Magic.passwdHi || hello.getUint32(4) !== Magic.passwdLo)
    throw broken('this is no NBD server');
  if (hello.getUint32(8) !== Magic.optionHi || hello.getUint32(12) !== Magic.optionLo)
    throw broken('the server speaks the oldstyle protocol only');
  const theirs = hello.getUint16(16);
  if (!(theirs & Handshake.fixedNewstyle))
    throw broken('the server does not speak the fixed newstyle protocol');
  const noZeroes = theirs & Handshake.noZeroes;
  w.write(u32(Handshake.fixedNewstyle | noZeroes));

  option(w, Option.structuredReply, new Uint8Array());
  const structured = optionReply(w, Option.structuredReply).type === OptionReply.ack;

  const name = new TextEncoder().encode(exportName);
  const found: Export = { size: -1, flags: 0, structured, most: usualMost, physicalBytes: 4096 };
  option(w, Option.go, Uint8Array.from([...u32(name.length), ...name, ...u16(1), ...u16(Info.blockSize)]));
  for (let replies = 0; ; replies++) {
    if (replies > 64) throw broken('a server that does not come to an end');
    const { type, data } = optionReply(w, Option.go);
    if (type === OptionReply.ack) {
      if (found.size < 0) throw broken('a server that does not tell the size of the export');
      return found;
    }
    if (type === OptionReply.unsupported) break;
    if (type >= OptionReply.error)
      throw blockError(
        'NBD_EXPORT',
        `nbd: export '${exportName}': ${textOf(data) || `error ${type & 0xff}`}`,
      );
    if (type !== OptionReply.info || data.byteLength < 2) continue;
    const info = data.getUint16(0);
    if (info === Info.export && data.byteLength >= 12) {
      found.size = sizeOf(data, 2);
      found.flags = data.getUint16(10);
    } else if (info === Info.blockSize && data.byteLength >= 14) {
      const [least, preferred, most] = [data.getUint32(2), data.getUint32(6), data.getUint32(10)];
      if (least > 512) throw broken(`a server that wants blocks of ${least} bytes, more than a sector`);
      if (preferred >= 512 && preferred <= 1 << 20) found.physicalBytes = preferred;
      if (most >= 65536) found.most = Math.min(most, usualMost);
    }
  }
  // A server from before NBD_OPT_GO.
  option(w, Option.exportName, name);
  const answer = w.read(noZeroes ? 10 : 134);
  found.size = sizeOf(answer, 0);
  found.flags = answer.getUint16(8);
  return found;
}
