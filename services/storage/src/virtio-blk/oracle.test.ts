/**
 * Our virtio-blk beside QEMU's virtio-blk-pci, as a guest sees them: identity, which bits of the header can be written,
 * how BARs size, what the capabilities say, common and device configuration. Where the two differ on purpose, the
 * test says so.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CfgType, findCapability } from '@nyx/device';
import { Qtest, qemuVersion } from '@nyx/device/qtest';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { Bench } from './bench.ts';

const version = qemuVersion();
if (version === undefined)
  console.warn('skipped: virtio-blk is not compared with QEMU, qemu-system-x86_64 is not installed');

type Width = 1 | 2 | 4;
const DEVFN = 3 << 3;
const BAR = 0xe000_0000;
const SECTORS = 256;

interface Device {
  configRead(register: number, width: Width): Promise<number>;
  configWrite(register: number, width: Width, value: number): Promise<void>;
  /** A register of a virtio structure, by its capability. */
  read(type: number, offset: number, width: Width): Promise<number>;
  write(type: number, offset: number, width: Width, value: number): Promise<void>;
}

describe.skipIf(version === undefined)(`virtio-blk and ${version}`, () => {
  let folder: string;
  let qemu: Qtest;
  let theirs: Device;
  let ours: Device;

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'nyx-oracle-'));
    writeFileSync(join(folder, 'disk'), new Uint8Array(SECTORS * 512));
    qemu = new Qtest([
      '-drive',
      `file=${join(folder, 'disk')},format=raw,if=none,id=d`,
      '-device',
      'virtio-blk-pci,drive=d,addr=3,num-queues=2,queue-size=256,disable-legacy=on,serial=x,vectors=9',
    ]);
    const config = {
      configRead: (register: number, width: Width) => qemu.configRead(DEVFN, register, width),
      configWrite: (register: number, width: Width, value: number) =>
        qemu.configWrite(DEVFN, register, width, value),
    };
    await config.configWrite(0x20, 4, BAR);
    await config.configWrite(0x24, 4, 0);
    await config.configWrite(0x04, 2, 6);
    const at = async (type: number): Promise<number> => BAR + (await structures(config)).get(type)!.offset;
    theirs = {
      ...config,
      read: async (type, offset, width) => qemu.read((await at(type)) + offset, width),
      write: async (type, offset, width, value) => qemu.write((await at(type)) + offset, width, value),
    };
  });
  beforeEach(() => {
    const b = new Bench({ sectors: SECTORS, msix: false, config: { queues: 2, serial: 'x' } });
    ours = {
      configRead: async (register, width) => b.rig.configRead(register, width),
      configWrite: async (register, width, value) => b.rig.configWrite(register, width, value),
      read: async (type, offset, width) => b.driver.read(type, offset, width),
      write: async (type, offset, width, value) => b.driver.write(type, offset, width, value),
    };
  });
  afterAll(() => {
    qemu?.close();
    rmSync(folder, { recursive: true });
  });

  async function structures(d: Pick<Device, 'configRead'>) {
    const space = new Map<number, number>();
    for (let r = 0; r < 256; r++) space.set(r, await d.configRead(r, 1));
    const read = (r: number, w: number): number => {
      let v = 0;
      for (let i = w - 1; i >= 0; i--) v = v * 256 + space.get(r + i)!;
      return v;
    };
    const found = new Map<
      number,
      { bytes: number; bar: number; offset: number; length: number; extra: number }
    >();
    for (let at = findCapability(read, 9); at; at = findCapability(read, 9, at))
      found.set(read(at + 3, 1), {
        bytes: read(at + 2, 1),
        bar: read(at + 4, 1),
        offset: read(at + 8, 4),
        length: read(at + 12, 4),
        extra: read(at + 2, 1) > 16 ? read(at + 16, 4) : 0,
      });
    return found;
  }
  const both = async <T>(ask: (d: Device) => Promise<T>): Promise<[T, T]> => [
    await ask(ours),
    await ask(theirs),
  ];

  it('identity, class, header type and pin', async () => {
    for (const register of [0x00, 0x08, 0x0c, 0x2c, 0x3d]) {
      const [a, b] = await both((d) => d.configRead(register, register === 0x3d ? 1 : 4));
      expect(a, `register 0x${register.toString(16)}`).toBe(b);
    }
  });
  it('BARs: kind, size and prefetchable', async () => {
    const sizes = (d: Device) =>
      (async () => {
        const list: number[] = [];
        for (let bar = 0x10; bar < 0x28; bar += 4) {
          const old = await d.configRead(bar, 4);
          await d.configWrite(bar, 4, 0xffffffff);
          list.push(await d.configRead(bar, 4));
          await d.configWrite(bar, 4, old);
        }
        return list;
      })();
    const [a, b] = await both(sizes);
    expect(a).toEqual(b);
  });
  it('bits of command and interrupt line that can be written', async () => {
    const [a, b] = await both(async (d) => {
      const old = await d.configRead(4, 2);
      await d.configWrite(4, 2, 0xffff);
      const command = await d.configRead(4, 2);
      await d.configWrite(4, 2, old);
      await d.configWrite(0x3c, 1, 0xa5);
      return [command, await d.configRead(0x3c, 1)];
    });
    // Ours has no I/O BAR and hardwires I/O enable to 0 (PCI 3.0 6.2.2); parity error response is ours, PCIe 7.5.1.1.3 asks for it.
    expect([a![0]! & ~0x41, a![1]]).toEqual([b![0]! & ~0x41, b![1]]);
  });
  it('the virtio structures: types, sizes and multiplier', async () => {
    const [a, b] = await both((d) => structures(d));
    for (const type of [CfgType.common, CfgType.notify, CfgType.isr, CfgType.device, CfgType.pci]) {
      const [x, y] = [a.get(type)!, b.get(type)!];
      expect([x.bytes, x.bar, x.offset], `type ${type}`).toEqual([y.bytes, y.bar, y.offset]);
      if (type === CfgType.notify) expect(x.extra).toBe(y.extra);
      else expect(x.length, `type ${type}`).toBeLessThanOrEqual(y.length);
    }
  });
  it('MSI-X: table size and places', async () => {
    const read = async (d: Device) => {
      let at = await d.configRead(0x34, 1);
      while (at && (await d.configRead(at, 1)) !== 0x11) at = await d.configRead(at + 1, 1);
      return [await d.configRead(at + 2, 2), await d.configRead(at + 4, 4), await d.configRead(at + 8, 4)];
    };
    const [a, b] = await both(read);
    expect(a).toEqual(b);
  });
  it("common configuration at reset, and a queue's fields", async () => {
    for (const queue of [0, 1, 2, 3]) {
      const [a, b] = await both(async (d) => {
        const list: number[] = [];
        await d.write(CfgType.common, 0x16, 2, queue);
        for (const [at, width] of [
          [0x10, 2],
          [0x12, 2],
          [0x14, 1],
          [0x15, 1],
          [0x18, 2],
          [0x1a, 2],
          [0x1c, 2],
          [0x20, 4],
          [0x24, 4],
          [0x28, 4],
          [0x2c, 4],
          [0x30, 4],
          [0x34, 4],
        ] as const)
          list.push(await d.read(CfgType.common, at, width));
        // The doorbell offset of a queue that does not exist is nobody's business.
        if (queue < 2) list.push(await d.read(CfgType.common, 0x1e, 2));
        return list;
      });
      expect(a, `queue ${queue}`).toEqual(b);
    }
  });
  it('features: the same bits for what both have', async () => {
    const [a, b] = await both(async (d) => {
      const list: number[] = [];
      for (const select of [0, 1, 2]) {
        await d.write(CfgType.common, 0, 4, select);
        list.push(await d.read(CfgType.common, 4, 4));
      }
      return list;
    });
    // SIZE_MAX is ours. GEOMETRY, NOTIFY_ON_EMPTY (24) and ANY_LAYOUT (27) are QEMU's, of the time before version 1; SCSI too.
    expect([(a![0]! & ~0x2) >>> 0, a![1], a![2]]).toEqual([
      (b![0]! & ~((1 << 4) | (1 << 24) | (1 << 27) | (1 << 7))) >>> 0,
      b![1],
      b![2],
    ]);
  });
  it('device configuration', async () => {
    const [a, b] = await both(async (d) => {
      const list: number[] = [];
      for (const at of [0, 4, 20, 36]) list.push(await d.read(CfgType.device, at, 4));
      list.push(
        await d.read(CfgType.device, 32, 1),
        await d.read(CfgType.device, 34, 2),
        await d.read(CfgType.device, 12, 4),
        await d.read(CfgType.device, 56, 1),
      );
      return list;
    });
    // maxDiscardSectors is a choice.
    a![3] = 0;
    b![3] = 0;
    expect(a).toEqual(b);
  });
  it('the status machine from reset to DRIVER_OK', async () => {
    const [a, b] = await both(async (d) => {
      const list: number[] = [];
      const set = async (value: number): Promise<void> => {
        await d.write(CfgType.common, 0x14, 1, value);
        list.push(await d.read(CfgType.common, 0x14, 1));
      };
      await set(0);
      await set(1);
      await set(3);
      await d.write(CfgType.common, 8, 4, 1);
      await d.write(CfgType.common, 12, 4, 1);
      await set(11);
      await set(15);
      await set(0);
      return list;
    });
    expect(a).toEqual(b);
  });
});
