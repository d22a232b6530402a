/**
 * Typed views of structures in (shared) memory. The accessors are compiled once per structure: every field
 * is an inlined typed-array access at a constant offset from a movable base, a nanosecond or two each, with
 * no allocation. Moving the base (`root.base = ...`) moves all nested views with it: that is how the two
 * halves of a state block share one view.
 */
import type { ArrayField, Fields, Placed, ScalarField, Struct, StructField } from './struct.ts';

/** One buffer seen at three widths. `buffer.byteLength` must be a multiple of 4. */
export class Memory {
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  constructor(
    readonly buffer: ArrayBuffer | SharedArrayBuffer,
    byteOffset = 0,
    byteLength = buffer.byteLength - byteOffset,
  ) {
    this.u8 = new Uint8Array(buffer, byteOffset, byteLength);
    this.u16 = new Uint16Array(buffer, byteOffset, byteLength >> 1);
    this.u32 = new Uint32Array(buffer, byteOffset, byteLength >> 2);
  }
}

/** The movable origin that a view and its nested views share. */
export class Root {
  constructor(
    readonly mem: Memory,
    public base = 0,
  ) {}
}

export interface ScalarArray {
  readonly length: number;
  /** @throws RangeError outside 0..length-1 (a mistake of the caller, not of the guest). */
  get(index: number): number;
  set(index: number, value: number): void;
  fill(value: number): void;
  /** Offset of element 0 from the base of the structure's root, for bulk copies. */
  readonly byteOffset: number;
}
export interface StructArray<V> {
  readonly length: number;
  at(index: number): V;
}

type FieldView<F> = F extends ScalarField
  ? number
  : F extends ArrayField
    ? ScalarArray
    : F extends StructField<infer S>
      ? StructArray<View<S>>
      : never;
type Readable<F extends Fields> = {
  [K in keyof F as F[K] extends { kind: 'pad' } ? never : K]: FieldView<F[K]>;
};
type Halves<F extends Fields> = {
  [K in keyof F & string as F[K] extends ScalarField<'u64'> ? `${K}Lo` | `${K}Hi` : never]: number;
};
/** The view of a structure: a property per field, and `nameLo`/`nameHi` beside each 64-bit one. */
export type View<S extends Struct> =
  S extends Struct<infer F>
    ? Readable<F> & Halves<F> & { readonly $root: Root; readonly $offset: number }
    : never;

class Scalars implements ScalarArray {
  readonly #shift: number;
  readonly #array: Uint8Array | Uint16Array | Uint32Array;
  constructor(
    readonly root: Root,
    readonly byteOffset: number,
    readonly length: number,
    type: 'u8' | 'u16' | 'u32',
  ) {
    this.#shift = type === 'u8' ? 0 : type === 'u16' ? 1 : 2;
    this.#array = root.mem[type];
  }
  #check(index: number): void {
    if (!(index >= 0 && index < this.length))
      throw new RangeError(`index ${index} outside 0..${this.length - 1}`);
  }
  get(index: number): number {
    this.#check(index);
    return this.#array[((this.root.base + this.byteOffset) >> this.#shift) + index] as number;
  }
  set(index: number, value: number): void {
    this.#check(index);
    this.#array[((this.root.base + this.byteOffset) >> this.#shift) + index] = value;
  }
  fill(value: number): void {
    const at = (this.root.base + this.byteOffset) >> this.#shift;
    this.#array.fill(value, at, at + this.length);
  }
}

class Structs<V> implements StructArray<V> {
  readonly #items: V[];
  constructor(items: V[]) {
    this.#items = items;
  }
  get length(): number {
    return this.#items.length;
  }
  at(index: number): V {
    const item = this.#items[index];
    if (item === undefined) throw new RangeError(`index ${index} outside 0..${this.#items.length - 1}`);
    return item;
  }
}

type ViewClass = new (root: Root, offset: number) => object;
const classes = new WeakMap<Struct, ViewClass>();

function compile(s: Struct): ViewClass {
  const body: string[] = [];
  const init: string[] = [];
  const at = (p: Placed, shift: number, extra = 0): string =>
    `(this.$root.base + this.$offset + ${p.offset + extra})${shift ? ` >>> ${shift}` : ''}`;
  const accessor = (name: string, arr: string, index: string): void => {
    body.push(
      `get ${name}() { return this.${arr}[${index}]; } set ${name}(v) { this.${arr}[${index}] = v; }`,
    );
  };
  for (const p of s.placed) {
    const f = p.field;
    if (f.kind === 'scalar' && f.type !== 'u64')
      accessor(p.name, `$${f.type}`, at(p, f.type === 'u8' ? 0 : f.type === 'u16' ? 1 : 2));
    else if (f.kind === 'scalar') {
      accessor(`${p.name}Lo`, '$u32', at(p, 2));
      accessor(`${p.name}Hi`, '$u32', at(p, 2, 4));
      body.push(`get ${p.name}() { return this.${p.name}Hi * 4294967296 + this.${p.name}Lo; }`);
      body.push(
        `set ${p.name}(v) { const h = Math.floor(v / 4294967296); this.${p.name}Hi = h; this.${p.name}Lo = v - h * 4294967296; }`,
      );
    } else if (f.kind === 'array')
      init.push(`this.${p.name} = new Scalars(root, offset + ${p.offset}, ${f.count}, '${f.type}');`);
    else if (f.kind === 'struct')
      init.push(`this.${p.name} = makeStructs(root, offset + ${p.offset}, ${JSON.stringify(p.name)});`);
  }
  const makeStructs = (root: Root, offset: number, name: string): Structs<unknown> => {
    const f = s.fields[name] as StructField;
    return new Structs(
      Array.from({ length: f.count }, (_, i) => viewAt(f.struct, root, offset + i * f.struct.bytes)),
    );
  };
  const source = `return class ${s.name}View {
    constructor(root, offset) { this.$root = root; this.$offset = offset; this.$u8 = root.mem.u8; this.$u16 = root.mem.u16; this.$u32 = root.mem.u32; ${init.join(' ')} }
    ${body.join('\n    ')}
  };`;
  return new Function('Scalars', 'makeStructs', source)(Scalars, makeStructs) as ViewClass;
}

/** A view of `s` at `root.base + offset`. */
export function viewAt<S extends Struct>(s: S, root: Root, offset = 0): View<S> {
  let cls = classes.get(s);
  if (!cls) {
    cls = compile(s);
    classes.set(s, cls);
  }
  return new cls(root, offset) as View<S>;
}

/** A view of `s` at byte `base` of `memory`. */
export const view = <S extends Struct>(s: S, memory: Memory, base = 0): View<S> =>
  viewAt(s, new Root(memory, base));

/** A view over fresh private memory holding the reset values; for tests and for building messages. */
export function allocate<S extends Struct>(s: S): View<S> {
  const memory = new Memory(new ArrayBuffer((s.bytes + 7) & ~7));
  const v = view(s, memory);
  resetValues(s, memory, 0);
  return v;
}

/** Zeroes `s.bytes` at `base` and writes the reset values of its fields. */
export function resetValues(s: Struct, memory: Memory, base: number): void {
  memory.u8.fill(0, base, base + s.bytes);
  const write = (at: number, type: 'u8' | 'u16' | 'u32' | 'u64', value: number): void => {
    if (type === 'u8') memory.u8[at] = value;
    else if (type === 'u16') memory.u16[at >> 1] = value;
    else {
      memory.u32[at >> 2] = value % 4294967296;
      if (type === 'u64') memory.u32[(at >> 2) + 1] = Math.floor(value / 4294967296);
    }
  };
  for (const p of s.placed) {
    const f = p.field;
    if (f.kind === 'struct')
      for (let i = 0; i < f.count; i++) resetValues(f.struct, memory, base + p.offset + i * f.struct.bytes);
    else if (f.kind !== 'pad' && f.reset) {
      const n = f.kind === 'array' ? f.count : 1;
      for (let i = 0; i < n; i++) write(base + p.offset + (i * p.bytes) / n, f.type, f.reset);
    }
  }
}

/** A field with a declared range, wherever it is nested: `count` values, `stride` bytes apart. */
interface Ranged {
  readonly path: string;
  readonly type: string;
  readonly at: number;
  readonly count: number;
  readonly stride: number;
  readonly min: number;
  readonly max: number;
}
const rangedFields = new WeakMap<Struct, readonly Ranged[]>();

function rangedOf(s: Struct): readonly Ranged[] {
  const known = rangedFields.get(s);
  if (known) return known;
  const all: Ranged[] = [];
  for (const { name, field: f, offset, bytes } of s.placed) {
    if (f.kind === 'pad') continue;
    if (f.kind === 'struct') {
      const inner = rangedOf(f.struct);
      for (let i = 0; i < f.count; i++)
        for (const r of inner)
          all.push({ ...r, path: `${name}[${i}].${r.path}`, at: offset + i * f.struct.bytes + r.at });
    } else if (f.min !== undefined || f.max !== undefined) {
      const count = f.kind === 'array' ? f.count : 1;
      const { min = 0, max = Number.POSITIVE_INFINITY, type } = f;
      all.push({ path: name, type, at: offset, count, stride: bytes / count, min, max });
    }
  }
  rangedFields.set(s, all);
  return all;
}

/** The first field whose value lies outside its declared range, or undefined when all are legal. */
export function firstIllegal(s: Struct, memory: Memory, base: number): string | undefined {
  for (const { path, type, at: offset, count, stride, min, max } of rangedOf(s)) {
    for (let i = 0, at = base + offset; i < count; i++, at += stride) {
      const value =
        type === 'u8'
          ? memory.u8[at]!
          : type === 'u16'
            ? memory.u16[at >> 1]!
            : type === 'u32'
              ? memory.u32[at >> 2]!
              : memory.u32[at >> 2]! + memory.u32[(at >> 2) + 1]! * 4294967296;
      if (value < min || value > max)
        return `${path} = ${value}, expected ${min}..${max === Number.POSITIVE_INFINITY ? 'max' : max}`;
    }
  }
  return undefined;
}
