/**
 * Structures as data. One ordered table of fields gives the typed view that TypeScript code uses, the C++
 * header that the vCPU process compiles (`cpp.ts`), the layout hash that guards a state block against a
 * process with another idea of it, and the value ranges that random tests draw from.
 *
 * Little-endian, naturally aligned: a field that would not be aligned is an error at definition, and padding
 * is written out (`pad`), so that a table reads like the memory it describes.
 */

export type ScalarType = 'u8' | 'u16' | 'u32' | 'u64';

export interface FieldOptions {
  /** What the field means, with its unit. Ends up in the C++ header. */
  doc?: string;
  /** Smallest legal value; validation of a state block at attach uses it. */
  min?: number;
  /** Largest legal value. */
  max?: number;
  /** Value after power-on (default 0). */
  reset?: number;
}

export interface ScalarField<T extends ScalarType = ScalarType> extends FieldOptions {
  readonly kind: 'scalar';
  readonly type: T;
}
export interface ArrayField extends FieldOptions {
  readonly kind: 'array';
  readonly type: Exclude<ScalarType, 'u64'>;
  readonly count: number;
}
export interface StructField<S extends Struct = Struct> {
  readonly kind: 'struct';
  readonly struct: S;
  readonly count: number;
  readonly doc?: string;
}
export interface PadField {
  readonly kind: 'pad';
  readonly bytes: number;
}
export type Field = ScalarField | ArrayField | StructField | PadField;
export type Fields = Record<string, Field>;

export const u8 = (doc = '', o: FieldOptions = {}): ScalarField<'u8'> => ({
  kind: 'scalar',
  type: 'u8',
  doc,
  ...o,
});
export const u16 = (doc = '', o: FieldOptions = {}): ScalarField<'u16'> => ({
  kind: 'scalar',
  type: 'u16',
  doc,
  ...o,
});
export const u32 = (doc = '', o: FieldOptions = {}): ScalarField<'u32'> => ({
  kind: 'scalar',
  type: 'u32',
  doc,
  ...o,
});
/** 64 bits as two halves: the view has `nameLo` and `nameHi`, and `name` as a number (exact below 2^53). */
export const u64 = (doc = '', o: FieldOptions = {}): ScalarField<'u64'> => ({
  kind: 'scalar',
  type: 'u64',
  doc,
  ...o,
});
export const array = (
  type: Exclude<ScalarType, 'u64'>,
  count: number,
  doc = '',
  o: FieldOptions = {},
): ArrayField => ({
  kind: 'array',
  type,
  count,
  doc,
  ...o,
});
export const structs = <S extends Struct>(struct: S, count: number, doc = ''): StructField<S> => ({
  kind: 'struct',
  struct,
  count,
  doc,
});
export const pad = (bytes: number): PadField => ({ kind: 'pad', bytes });

/** A field with its place. */
export interface Placed {
  readonly name: string;
  readonly field: Field;
  readonly offset: number;
  readonly bytes: number;
}

export interface Struct<F extends Fields = Fields> {
  readonly name: string;
  readonly fields: F;
  readonly placed: readonly Placed[];
  readonly bytes: number;
  readonly align: number;
  readonly doc: string;
  /** FNV-1a over names, types and places; two processes with the same hash mean the same bytes. */
  readonly hash: number;
  /** Byte offset of a field. */
  offsetOf(field: keyof F & string): number;
}

const SIZE: Record<ScalarType, number> = { u8: 1, u16: 2, u32: 4, u64: 8 };

const fieldBytes = (f: Field): number =>
  f.kind === 'pad'
    ? f.bytes
    : f.kind === 'scalar'
      ? SIZE[f.type]
      : f.kind === 'array'
        ? SIZE[f.type] * f.count
        : f.struct.bytes * f.count;

const fieldAlign = (f: Field): number =>
  f.kind === 'pad' ? 1 : f.kind === 'struct' ? f.struct.align : SIZE[f.type];

export const fnv1a = (text: string): number => {
  let h = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  return h >>> 0;
};

/**
 * Defines a structure. `bytes`, if given, must be what the fields add up to.
 * @throws Error when a field is not naturally aligned or the sizes do not add up (a mistake in the table).
 */
export function struct<F extends Fields>(
  name: string,
  fields: F,
  opts: { bytes?: number; doc?: string } = {},
): Struct<F> {
  const placed: Placed[] = [];
  let offset = 0;
  let align = 1;
  for (const [fieldName, field] of Object.entries(fields)) {
    const a = fieldAlign(field);
    if (offset % a !== 0)
      throw new Error(
        `${name}.${fieldName}: offset ${offset} is not a multiple of ${a}; add pad(${a - (offset % a)})`,
      );
    align = Math.max(align, a);
    const bytes = fieldBytes(field);
    placed.push({ name: fieldName, field, offset, bytes });
    offset += bytes;
  }
  if (offset % align !== 0)
    throw new Error(
      `${name}: ${offset} bytes is not a multiple of its alignment ${align}; add pad(${align - (offset % align)})`,
    );
  if (opts.bytes !== undefined && opts.bytes !== offset)
    throw new Error(`${name}: fields add up to ${offset} bytes, not ${opts.bytes}`);
  const describe = (p: Placed): string => {
    const f = p.field;
    if (f.kind === 'pad') return `pad${f.bytes}`;
    if (f.kind === 'scalar') return `${p.name}:${f.type}@${p.offset}`;
    if (f.kind === 'array') return `${p.name}:${f.type}x${f.count}@${p.offset}`;
    return `${p.name}:${f.struct.name}#${f.struct.hash}x${f.count}@${p.offset}`;
  };
  const byName = new Map(placed.map((p) => [p.name, p]));
  return {
    name,
    fields,
    placed,
    bytes: offset,
    align,
    doc: opts.doc ?? '',
    hash: fnv1a(`${name}|${placed.map(describe).join('|')}|${offset}`),
    offsetOf(field) {
      return (byName.get(field) as Placed).offset;
    },
  };
}
