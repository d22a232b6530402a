/** DER (X.690) as far as certificates need it: writing, and reading of one element after the other. */

function element(tag: number, ...content: Uint8Array[]): Buffer {
  const body = Buffer.concat(content);
  const n = body.length;
  const length = n < 0x80 ? [n] : n < 0x100 ? [0x81, n] : n < 0x10000 ? [0x82, n >> 8, n & 255] : undefined;
  if (!length) throw new RangeError('a DER element of 64 KiB');
  return Buffer.concat([Buffer.from([tag, ...length]), body]);
}

export const sequence = (...content: Uint8Array[]): Buffer => element(0x30, ...content);
export const set = (...content: Uint8Array[]): Buffer => element(0x31, ...content);
/** [n] EXPLICIT, or IMPLICIT of a constructed type. */
export const context = (n: number, ...content: Uint8Array[]): Buffer => element(0xa0 + n, ...content);
/** [n] IMPLICIT of a primitive type. */
export const contextPrimitive = (n: number, content: Uint8Array): Buffer => element(0x80 + n, content);
export const octetString = (content: Uint8Array): Buffer => element(4, content);
export const utf8 = (text: string): Buffer => element(12, Buffer.from(text));
export const bool = (v: boolean): Buffer => element(1, Buffer.of(v ? 0xff : 0));
export const nil = Buffer.of(5, 0);

/** A number from 0 that is not negative, big-endian. */
export function integer(value: number | Uint8Array): Buffer {
  let b = typeof value === 'number' ? Buffer.alloc(4) : Buffer.from(value);
  if (typeof value === 'number') b.writeUInt32BE(value);
  while (b.length > 1 && b[0] === 0) b = b.subarray(1);
  return element(2, b.length === 0 || b[0]! & 0x80 ? Buffer.of(0) : Buffer.alloc(0), b);
}

/** Whole octets, of the last of which `unused` bits do not count. */
export const bitString = (content: Uint8Array, unused = 0): Buffer => element(3, Buffer.of(unused), content);

export function oid(text: string): Buffer {
  const [first = 0, second = 0, ...rest] = text.split('.').map(Number);
  const octets: number[] = [];
  for (const part of [first * 40 + second, ...rest]) {
    const groups = [part & 127];
    for (let v = Math.floor(part / 128); v > 0; v = Math.floor(v / 128)) groups.unshift((v & 127) | 128);
    octets.push(...groups);
  }
  return element(6, Buffer.from(octets));
}

/** UTCTime until 2049, GeneralizedTime from then (RFC 5280, 4.1.2.5). */
export function time(at: Date): Buffer {
  const text = at.toISOString().replace(/[-:T]|\.\d+/g, '');
  const utc = at.getUTCFullYear() < 2050;
  return element(utc ? 0x17 : 0x18, Buffer.from(utc ? text.slice(2) : text));
}

export interface Element {
  tag: number;
  /** With tag and length; without. */
  whole: Buffer;
  content: Buffer;
}
/** The elements that fill `b`; undefined when it is not that. */
export function elements(b: Buffer): Element[] | undefined {
  const out: Element[] = [];
  for (let at = 0; at < b.length; ) {
    const tag = b[at]!;
    let length = b[at + 1] ?? 0x100;
    let head = 2;
    // No element here is longer than a command; longer tags are not for certificates.
    if ((tag & 0x1f) === 0x1f) return undefined;
    if (length === 0x81) {
      length = b[at + 2] ?? 0x100;
      head = 3;
    } else if (length === 0x82) {
      if (at + 4 > b.length) return undefined;
      length = b.readUInt16BE(at + 2);
      head = 4;
    } else if (length >= 0x80) return undefined;
    const end = at + head + length;
    if (end > b.length) return undefined;
    out.push({ tag, whole: b.subarray(at, end), content: b.subarray(at + head, end) });
    at = end;
  }
  return out;
}
