import { describe, expect, it } from 'vitest';
import {
  allocate,
  array,
  emitCpp,
  firstIllegal,
  Memory,
  pad,
  RegisterBank,
  Root,
  registers,
  struct,
  structs,
  u8,
  u16,
  u32,
  u64,
  viewAt,
} from './index.ts';

const Inner = struct('Inner', { a: u8('', { max: 3 }), p: pad(1), b: u16('', { reset: 7 }) });
const Outer = struct('Outer', { x: u32(), items: structs(Inner, 2), big: array('u16', 2), end: u64() });

describe('struct', () => {
  it('places fields in order and demands alignment and the stated size', () => {
    expect(Outer.placed.map((p) => [p.name, p.offset])).toEqual([
      ['x', 0],
      ['items', 4],
      ['big', 12],
      ['end', 16],
    ]);
    expect(() => struct('Bad', { a: u8(), b: u32() })).toThrow(/add pad\(3\)/);
    expect(() => struct('Bad', { a: u32() }, { bytes: 8 })).toThrow(/add up to 4/);
  });
  it('hashes what the bytes mean', () => {
    expect(struct('Inner', { a: u8('', { max: 3 }), p: pad(1), c: u16() }).hash).not.toBe(Inner.hash);
  });
});

describe('view', () => {
  it('reads and writes every kind of field, and moves with its root', () => {
    const root = new Root(new Memory(new ArrayBuffer(64)));
    const v = viewAt(Outer, root);
    v.x = 0xfffffff0;
    v.items.at(1).b = 0x1234;
    v.big.set(1, 9);
    v.end = 2 ** 40 + 5;
    expect([v.x, v.items.at(1).b, v.big.get(1), v.endLo, v.endHi, v.end]).toEqual([
      0xfffffff0,
      0x1234,
      9,
      5,
      256,
      2 ** 40 + 5,
    ]);
    root.base = 32;
    expect([v.x, v.items.at(1).b, v.big.get(1), v.end]).toEqual([0, 0, 0, 0]);
    expect(() => v.big.get(2)).toThrow(RangeError);
  });
  it('has reset values and checks ranges', () => {
    const v = allocate(Outer);
    expect(v.items.at(0).b).toBe(7);
    expect(firstIllegal(Outer, v.$root.mem, 0)).toBeUndefined();
    v.items.at(1).a = 9;
    expect(firstIllegal(Outer, v.$root.mem, 0)).toBe('items[1].a = 9, expected 0..3');
  });
  it('emits a C++ header whose asserts repeat the offsets', () => {
    const text = emitCpp({ namespace: 't', source: 'x', structs: [Inner, Outer] });
    expect(text).toContain('static_assert(offsetof(Outer, big) == 12);');
    expect(text).toContain('Inner items[2];');
  });
});

describe('registers', () => {
  const table = registers('dev', 16, {
    ctl: { at: 0, width: 4, doc: '', mask: 0xff00ff },
    sts: { at: 4, width: 2, doc: '', mask: 0xff, w1c: 0x0f },
    fifo: { at: 8, width: 1, doc: '' },
  });
  const make = () => {
    const store = { ctl: 0, sts: 0x1f };
    const pushed: number[] = [];
    const bank = new RegisterBank(table, store, {
      read: { fifo: () => 0x5a },
      write: { fifo: (v) => pushed.push(v) },
    });
    return { store, pushed, bank };
  };
  it('masks writes and clears by writing ones', () => {
    const { bank, store } = make();
    bank.write(0, 4, 0xffffffff);
    expect(bank.read(0, 4)).toBe(0xff00ff);
    bank.write(4, 2, 0x25);
    expect(store.sts).toBe(0x2a & 0x2f);
  });
  it('serves partial and spanning accesses', () => {
    const { bank, pushed } = make();
    bank.write(2, 1, 0x77);
    expect(bank.read(0, 4)).toBe(0x770000);
    expect(bank.read(2, 4)).toBe((0x1f << 16) | 0x77);
    expect(bank.read(6, 4)).toBe(0xff5affff);
    bank.write(7, 2, 0x4433);
    expect(pushed).toEqual([0x44]);
  });
  it('a partial write clears only the bits it wrote', () => {
    const { bank, store } = make();
    bank.write(5, 1, 0xff);
    expect(store.sts).toBe(0x1f);
  });
});
