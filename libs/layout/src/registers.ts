/**
 * Register banks as data: an ordered table of registers, and the one place where partial, spanning,
 * write-masked, write-1-to-clear and read-only accesses are resolved. A chip supplies a backing store
 * (a view of its state) and handlers only for registers that have side effects.
 */

/** How an access is served (ARCHITECTURE.md, "Exit classes"). */
export type ExitClass = 'sync' | 'shadow' | 'counter' | 'posted' | 'notify';

export interface RegisterSpec {
  /** Byte offset in the region. */
  readonly at: number;
  /** Bytes: 1, 2, 4 or 8. 8 is served as two 4-byte halves, name + 'Lo' and name + 'Hi' in the backing store. */
  readonly width: 1 | 2 | 4 | 8;
  readonly doc: string;
  /** Bits that a write changes (default: all; 0 = read-only). */
  readonly mask?: number;
  /** Bits that a write of 1 clears. */
  readonly w1c?: number;
  /** Bits that always read as one. */
  readonly ones?: number;
  readonly reset?: number;
  /** 'shadow' (needs a backing field and no read side effect), 'counter' or 'sync' (default). */
  readonly read?: 'sync' | 'shadow' | 'counter';
  /** 'posted' (needs no answer), 'notify' (doorbell) or 'sync' (default). */
  readonly write?: 'sync' | 'posted' | 'notify';
}

export interface Register extends RegisterSpec {
  readonly name: string;
}

export interface RegisterTable<N extends string = string> {
  readonly name: string;
  /** Bytes of the region. */
  readonly size: number;
  readonly registers: readonly Register[];
  readonly names: readonly N[];
  byName(name: N): Register;
}

/**
 * Defines a register table; registers may not overlap and must lie inside `size` bytes.
 * @throws Error on a mistake in the table.
 */
export function registers<N extends string>(
  name: string,
  size: number,
  specs: Record<N, RegisterSpec>,
): RegisterTable<N> {
  const list = Object.entries(specs).map(([n, r]) => ({ name: n, ...(r as RegisterSpec) }));
  list.sort((a, b) => a.at - b.at);
  let end = 0;
  for (const r of list) {
    if (r.at < end) throw new Error(`${name}.${r.name}: overlaps the register before it`);
    if (r.width < 8 && r.at % r.width !== 0) throw new Error(`${name}.${r.name}: not aligned to its width`);
    end = r.at + r.width;
  }
  if (end > size) throw new Error(`${name}: registers end at ${end}, the region at ${size}`);
  const map = new Map(list.map((r) => [r.name, r]));
  return {
    name,
    size,
    registers: list,
    names: list.map((r) => r.name as N),
    byName: (n) => map.get(n) as Register,
  };
}

type Backing = object;
export interface BankHandlers<N extends string> {
  /** Reads with side effects, or of registers without a backing field. Gives the whole register. */
  read?: Partial<Record<N | `${N}Hi`, () => number>>;
  /** Replaces the default store. `value` is the whole register, merged when the guest wrote a part of it;
   *  `mask` has ones for the bits that the guest really wrote. */
  write?: Partial<Record<N | `${N}Hi`, (value: number, mask: number) => void>>;
  /** Runs after the default store, with the old and new value. */
  changed?: Partial<Record<N | `${N}Hi`, (value: number, old: number) => void>>;
}

interface Cell {
  readonly at: number;
  readonly width: number;
  readonly read: () => number;
  readonly write: (value: number, mask: number) => void;
  readonly merge: () => number;
}

const ONES = [0, 0xff, 0xffff, 0xffffff, 0xffffffff] as const;
const widthMask = (w: number): number => ONES[w] as number;

/**
 * A bank of registers that answers any access of 1, 2 or 4 bytes at any offset. Bytes that no register
 * covers read as `unmapped` (default all ones for port regions: pass 0xff or 0) and ignore writes.
 */
export class RegisterBank<N extends string> {
  readonly #cells: (Cell | undefined)[]; // by byte offset
  readonly #size: number;
  readonly #unmapped: number;

  /**
   * @param backing object with a number property for each register that has no handlers for both directions.
   */
  constructor(table: RegisterTable<N>, backing: Backing, handlers: BankHandlers<N> = {}, unmapped = 0xff) {
    this.#size = table.size;
    this.#unmapped = unmapped;
    this.#cells = new Array(table.size).fill(undefined);
    const store = backing as Record<string, number>;
    const add = (name: string, at: number, width: number, r: Register, shift: number): void => {
      const part = (v: number | undefined, dflt: number): number =>
        v === undefined
          ? dflt
          : r.width === 8
            ? shift
              ? Math.floor(v / 4294967296) >>> 0
              : v >>> 0
            : v >>> 0;
      const mask = part(r.mask, widthMask(width));
      const w1c = part(r.w1c, 0);
      const ones = part(r.ones, 0);
      const backed = name in store;
      const onRead = handlers.read?.[name as N];
      const onWrite = handlers.write?.[name as N];
      const changed = handlers.changed?.[name as N];
      if (!backed && !onRead) throw new Error(`${table.name}.${name}: no backing field and no read handler`);
      if (!backed && !onWrite && mask !== 0)
        throw new Error(`${table.name}.${name}: writable, without backing field or write handler`);
      const read = onRead ?? (() => ((store[name] as number) | ones) >>> 0);
      const write =
        onWrite ??
        ((value: number, wrote: number) => {
          if (!backed) return;
          const old = store[name] as number;
          const plain = mask & ~w1c & wrote;
          const next = (((old & ~plain) | (value & plain)) & ~(value & w1c & wrote)) >>> 0;
          store[name] = next;
          changed?.(next, old);
        });
      // A partial write merges with the stored value, never with a read that has side effects.
      const merge = backed ? () => store[name] as number : () => 0;
      const cell: Cell = { at, width, read, write, merge };
      for (let i = 0; i < width; i++) this.#cells[at + i] = cell;
    };
    for (const r of table.registers) {
      if (r.width === 8) {
        add(`${r.name}Lo`, r.at, 4, r, 0);
        add(`${r.name}Hi`, r.at + 4, 4, r, 32);
      } else add(r.name, r.at, r.width, r, 0);
    }
  }

  read(offset: number, width: number): number {
    const c = this.#cells[offset];
    if (c !== undefined && c.at === offset && c.width === width) return c.read();
    return this.#readSlow(offset, width);
  }

  write(offset: number, width: number, value: number): void {
    const c = this.#cells[offset];
    if (c !== undefined && c.at === offset && c.width === width) c.write(value, widthMask(width));
    else this.#writeSlow(offset, width, value);
  }

  #readSlow(offset: number, width: number): number {
    let result = 0;
    for (let i = 0; i < width; ) {
      const at = offset + i;
      const c = at < this.#size ? this.#cells[at] : undefined;
      if (!c) {
        result |= this.#unmapped << (8 * i);
        i += 1;
        continue;
      }
      const skip = at - c.at;
      const take = Math.min(c.width - skip, width - i);
      result |= ((c.read() >>> (8 * skip)) & widthMask(take)) << (8 * i);
      i += take;
    }
    return result >>> 0;
  }

  #writeSlow(offset: number, width: number, value: number): void {
    for (let i = 0; i < width; ) {
      const at = offset + i;
      const c = at < this.#size ? this.#cells[at] : undefined;
      if (!c) {
        i += 1;
        continue;
      }
      const skip = at - c.at;
      const take = Math.min(c.width - skip, width - i);
      const mask = (widthMask(take) << (8 * skip)) >>> 0;
      const part = (((value >>> (8 * i)) & widthMask(take)) << (8 * skip)) >>> 0;
      c.write(((c.merge() & ~mask) | part) >>> 0, mask);
      i += take;
    }
  }
}
