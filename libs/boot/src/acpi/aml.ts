/**
 * A small assembler for AML (ACPI specification 6.4, chapter 20). A term is its bytes; every function returns one, and
 * they nest as ASL does.
 */
export type Aml = Uint8Array;

export const cat = (...parts: readonly (Uint8Array | readonly number[])[]): Aml => {
  const out = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const p of parts) {
    out.set(p, at);
    at += p.length;
  }
  return out;
};

/** `value` in `bytes` little-endian bytes; exact below 2^53. */
export function le(value: number, bytes: number): number[] {
  const out: number[] = [];
  for (let i = 0, rest = value; i < bytes; i++, rest = Math.floor(rest / 256)) out.push(rest % 256);
  return out;
}

export const ascii = (text: string): number[] => Array.from(text, (c) => c.charCodeAt(0));

/** PkgLength (20.2.4) in front of `body`; it counts itself. */
function packaged(body: Uint8Array): Aml {
  if (body.length + 1 < 0x40) return cat([body.length + 1], body);
  for (let extra = 1; extra <= 3; extra++) {
    const total = body.length + 1 + extra;
    if (total < 1 << (4 + 8 * extra)) return cat([(extra << 6) | (total & 15)], le(total >>> 4, extra), body);
  }
  throw new RangeError(`AML package of ${body.length} bytes`);
}

/** NameString (20.2.2): "\\_SB.PCI0", "^FOO_", "COM1"; short segments are filled with '_'. */
export function path(text: string): Aml {
  const prefix = /^[\\^]*/.exec(text)![0];
  const segments = text.slice(prefix.length).split('.').filter(Boolean);
  for (const s of segments)
    if (!/^[A-Z_][A-Z0-9_]{0,3}$/.test(s)) throw new RangeError(`'${s}' is not an ACPI name`);
  const names = segments.flatMap((s) => ascii(s.padEnd(4, '_')));
  const head =
    segments.length === 0
      ? [0x00]
      : segments.length === 1
        ? []
        : segments.length === 2
          ? [0x2e]
          : [0x2f, segments.length];
  return cat(ascii(prefix), head, names);
}

/** Integer constant in its shortest form. */
export function int(value: number): Aml {
  if (value === 0) return cat([0x00]);
  if (value === 1) return cat([0x01]);
  if (value < 0x100) return cat([0x0a, value]);
  if (value < 0x1_0000) return cat([0x0b], le(value, 2));
  if (value < 0x1_0000_0000) return cat([0x0c], le(value, 4));
  return cat([0x0e], le(value, 8));
}

export const string = (text: string): Aml => cat([0x0d], ascii(text), [0]);

/** A compressed EISA identifier such as "PNP0A08" (19.3.4). */
export function eisaId(id: string): Aml {
  const letters = ascii(id.slice(0, 3)).map((c) => c - 0x40);
  const value =
    (letters[0]! << 26) | (letters[1]! << 21) | (letters[2]! << 16) | Number.parseInt(id.slice(3), 16);
  return cat([0x0c], le(value >>> 0, 4).reverse());
}

type Value = number | string | Aml;
const term = (v: Value): Aml => (typeof v === 'number' ? int(v) : typeof v === 'string' ? string(v) : v);

export const name = (n: string, value: Value): Aml => cat([0x08], path(n), term(value));
export const scope = (n: string, ...body: Aml[]): Aml => cat([0x10], packaged(cat(path(n), ...body)));
export const device = (n: string, ...body: Aml[]): Aml => cat([0x5b, 0x82], packaged(cat(path(n), ...body)));
/** A method; serialized, since ours create named fields. */
export const method = (n: string, args: number, ...body: Aml[]): Aml =>
  cat([0x14], packaged(cat(path(n), [args | 8], ...body)));
export const pkg = (...elements: Value[]): Aml =>
  cat([0x12], packaged(cat([elements.length], ...elements.map(term))));
export const buffer = (data: Uint8Array | readonly number[]): Aml =>
  cat([0x11], packaged(cat(int(data.length), data)));

export const arg = (n: number): Aml => cat([0x68 + n]);
export const local = (n: number): Aml => cat([0x60 + n]);
export const ret = (v: Value): Aml => cat([0xa4], term(v));
export const store = (from: Value, to: Aml): Aml => cat([0x70], term(from), to);
export const and = (a: Value, b: Value, to: Aml): Aml => cat([0x7b], term(a), term(b), to);
export const or = (a: Value, b: Value, to: Aml): Aml => cat([0x7d], term(a), term(b), to);
export const equal = (a: Value, b: Value): Aml => cat([0x93], term(a), term(b));
export const not = (a: Value): Aml => cat([0x92], term(a));
export const when = (condition: Aml, ...body: Aml[]): Aml => cat([0xa0], packaged(cat(condition, ...body)));
export const otherwise = (...body: Aml[]): Aml => cat([0xa1], packaged(cat(...body)));
export const dwordField = (source: Aml, at: number, n: string): Aml => cat([0x8a], source, int(at), path(n));

export const plus = (a: Value, b: Value): Aml => cat([0x72], term(a), term(b), [0x00]);
export const less = (a: Value, b: Value): Aml => cat([0x95], term(a), term(b));
/** A place in a package; `element` is what is there. */
export const place = (packageOf: Aml, n: number): Aml => cat([0x88], packageOf, int(n), [0x00]);
export const element = (packageOf: Aml, n: number): Aml => cat([0x83], place(packageOf, n));
export const call = (n: string, ...args: Value[]): Aml => cat(path(n), ...args.map(term));

/** A range of memory, and fields one after the other in it that are reached byte by byte; '' leaves so many bits out. */
export const memoryFields = (
  region: string,
  at: Value,
  bytes: number,
  fields: readonly (readonly [name: string, bits: number])[],
): Aml =>
  cat(
    [0x5b, 0x80],
    path(region),
    [0x00],
    term(at),
    int(bytes),
    [0x5b, 0x81],
    packaged(
      cat(
        path(region),
        [0x01],
        ...fields.map(([n, bits]) =>
          cat(n === '' ? [0x00] : path(n), bits < 0x40 ? [bits] : [0x40 | (bits & 15), bits >>> 4]),
        ),
      ),
    ),
  );

/** A UUID as ToUUID() stores it: the first three groups little-endian. */
export function uuid(text: string): Aml {
  const hex = text.replaceAll('-', '');
  const bytes = Array.from({ length: 16 }, (_, i) => Number.parseInt(hex.slice(i * 2, i * 2 + 2), 16));
  return buffer([3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].map((i) => bytes[i]!));
}
