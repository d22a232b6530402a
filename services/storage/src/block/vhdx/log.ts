/**
 * The log (2.3): metadata reach the file twice. An entry holds sectors of 4 KiB as they are to become; when it is stable
 * they are written in place. Whoever opens an image whose header names a log replays its newest valid sequence of entries.
 */
import { type HostIo, readPadded, writeAll } from '../host.ts';
import {
  cannot,
  checksum,
  corrupt,
  Guid,
  guidAt,
  Limit,
  put64,
  putGuid,
  SECTOR,
  Signature,
  seal,
  u64,
} from './format.ts';
import type { FileHeader } from './header.ts';

const HEADER = 64;
const DESCRIPTOR = 32;

/** A range of the file, as it is to become: 4 KiB of content, or zeroes. */
export type Change = { position: number; content: Uint8Array } | { position: number; zeroes: number };

interface Entry {
  bytes: number;
  tail: number;
  sequence: number;
  flushedBytes: number;
  lastBytes: number;
  changes: Change[];
}

class LogReader {
  readonly #bytes: Uint8Array;
  /** Bytes that may still be summed: entries that lie about their length cost no more than reading the log some times. */
  #budget: number;

  constructor(
    log: ArrayBuffer,
    private readonly guid: string,
  ) {
    this.#bytes = new Uint8Array(log);
    this.#budget = 4 * log.byteLength;
  }

  /** A copy of a range that may go around the end. */
  #range(at: number, bytes: number): DataView {
    const copy = new Uint8Array(bytes);
    const first = Math.min(bytes, this.#bytes.length - at);
    copy.set(this.#bytes.subarray(at, at + first));
    copy.set(this.#bytes.subarray(0, bytes - first), first);
    return new DataView(copy.buffer);
  }

  /** The entry at an offset, undefined without a valid one. */
  entry(at: number): Entry | undefined {
    const size = this.#bytes.length;
    const head = new DataView(this.#bytes.buffer, at, HEADER);
    const bytes = head.getUint32(8, true);
    if (
      head.getUint32(0, true) !== Signature.logEntry ||
      guidAt(head, 32) !== this.guid ||
      bytes % SECTOR !== 0 ||
      bytes < SECTOR ||
      bytes > size
    )
      return undefined;
    if (bytes > this.#budget) throw corrupt('the log has too many entries that are damaged');
    this.#budget -= bytes;
    const v = this.#range(at, bytes);
    if (checksum(v) !== v.getUint32(4, true)) return undefined;
    const tail = v.getUint32(12, true);
    const [low, high] = [v.getUint32(16, true), v.getUint32(20, true)];
    const sequence = high * 4294967296 + low;
    const count = v.getUint32(24, true);
    const described = Math.ceil((HEADER + count * DESCRIPTOR) / SECTOR) * SECTOR;
    if (tail % SECTOR !== 0 || tail >= size || sequence === 0 || described > bytes) return undefined;
    const changes: Change[] = [];
    for (let i = 0, data = described; i < count; i++) {
      const d = HEADER + i * DESCRIPTOR;
      if (v.getUint32(d + 24, true) !== low || v.getUint32(d + 28, true) !== high) return undefined;
      const position = u64(v, d + 16, 'a place in the log');
      if (position % SECTOR !== 0) return undefined;
      if (v.getUint32(d, true) === Signature.zeroDescriptor) {
        const zeroes = u64(v, d + 8, 'a length in the log');
        if (zeroes % SECTOR !== 0) return undefined;
        changes.push({ position, zeroes });
        continue;
      }
      if (v.getUint32(d, true) !== Signature.dataDescriptor || data + SECTOR > bytes) return undefined;
      if (
        v.getUint32(data, true) !== Signature.dataSector ||
        v.getUint32(data + 4, true) !== high ||
        v.getUint32(data + SECTOR - 4, true) !== low
      )
        return undefined;
      // Its first eight and last four bytes are in the descriptor: their places in the sector tell whether it is whole.
      const content = new Uint8Array(v.buffer.slice(data, data + SECTOR) as ArrayBuffer);
      content.set(new Uint8Array(v.buffer, d + 8, 8), 0);
      content.set(new Uint8Array(v.buffer, d + 4, 4), SECTOR - 4);
      changes.push({ position, content });
      data += SECTOR;
    }
    return {
      bytes,
      tail,
      sequence,
      changes,
      flushedBytes: u64(v, 48, 'a size'),
      lastBytes: u64(v, 56, 'a size'),
    };
  }

  /** 2.3.3: the newest sequence of entries whose tail is in it. */
  active(): Entry[] {
    const size = this.#bytes.length;
    let best: Entry[] = [];
    for (let start = 0; start < size; ) {
      const list: Entry[] = [];
      const places: number[] = [];
      let at = start;
      let used = 0;
      for (;;) {
        const e = used < size ? this.entry(at) : undefined;
        if (e === undefined || used + e.bytes > size) break;
        if (list.length > 0 && e.sequence !== list.at(-1)!.sequence + 1) break;
        list.push(e);
        places.push(at);
        used += e.bytes;
        at = (at + e.bytes) % size;
      }
      const last = list.at(-1);
      if (last !== undefined && last.sequence > (best.at(-1)?.sequence ?? 0)) {
        const tail = places.indexOf(last.tail);
        if (tail >= 0) best = list.slice(tail);
      }
      start = used === 0 ? start + SECTOR : start + used;
    }
    return best;
  }
}

export interface Replay {
  changes: Change[];
  /** Bytes that the file must have afterwards. */
  bytes: number;
}

/** What the log says that is not yet in its place. @throws VHDX_CORRUPT, VHDX_UNSUPPORTED */
export function readLog(io: HostIo, fd: number, h: FileHeader): Replay | undefined {
  if (h.logGuid === Guid.none || h.logBytes === 0) return undefined;
  if (h.logBytes > Limit.replayedLog)
    throw cannot(`a log of ${h.logBytes} bytes that must be replayed, at most ${Limit.replayedLog}`);
  const log = new ArrayBuffer(h.logBytes);
  readPadded(io, fd, log, 0, h.logBytes, h.logOffset);
  const entries = new LogReader(log, h.logGuid).active();
  if (entries.length === 0) return undefined;
  const size = io.size(fd);
  const { flushedBytes, lastBytes } = entries.at(-1)!;
  if (size < flushedBytes)
    throw corrupt(`the file has ${size} bytes, it had ${flushedBytes} when its log was written: it was cut`);
  const bytes = Math.max(size, lastBytes);
  if (bytes > 2 * Limit.size) throw corrupt(`a file of ${bytes} bytes, says the log`);
  const changes = entries.flatMap((e) => e.changes);
  for (const c of changes) {
    const end = c.position + ('content' in c ? SECTOR : c.zeroes);
    if (end > bytes) throw corrupt(`the log writes to ${end}, behind the end of the file (${bytes})`);
  }
  return { changes, bytes };
}

/** Puts it in its places and makes it stable. Doing it again changes nothing. */
export function replay(io: HostIo, fd: number, r: Replay): void {
  if (r.bytes > io.size(fd)) io.truncate(fd, r.bytes);
  const none = new ArrayBuffer(1 << 16);
  for (const c of r.changes) {
    if ('content' in c) writeAll(io, fd, c.content.buffer as ArrayBuffer, 0, SECTOR, c.position);
    else
      for (let done = 0; done < c.zeroes; done += none.byteLength)
        writeAll(io, fd, none, 0, Math.min(none.byteLength, c.zeroes - done), c.position + done);
  }
  io.fdatasync(fd);
}

/** Sectors that one entry takes at most, whatever the size of the log: a quarter of the smallest one. */
export const mostSectors = 60;

/** Writes entries, one at a time: when one is written, what the one before protected is in its place. */
export class LogWriter {
  #at = 0;
  #sequence = 1;

  constructor(
    private readonly io: HostIo,
    private readonly fd: number,
    private readonly header: FileHeader,
  ) {}

  /** Not yet stable. @param sectors at most `mostSectors` */
  write(sectors: readonly { position: number; content: Uint8Array }[]): void {
    const { io, fd, header } = this;
    const described = Math.ceil((HEADER + sectors.length * DESCRIPTOR) / SECTOR) * SECTOR;
    const bytes = described + sectors.length * SECTOR;
    if (this.#at + bytes > header.logBytes) this.#at = 0;
    const v = new DataView(new ArrayBuffer(bytes));
    const all = new Uint8Array(v.buffer);
    const sequence = this.#sequence++;
    const size = io.size(fd);
    v.setUint32(0, Signature.logEntry, true);
    v.setUint32(8, bytes, true);
    v.setUint32(12, this.#at, true);
    put64(v, 16, sequence);
    v.setUint32(24, sectors.length, true);
    putGuid(v, 32, header.logGuid);
    put64(v, 48, size);
    put64(v, 56, size);
    for (const [i, { position, content }] of sectors.entries()) {
      const d = HEADER + i * DESCRIPTOR;
      const data = described + i * SECTOR;
      v.setUint32(d, Signature.dataDescriptor, true);
      all.set(content.subarray(SECTOR - 4), d + 4);
      all.set(content.subarray(0, 8), d + 8);
      put64(v, d + 16, position);
      put64(v, d + 24, sequence);
      all.set(content, data);
      v.setUint32(data, Signature.dataSector, true);
      v.setUint32(data + 4, Math.floor(sequence / 4294967296), true);
      v.setUint32(data + SECTOR - 4, sequence >>> 0, true);
    }
    seal(v);
    writeAll(io, fd, v.buffer as ArrayBuffer, 0, bytes, header.logOffset + this.#at);
    this.#at = (this.#at + bytes) % header.logBytes;
  }
}
