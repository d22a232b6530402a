/**
 * Marshalling (part 2, 4 and 5) generated from descriptions: a structure is an ordered table of fields, each with a
 * codec; reading checks what the specification says of the type and refuses with its response code.
 */
import { RC } from './constants.ts';
import { Refusal, refuse } from './refusal.ts';

export class Reader {
  readonly buf: Buffer;
  pos: number;
  end: number;
  constructor(buf: Buffer, pos = 0, end = buf.length) {
    this.buf = buf;
    this.pos = pos;
    this.end = end;
  }
  get left(): number {
    return this.end - this.pos;
  }
  private take(n: number): number {
    const at = this.pos;
    if (at + n > this.end) refuse(RC.INSUFFICIENT);
    this.pos = at + n;
    return at;
  }
  u8(): number {
    return this.buf[this.take(1)]!;
  }
  u16(): number {
    return this.buf.readUInt16BE(this.take(2));
  }
  u32(): number {
    return this.buf.readUInt32BE(this.take(4));
  }
  u64(): bigint {
    return this.buf.readBigUInt64BE(this.take(8));
  }
  bytes(n: number): Buffer {
    const at = this.take(n);
    return copyOf(this.buf, at, at + n);
  }
}

const noOctets = Buffer.alloc(0);
/** Without the view that `Buffer.from(subarray)` makes on the way. */
function copyOf(b: Buffer, from: number, to: number): Buffer {
  if (from === to) return noOctets;
  const out = Buffer.allocUnsafe(to - from);
  // A short one octet by octet: `copy` makes a view first.
  if (to - from <= 64) for (let i = from; i < to; i++) out[i - from] = b[i]!;
  else b.copy(out, 0, from, to);
  return out;
}

/** Views of the first octets of a buffer: making one costs more than all else that is done with a short message. */
export class Prefixes {
  private readonly made: (Buffer | undefined)[] = [];
  readonly of: Buffer;
  constructor(of: Buffer) {
    this.of = of;
  }
  get(length: number): Buffer {
    const have = this.made[length];
    if (have) return have;
    const view = this.of.subarray(0, length);
    if (length < maxPrefix) this.made[length] = view;
    return view;
  }
}
const maxPrefix = 1024;

export class Writer {
  buf: Buffer;
  pos = 0;
  private views: Prefixes | undefined;
  constructor(size = 256) {
    this.buf = Buffer.allocUnsafe(size);
  }
  private room(n: number): number {
    const at = this.pos;
    if (at + n > this.buf.length) {
      const bigger = Buffer.allocUnsafe(Math.max(this.buf.length * 2, at + n));
      this.buf.copy(bigger, 0, 0, at);
      this.buf = bigger;
    }
    this.pos = at + n;
    return at;
  }
  u8(v: number): void {
    const at = this.room(1);
    this.buf[at] = v;
  }
  u16(v: number): void {
    const at = this.room(2);
    this.buf.writeUInt16BE(v, at);
  }
  u32(v: number): void {
    const at = this.room(4);
    this.buf.writeUInt32BE(v >>> 0, at);
  }
  u64(v: bigint): void {
    const at = this.room(8);
    this.buf.writeBigUInt64BE(v, at);
  }
  bytes(b: Uint8Array): void {
    const at = this.room(b.length);
    this.buf.set(b, at);
  }
  /** What was written, until more is; see `done`. The same object for the same length, as long as the memory stays. */
  view(): Buffer {
    if (this.views?.of !== this.buf) this.views = new Prefixes(this.buf);
    return this.views.get(this.pos);
  }
  /** Starts over in the same memory. */
  clear(): this {
    this.pos = 0;
    return this;
  }
  /** What was written; a copy. */
  done(): Buffer {
    return copyOf(this.buf, 0, this.pos);
  }
}

/** `within` is the structure read so far: the selector of a union is in it. */
export interface Codec<T> {
  read(r: Reader, within: Record<string, unknown>): T;
  write(w: Writer, v: T, within: Record<string, unknown>): void;
}
export type TypeOf<C> = C extends Codec<infer T> ? T : never;

const nothing: Record<string, unknown> = {};

export function encode<T>(codec: Codec<T>, v: T): Buffer {
  const w = new Writer();
  codec.write(w, v, nothing);
  return w.done();
}
/** Reads all of `buf`; octets left over are RC.SIZE. */
export function decode<T>(codec: Codec<T>, buf: Buffer): T {
  const r = new Reader(buf);
  const v = codec.read(r, nothing);
  if (r.left > 0) refuse(RC.SIZE);
  return v;
}

export const u8: Codec<number> = { read: (r) => r.u8(), write: (w, v) => w.u8(v) };
export const u16: Codec<number> = { read: (r) => r.u16(), write: (w, v) => w.u16(v) };
export const u32: Codec<number> = { read: (r) => r.u32(), write: (w, v) => w.u32(v) };
export const i32: Codec<number> = { read: (r) => r.u32() | 0, write: (w, v) => w.u32(v) };
export const u64: Codec<bigint> = { read: (r) => r.u64(), write: (w, v) => w.u64(v) };
export const empty: Codec<undefined> = { read: () => undefined, write: () => {} };

/** An integer that must satisfy `ok`; else `rc`. */
export function checked(base: Codec<number>, ok: (v: number) => boolean, rc: number): Codec<number> {
  return {
    read(r, within) {
      const v = base.read(r, within);
      if (!ok(v)) refuse(rc);
      return v;
    },
    write: base.write,
  };
}
export function oneOf(base: Codec<number>, values: readonly number[], rc: number): Codec<number> {
  const set = new Set(values);
  return checked(base, (v) => set.has(v), rc);
}

/** TPM2B_*: a size and so many octets, at most `max`. */
export function sized(max: number): Codec<Buffer> {
  return {
    read(r) {
      const n = r.u16();
      if (n > max) refuse(RC.SIZE);
      return r.bytes(n);
    },
    write(w, v) {
      w.u16(v.length);
      w.bytes(v);
    },
  };
}

/** Exactly `n` octets, or so many as `n` says for the structure they are in. */
export function octets(n: number | ((within: Record<string, unknown>) => number)): Codec<Buffer> {
  return {
    read: (r, within) => r.bytes(typeof n === 'number' ? n : n(within)),
    write: (w, v) => w.bytes(v),
  };
}

/**
 * TPM2B_ of a structure: a size, then the structure of exactly this size. A size of 0 is RC.SIZE, or `undefined`
 * where `optional`.
 */
function wrap<T>(inner: Codec<T>, optional: boolean): Codec<T | undefined> {
  return {
    read(r, within) {
      const n = r.u16();
      if (n === 0) {
        if (optional) return undefined;
        refuse(RC.SIZE);
      }
      // As part 4 does it: what is wrong inside comes first, then whether the size was right.
      const start = r.pos;
      const v = inner.read(r, within);
      if (r.pos - start !== n) refuse(RC.SIZE);
      return v;
    },
    write(w, v, within) {
      const at = w.pos;
      w.u16(0);
      if (v === undefined) return;
      inner.write(w, v, within);
      w.buf.writeUInt16BE(w.pos - at - 2, at);
    },
  };
}
export const sizedOf = <T>(inner: Codec<T>): Codec<T> => wrap(inner, false) as Codec<T>;
export const sizedOptional = <T>(inner: Codec<T>): Codec<T | undefined> => wrap(inner, true);

/** TPML_*: a 32-bit count and so many elements, from `min` to `max`. */
export function list<T>(element: Codec<T>, max: number, min = 0): Codec<T[]> {
  return {
    read(r, within) {
      const n = r.u32();
      if (n > max || n < min) refuse(RC.SIZE);
      const out: T[] = [];
      for (let i = 0; i < n; i++) out.push(element.read(r, within));
      return out;
    },
    write(w, v, within) {
      w.u32(v.length);
      for (const e of v) element.write(w, e, within);
    },
  };
}

// biome-ignore lint/suspicious/noExplicitAny: the field types are inferred from the table
export type Fields = Record<string, Codec<any>>;
export type StructOf<F extends Fields> = { [K in keyof F]: TypeOf<F[K]> };

/** TPMS_/TPMT_: the fields in the order of the table. */
export function struct<F extends Fields>(fields: F): Codec<StructOf<F>> {
  const entries = Object.entries(fields);
  return {
    read(r) {
      const out: Record<string, unknown> = {};
      for (const [name, codec] of entries) out[name] = codec.read(r, out);
      return out as StructOf<F>;
    },
    write(w, v) {
      const all = v as Record<string, unknown>;
      for (const [name, codec] of entries) codec.write(w, all[name], all);
    },
  };
}

// biome-ignore lint/suspicious/noExplicitAny: see Fields
type Arms = Record<number, Codec<any>>;
/** TPMU_*: which arm, says the field `selector` of the structure around it. */
export function union<A extends Arms>(selector: string, arms: A): Codec<TypeOf<A[keyof A]>> {
  const arm = (within: Record<string, unknown>) => arms[within[selector] as number] ?? refuse(RC.SELECTOR);
  return {
    read: (r, within) => arm(within).read(r, within) as TypeOf<A[keyof A]>,
    write: (w, v, within) => arm(within).write(w, v, within),
  };
}

/** Reads `codec` from `buf`; undefined when it is malformed. */
export function tryDecode<T>(codec: Codec<T>, buf: Buffer): T | undefined {
  try {
    return decode(codec, buf);
  } catch (e) {
    if (e instanceof Refusal) return undefined;
    throw e;
  }
}
