import { allocate, RegisterBank, registers } from '@nyx/layout';
import { Space } from '@nyx/ring/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type Bar,
  CapabilityId,
  Command,
  Config,
  expressCapability,
  type FunctionHooks,
  type FunctionSpec,
  findCapability,
  msixCapability,
  PciFunction,
  PciState,
  vendorCapability,
} from './index.ts';

const bars: Bar[] = [
  { index: 0, kind: 'io', size: 64, region: 0, range: 0 },
  { index: 1, kind: 'mem32', size: 4096, region: 1, range: 1 },
  { index: 4, kind: 'mem64', size: 16384, prefetchable: true, region: 2, range: 2 },
];
const spec: FunctionSpec = {
  identity: {
    vendorId: 0x1af4,
    deviceId: 0x1042,
    revision: 1,
    classCode: 0x010000,
    subsystemVendorId: 0x1af4,
    subsystemId: 0x1100,
    interruptPin: 1,
  },
  bars,
  bytes: 4096,
  capabilities: [
    expressCapability(),
    msixCapability({ vectors: 5, bar: 1, table: 0, pba: 0x800 }),
    vendorCapability('vendor', 16, { vendorType: { at: 3, width: 1, doc: '', mask: 0, reset: 7 } }),
  ],
};

const make = (s: FunctionSpec = spec, hooks: FunctionHooks = {}) => {
  const ranges = new Map<number, string>();
  const state = allocate(PciState);
  const setRange = (i: number, space: number, region: number, base: number, length: number): void => {
    if (space === Space.none) ranges.delete(i);
    else ranges.set(i, `${space}:${region}:${base.toString(16)}+${length.toString(16)}`);
  };
  return { ranges, state, fn: new PciFunction(s, state, { setRange }, hooks) };
};

describe('PCI 3.0 6.1 header', () => {
  it('identifies the function, at every width', () => {
    const { fn } = make();
    expect(fn.read(0, 4)).toBe(0x10421af4);
    expect(fn.read(2, 2)).toBe(0x1042);
    expect(fn.read(3, 1)).toBe(0x10);
    expect(fn.read(8, 4)).toBe(0x01000001);
    expect(fn.read(0x0c, 4)).toBe(0);
    expect(fn.read(0x2c, 4)).toBe(0x11001af4);
    expect(fn.read(0x3c, 4)).toBe(0x00000100);
  });
  it('6.1: reserved registers read as zero and ignore writes; read-only ones keep their value', () => {
    const { fn } = make();
    for (const at of [0x00, 0x08, 0x28, 0x2c, 0x34, 0x38]) {
      const before = fn.read(at, 4);
      fn.write(at, 4, 0xffffffff);
      expect(fn.read(at, 4)).toBe(before);
    }
    expect(fn.read(0x38, 4)).toBe(0);
    expect(fn.read(0x200, 4)).toBe(0);
  });
  it('6.2.2: only implemented command bits can be set', () => {
    const { fn } = make();
    fn.write(Config.command, 2, 0xffff);
    expect(fn.read(Config.command, 2)).toBe(0x0547);
    fn.write(Config.command, 1, 0);
    expect(fn.read(Config.command, 2)).toBe(0x0500);
  });
  it('6.2.3: status bits are cleared by writing ones, capabilities list stays', () => {
    const { fn, state } = make();
    state.status = 0xf900;
    fn.write(Config.status, 2, 0x2000);
    expect(fn.read(Config.status, 2)).toBe(0xd910);
    fn.write(Config.command, 4, 0xffff0000);
    expect(fn.read(Config.status, 2)).toBe(0x0010);
  });
  it('beyond its configuration space a function reads all ones', () => {
    const { fn } = make({ ...spec, bytes: 256 });
    expect(fn.read(0x100, 4)).toBe(0xffffffff);
    expect(fn.read(0x100, 1)).toBe(0xff);
    fn.write(0x100, 4, 1);
  });
  it('constants of the command register and registers of a chipset', () => {
    const { state } = make();
    const own = { mode: 0 };
    const table = registers('own', 256, { mode: { at: 0x60, width: 4, doc: '', mask: 0xff } });
    const bank = new RegisterBank(table, own, {}, 0);
    const chip = new PciFunction(
      { identity: spec.identity, commandMask: 0, commandOnes: 7 },
      state,
      { setRange: () => {} },
      {},
      { table, bank },
    );
    chip.write(Config.command, 2, 0xffff);
    expect(chip.read(Config.command, 2)).toBe(7);
    expect(chip.busMaster).toBe(true);
    chip.write(0x60, 4, 0x1234);
    expect([chip.read(0x60, 4), own.mode]).toEqual([0x34, 0x34]);
  });
});

describe('PCI 3.0 6.2.5 base addresses', () => {
  it('6.2.5.1: writing all ones tells the size', () => {
    const { fn } = make();
    for (let i = 0; i < 6; i++) fn.write(0x10 + 4 * i, 4, 0xffffffff);
    expect([0, 1, 2, 3, 4, 5].map((i) => fn.read(0x10 + 4 * i, 4))).toEqual([
      0xffffffc1, 0xfffff000, 0, 0, 0xffffc00c, 0xffffffff,
    ]);
  });
  it('decodes while the command register says so, and follows the address', () => {
    const { fn, ranges } = make();
    fn.write(0x10, 4, 0xc001);
    fn.write(0x14, 4, 0xfe000000);
    fn.write(0x20, 4, 0x1000_0000);
    fn.write(0x24, 4, 0x80);
    expect([...ranges]).toEqual([]);
    fn.write(Config.command, 2, Command.memory);
    expect([...ranges]).toEqual([
      [1, '2:1:fe000000+1000'],
      [2, '2:2:8010000000+4000'],
    ]);
    fn.write(Config.command, 2, Command.io);
    expect([...ranges]).toEqual([[0, '1:0:c000+40']]);
    fn.write(0x10, 4, 0xd001);
    expect([...ranges]).toEqual([[0, '1:0:d000+40']]);
    expect(fn.barAddress(4)).toBe(0x80_1000_0000);
  });
  it('sizing with decoding on never publishes an impossible range', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 0, max: 0xffffffff })), {
          maxLength: 20,
        }),
        (writes) => {
          const { fn, ranges } = make();
          for (const [dword, value] of writes) {
            fn.write(dword * 4, 4, value);
            for (const text of ranges.values()) {
              const [space, , place] = text.split(':') as [string, string, string];
              const [base, length] = place.split('+').map((x) => Number.parseInt(x, 16)) as [number, number];
              expect(base % length).toBe(0);
              expect(base + length).toBeLessThanOrEqual(space === '1' ? 0x10000 : 2 ** 46);
            }
          }
        },
      ),
    );
  });
  it('refuses a description with overlapping or odd BARs', () => {
    const bar = (o: Partial<Bar>): Bar => ({
      index: 0,
      kind: 'mem32',
      size: 4096,
      region: 0,
      range: 0,
      ...o,
    });
    expect(() => make({ ...spec, bars: [bar({ size: 5000 })] })).toThrow(/power of two/);
    expect(() => make({ ...spec, bars: [bar({ kind: 'mem64' }), bar({ index: 1 })] })).toThrow(/twice/);
    expect(() => make({ ...spec, bars: [bar({ kind: 'mem64', index: 5 })] })).toThrow(/0\.\.5/);
  });
});

describe('PCI 3.0 6.7 capabilities', () => {
  it('the list can be walked and every capability is where the walk says', () => {
    const { fn } = make();
    const read = (r: number, w: number): number => fn.read(r, w);
    const express = findCapability(read, CapabilityId.express);
    const msix = findCapability(read, CapabilityId.msix);
    const vendor = findCapability(read, CapabilityId.vendor);
    expect([express, msix, vendor]).toEqual([0x40, 0x7c, 0x88]);
    expect(fn.read(msix, 4)).toBe(0x00048811);
    expect([fn.read(msix + 4, 4), fn.read(msix + 8, 4)]).toEqual([0x001, 0x801]);
    expect(fn.read(vendor, 4)).toBe(0x07100009);
    expect(findCapability(read, CapabilityId.vendor, vendor)).toBe(0);
    expect(findCapability(read, CapabilityId.msi)).toBe(0);
  });
  it('a function without capabilities says so', () => {
    const { fn } = make({ identity: spec.identity });
    expect(fn.read(Config.status, 2) & 0x10).toBe(0);
    expect(fn.read(Config.capabilities, 1)).toBe(0);
  });
  it('PCIe 6.6.2: a function level reset restores reset values and stops decoding; edges stay counted', () => {
    let flrs = 0;
    const { fn, ranges, state } = make(spec, { flr: () => flrs++ });
    fn.write(0x14, 4, 0xfe000000);
    fn.write(Config.command, 2, Command.memory);
    fn.interrupt(true);
    const control = fn.capabilityAt.get('express')! + 8;
    fn.write(control, 2, fn.read(control, 2) | 0x8000);
    expect([flrs, ranges.size, fn.read(Config.command, 2), fn.read(0x14, 4), fn.read(control, 2)]).toEqual([
      1, 0, 0, 0, 0x2810,
    ]);
    expect(state.intxWord).toBe(0b10);
  });
});

describe('PCI 3.0 6.2.4 INTx', () => {
  it('interrupt status tells the request, interrupt disable only gates the wire', () => {
    const { fn, state } = make();
    fn.interrupt(true);
    expect(state.intxWord).toBe(0b11);
    expect(fn.read(Config.status, 2) & 8).toBe(8);
    fn.write(Config.command, 2, Command.interruptDisable);
    expect([state.intxWord, fn.read(Config.status, 2) & 8]).toEqual([0b10, 8]);
    fn.write(Config.command, 2, 0);
    expect(state.intxWord).toBe(0b101);
    fn.interrupt(true);
    expect(state.intxWord).toBe(0b101);
    fn.interrupt(false);
    expect([state.intxWord, fn.read(Config.status, 2) & 8]).toEqual([0b100, 0]);
  });
});
