import { allocate, array, struct, structs } from '@nyx/layout';
import { describe, expect, it } from 'vitest';
import {
  Command,
  Config,
  findCapability,
  Msix,
  MsixLayout,
  MsixVector,
  msixCapability,
  PciFunction,
  PciState,
} from './index.ts';

const State = struct('S', {
  pci: structs(PciState, 1),
  vectors: structs(MsixVector, 40),
  counts: array('u32', 40),
});

const make = () => {
  const state = allocate(State);
  const sent: string[] = [];
  const fn: PciFunction = new PciFunction(
    {
      identity: { vendorId: 1, deviceId: 2, classCode: 0 },
      bars: [{ index: 1, kind: 'mem32', size: MsixLayout.bytes, region: 1, range: 0 }],
      capabilities: [msixCapability({ vectors: 40, bar: 1, table: MsixLayout.table, pba: MsixLayout.pba })],
    },
    state.pci.at(0),
    { setRange: () => {} },
    { changed: () => msix.update(), msixChanged: () => msix.update() },
  );
  const msix: Msix = new Msix(fn, state.vectors, state.counts, 1);
  const control = findCapability((r, w) => fn.read(r, w), 0x11) + 2;
  const counts = (): number[] => [0, 1, 39].map((i) => state.counts.get(i));
  const enable = (bits = 0x8000): void => fn.write(control, 2, bits);
  fn.write(Config.command, 2, Command.busMaster);
  return { state, fn, msix, sent, counts, enable, control };
};

const unmask = (m: Msix, v: number): void => m.write(v * 16 + 12, 0);

describe('MSI-X, PCI 3.0 6.8.2', () => {
  it('6.8.2.9: the mask bit of every vector is set after reset', () => {
    const { msix } = make();
    for (let v = 0; v < 40; v++) expect(msix.read(v * 16 + 12)).toBe(1);
  });
  it('table entries hold address, data and mask; reserved bits stay zero; entries end with the table size', () => {
    const { msix } = make();
    for (let i = 0; i < 4; i++) msix.write(16 + 4 * i, 0xffffffff);
    expect([0, 1, 2, 3].map((i) => msix.read(16 + 4 * i))).toEqual([0xfffffffc, 0xffffffff, 0xffffffff, 1]);
    msix.write(40 * 16, 7);
    expect(msix.read(40 * 16)).toBe(0);
  });
  it('sends only while enabled, and publishes the word with address and data', () => {
    const { msix, counts, enable } = make();
    unmask(msix, 1);
    msix.signal(1);
    expect(counts()).toEqual([0, 0, 0]);
    enable();
    msix.write(16, 0xfee01000);
    msix.write(24, 0x41);
    msix.signal(1);
    msix.signal(1);
    expect(counts()).toEqual([0, 2, 0]);
    const words: number[][] = [];
    msix.settle({ message: (...w) => words.push(w) });
    expect(words[1]).toEqual([2, 0xfee01000, 0, 0x41, 2]);
    words.length = 0;
    msix.settle({ message: (...w) => words.push(w) });
    expect(words).toEqual([]);
  });
  it('6.8.3.4: a masked vector sets its pending bit, and is sent once when unmasked', () => {
    const { msix, counts, enable } = make();
    enable();
    msix.signal(39);
    msix.signal(39);
    expect([msix.read(MsixLayout.pba), msix.read(MsixLayout.pba + 4), counts()]).toEqual([
      0,
      0x80,
      [0, 0, 0],
    ]);
    msix.write(MsixLayout.pba + 4, 0);
    expect(msix.read(MsixLayout.pba + 4)).toBe(0x80);
    unmask(msix, 39);
    expect([msix.read(MsixLayout.pba + 4), counts()]).toEqual([0, [0, 0, 1]]);
  });
  it('6.8.2.3: the function mask masks all vectors', () => {
    const { msix, counts, enable } = make();
    unmask(msix, 0);
    enable(0xc000);
    msix.signal(0);
    expect([msix.read(MsixLayout.pba), counts()[0]]).toEqual([1, 0]);
    enable(0x8000);
    expect([msix.read(MsixLayout.pba), counts()[0]]).toEqual([0, 1]);
  });
  it('a message waits for Bus Master Enable', () => {
    const { fn, msix, counts, enable } = make();
    unmask(msix, 0);
    enable();
    fn.write(Config.command, 2, 0);
    msix.signal(0);
    expect(counts()[0]).toBe(0);
    fn.write(Config.command, 2, Command.busMaster);
    expect(counts()[0]).toBe(1);
  });
  it('a vector beyond the table is ignored', () => {
    const { msix, enable } = make();
    enable();
    msix.signal(40);
    msix.signal(0xffff);
  });
  it('message control tells the table size and keeps enable and mask only', () => {
    const { fn, enable, control } = make();
    enable(0xffff);
    expect(fn.read(control, 2)).toBe(0xc000 | 39);
  });
});
