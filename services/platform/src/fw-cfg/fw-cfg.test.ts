import { buildFwCfg, fwCfgMachine, readFwCfgIndex } from '@nyx/device';
import { conformance } from '@nyx/device/conformance';
import { Rig, type TestContext } from '@nyx/device/testing';
import { describe, expect, it } from 'vitest';
import { fwCfgDevice } from './device.ts';
import { Dma, type FwCfgState } from './regs.ts';

const blob = buildFwCfg({
  items: fwCfgMachine({ ramBytes: 0x2_0000_0000, cpus: 3 }),
  files: [
    { name: 'etc/vmcoreinfo', data: new Uint8Array(16).fill(0x11), writable: true },
    { name: 'bootorder', data: Buffer.from('/rom@genroms/x\0') },
    { name: 'etc/e820', data: new Uint8Array(40).fill(7) },
  ],
}).buffer as ArrayBuffer;
const options = {
  config: {},
  prepare: (ctx: TestContext<typeof FwCfgState>) => void ctx.bulks.set('blob', blob.slice(0)),
};
conformance(fwCfgDevice, { ...options, runs: 40 });

const make = () => {
  const rig = new Rig(fwCfgDevice, options);
  const select = (selector: number) => rig.write(0, 0, selector, 2);
  const bytes = (n: number) => Buffer.from(Array.from({ length: n }, () => rig.read(0, 1)));
  const swap = (v: number) =>
    Buffer.from([v >>> 24, (v >>> 16) & 255, (v >>> 8) & 255, v & 255]).readUInt32LE();
  const v = rig.ctx.memory.view;
  const describeAccess = (control: number, length: number, address: number) => {
    v.setUint32(0x100, control);
    v.setUint32(0x104, length);
    v.setUint32(0x108, 0);
    v.setUint32(0x10c, address);
  };
  const start = () => {
    rig.write(1, 0, 0, 4);
    rig.write(1, 4, swap(0x100), 4);
    return v.getUint32(0x100);
  };
  return {
    rig,
    select,
    bytes,
    describeAccess,
    start,
    v,
    dma: (control: number, length: number, address: number) => (
      describeAccess(control, length, address), start()
    ),
  };
};

describe('selector and data', () => {
  it('signature, features, numbers, and zeroes beyond the end', () => {
    const p = make();
    expect(p.bytes(6).toString('latin1')).toBe('QEMU\0\0');
    p.select(1);
    expect(p.bytes(4).readUInt32LE()).toBe(3);
    p.select(3);
    expect(Number(p.bytes(8).readBigUInt64LE())).toBe(0x2_0000_0000);
    p.select(5);
    expect(p.bytes(2).readUInt16LE()).toBe(3);
    p.select(0x3fff);
    expect(p.bytes(2)).toEqual(Buffer.alloc(2));
  });
  it('the directory names files by size and selector, sorted', () => {
    const p = make();
    p.select(0x19);
    const dir = Buffer.alloc(4 + 3 * 64);
    p.rig.run((d) => d.readBurst!(0, 1, 1, dir));
    expect(dir.readUInt32BE()).toBe(3);
    const entries = [0, 1, 2].map((i) => {
      const e = dir.subarray(4 + 64 * i);
      return [e.readUInt32BE(), e.readUInt16BE(4), e.toString('latin1', 8, e.indexOf(0, 8))];
    });
    expect(entries).toEqual([
      [15, 0x20, 'bootorder'],
      [40, 0x21, 'etc/e820'],
      [16, 0x22, 'etc/vmcoreinfo'],
    ]);
    p.select(0x20);
    expect(p.bytes(15).toString('latin1')).toBe('/rom@genroms/x\0');
  });
});

describe('DMA', () => {
  it('is there', () => {
    const p = make();
    expect(Buffer.from(new Uint32Array([p.rig.read(1, 0, 4), p.rig.read(1, 4, 4)]).buffer).toString()).toBe(
      'QEMU CFG',
    );
  });
  it('selects, reads, skips, and fills with zeroes', () => {
    const p = make();
    new Uint8Array(p.rig.ctx.memory.buffer).fill(0xee, 0x1000, 0x1020);
    expect(p.dma((0x20 << 16) | Dma.select | Dma.read, 4, 0x1000)).toBe(0);
    expect(p.dma(Dma.skip, 4, 0)).toBe(0);
    expect(p.dma(Dma.read, 20, 0x1004)).toBe(0);
    expect(Buffer.from(p.rig.ctx.memory.bytes(0x1000, 25)).toString('latin1')).toBe(
      '/romroms/x\0' + '\0'.repeat(13) + '\xee',
    );
  });
  it('writes writable items only, and within them', () => {
    const p = make();
    new Uint8Array(p.rig.ctx.memory.buffer).fill(0x42, 0x2000, 0x2010);
    expect(p.dma((0x22 << 16) | Dma.select | Dma.write, 16, 0x2000)).toBe(0);
    p.select(0x22);
    expect(p.bytes(16)).toEqual(Buffer.alloc(16, 0x42));
    expect(p.dma((0x22 << 16) | Dma.select | Dma.write, 17, 0x2000)).toBe(Dma.error);
    expect(p.dma((0x20 << 16) | Dma.select | Dma.write, 1, 0x2000)).toBe(Dma.error);
    p.rig.reset();
    p.select(0x22);
    expect(p.bytes(2)).toEqual(Buffer.alloc(2, 0x11));
  });
  it('memory that is not there is an error, or nothing when it is the access itself', () => {
    const p = make();
    expect(p.dma((0x20 << 16) | Dma.select | Dma.read, 4, 0xfff0_0000)).toBe(Dma.error);
    expect(p.dma(Dma.read, 0xffff_ffff, 0x1000)).toBe(Dma.error);
    p.rig.write(1, 0, 0x01000000, 4);
    p.rig.write(1, 4, 0, 4);
    expect(p.rig.ctx.state.busy).toBe(0);
  });
  it('killed after it overwrote its own parameters, it finds the saved ones', () => {
    const p = make();
    p.select(0x21);
    p.describeAccess((0x20 << 16) | Dma.select | Dma.read, 4, 0x3000);
    const { ctx } = p.rig;
    let saved = new Uint8Array();
    ctx.checkpoint = () => {
      saved = ctx.bytes.slice();
    };
    expect(p.start()).toBe(0);
    // The commit was lost: state as at the checkpoint, guest memory as the dead process left it.
    ctx.bytes.set(saved);
    ctx.memory.bytes(0x3000, 4).fill(0);
    p.rig.restart();
    expect(p.start()).toBe(0);
    expect(Buffer.from(ctx.memory.bytes(0x3000, 4)).toString()).toBe('/rom');
    expect([ctx.state.selector, ctx.state.offset, ctx.state.busy]).toEqual([0x20, 4, 0]);
  });
});

describe('blob', () => {
  it('is refused when damaged', () => {
    const bad = blob.slice(0);
    new Uint32Array(bad)[5] = 0x7fff_ffff;
    expect(() => readFwCfgIndex(bad)).toThrow(/FW_CFG_INVALID: item/);
    expect(() => readFwCfgIndex(new ArrayBuffer(64))).toThrow(/FW_CFG_INVALID: magic/);
    expect(() => buildFwCfg({ files: [{ name: 'x'.repeat(56), data: new Uint8Array() }] })).toThrow(
      RangeError,
    );
  });
});
