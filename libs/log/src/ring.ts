/**
 * The log of a device process: the last 10,000 records in shared memory, so that they survive its death.
 * One writer (the process), any number of readers (the supervisor), which trust nothing that they read.
 * This file loads nothing but the layout library: device processes import `@nyx/log/ring`.
 */
import { array, Memory, pad, struct, u8, u16, u32, u64, type View, view } from '@nyx/layout';
import { type Level, levels } from './levels.ts';

const TEXT_BYTES = 208;
const COMPONENT_BYTES = 16;
/** The bytes 'NYXL', little-endian. */
const MAGIC = 0x4c58594e;
const VERSION = 1;
const HEADER_BYTES = 4096;
export const logRecords = 10_000;

export const LogHeader = struct(
  'LogHeader',
  {
    magic: u32(),
    version: u32(),
    records: u32('slots'),
    recordBytes: u32(),
    last: u64('sequence of the newest complete record; sequences start at 1'),
    pad0: pad(40),
  },
  { bytes: 64 },
);

export const LogRecord = struct(
  'LogRecord',
  {
    seq: u64('0 while the record is being written; stored last'),
    hostMs: u64('UTC milliseconds'),
    guestNs: u64(),
    level: u8('index in levels'),
    truncated: u8('1: the text was longer'),
    length: u16('bytes of text'),
    pad0: pad(4),
    component: array('u8', COMPONENT_BYTES, 'UTF-8, NUL-padded'),
    text: array('u8', TEXT_BYTES, 'UTF-8'),
  },
  { bytes: 256 },
);

export interface LogEntry {
  readonly seq: number;
  readonly level: Level;
  readonly component: string;
  readonly text: string;
  readonly truncated: boolean;
  /** UTC milliseconds. */
  readonly hostMs: number;
  readonly guestNs: number;
}

/** Bytes of a log ring memfd. */
export const logRingBytes = HEADER_BYTES + logRecords * LogRecord.bytes;

const at = (seq: number): number => HEADER_BYTES + ((seq - 1) % logRecords) * LogRecord.bytes;

const fail = (message: string): never => {
  throw Object.assign(new Error(message), { code: 'LOG_FORMAT' });
};

export class LogWriter {
  readonly #memory: Memory;
  readonly #header: View<typeof LogHeader>;
  readonly #record: View<typeof LogRecord>;
  readonly #scratch = new Uint8Array(TEXT_BYTES);
  readonly #components = new Map<string, Uint8Array>();
  readonly #encoder = new TextEncoder();
  readonly #now: () => number;
  #seq: number;

  /**
   * Formats a zeroed buffer, or continues behind the newest record of a predecessor.
   * @param now UTC milliseconds
   * @throws Error with code LOG_FORMAT when the buffer is too small
   */
  constructor(buffer: ArrayBuffer, now: () => number = Date.now) {
    if (buffer.byteLength < logRingBytes)
      fail(`a log ring needs ${logRingBytes} bytes, got ${buffer.byteLength}`);
    this.#memory = new Memory(buffer);
    this.#header = view(LogHeader, this.#memory);
    this.#record = view(LogRecord, this.#memory);
    this.#now = now;
    const h = this.#header;
    if (
      h.magic !== MAGIC ||
      h.version !== VERSION ||
      h.records !== logRecords ||
      h.recordBytes !== LogRecord.bytes
    ) {
      this.#memory.u8.fill(0, 0, logRingBytes);
      h.version = VERSION;
      h.records = logRecords;
      h.recordBytes = LogRecord.bytes;
      h.magic = MAGIC;
    }
    this.#seq = Number.isSafeInteger(h.last) ? h.last : 0;
  }

  write(level: Level, component: string, text: string, guestNs = 0): void {
    const seq = ++this.#seq;
    const base = at(seq);
    const { read, written } = this.#encoder.encodeInto(text, this.#scratch);
    const r = this.#record;
    r.$root.base = base;
    r.seqLo = 0;
    r.seqHi = 0;
    r.hostMs = this.#now();
    r.guestNs = guestNs;
    r.level = levels.indexOf(level);
    r.truncated = read < text.length ? 1 : 0;
    r.length = written;
    const bytes = this.#memory.u8;
    bytes.set(this.#component(component), base + LogRecord.offsetOf('component'));
    bytes.set(this.#scratch, base + LogRecord.offsetOf('text'));
    r.seqHi = Math.floor(seq / 4294967296);
    Atomics.store(this.#memory.u32, base >> 2, seq >>> 0);
    this.#header.last = seq;
  }

  #component(name: string): Uint8Array {
    let bytes = this.#components.get(name);
    if (bytes === undefined) {
      bytes = new Uint8Array(COMPONENT_BYTES);
      this.#encoder.encodeInto(name, bytes);
      this.#components.set(name, bytes);
    }
    return bytes;
  }
}

export class LogReader {
  readonly #memory: Memory;
  readonly #header: View<typeof LogHeader>;
  readonly #decoder = new TextDecoder();
  readonly #copy = new Memory(new ArrayBuffer(LogRecord.bytes));
  readonly #record = view(LogRecord, this.#copy);

  /** @throws Error with code LOG_FORMAT when the buffer is too small for a log ring. */
  constructor(buffer: ArrayBuffer) {
    if (buffer.byteLength < logRingBytes)
      fail(`a log ring has ${logRingBytes} bytes, got ${buffer.byteLength}`);
    this.#memory = new Memory(buffer);
    this.#header = view(LogHeader, this.#memory);
  }

  /** Sequence of the newest record; 0: none. What a hostile writer put there, if it is not a sequence, counts as 0. */
  get last(): number {
    const { magic, last } = this.#header;
    return magic === MAGIC && Number.isSafeInteger(last) ? last : 0;
  }

  /** Intact records behind `after`, oldest first. Records that were overwritten or torn are left out. */
  read(after = 0): LogEntry[] {
    const last = this.last;
    const entries: LogEntry[] = [];
    for (let seq = Math.max(1, after + 1, last - logRecords + 1); seq <= last; seq++) {
      const entry = this.#read(seq);
      if (entry) entries.push(entry);
    }
    return entries;
  }

  #read(seq: number): LogEntry | undefined {
    const base = at(seq);
    const { u8: bytes, u32: words } = this.#memory;
    this.#copy.u8.set(bytes.subarray(base, base + LogRecord.bytes));
    const r = this.#record;
    // The writer may have begun to overwrite it while we copied.
    if (r.seq !== seq || Atomics.load(words, base >> 2) !== seq >>> 0) return undefined;
    const level = levels[r.level];
    if (level === undefined || r.length > TEXT_BYTES || !Number.isSafeInteger(r.hostMs)) return undefined;
    const text = this.#slice(r.text.byteOffset, r.length);
    const component = this.#slice(r.component.byteOffset, COMPONENT_BYTES).replace(/\0.*$/s, '');
    return {
      seq,
      level,
      component,
      text,
      truncated: r.truncated !== 0,
      hostMs: r.hostMs,
      guestNs: r.guestNs,
    };
  }

  #slice(offset: number, length: number): string {
    return this.#decoder.decode(this.#copy.u8.subarray(offset, offset + length));
  }
}
