import { CfgType } from '@nyx/device';
import { conformance } from '@nyx/device/conformance';
import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { BlockOp, type BlockRequest, BlockResult } from '../block/block.ts';
import { MemoryDisk } from '../block/memory.ts';
import { allFeatures, Bench } from './bench.ts';
import { virtioBlk } from './device.ts';
import { BlkFeature, BlkLimit, BlkType, blkConfig } from './regs.ts';

const bit = (n: number): number => 1 << n;
let b: Bench;
beforeEach(() => {
  b = new Bench();
  b.run();
});

const config = (name: Parameters<typeof blkConfig.byName>[0], width?: number): number => {
  const r = blkConfig.byName(name);
  return b.driver.read(CfgType.device, r.at, width ?? Math.min(r.width, 4));
};
const range = (at: number, sector: number, sectors: number, flags: number): readonly [number, number] => {
  b.view.setUint32(at, sector >>> 0, true);
  b.view.setUint32(at + 4, Math.floor(sector / 4294967296), true);
  b.view.setUint32(at + 8, sectors, true);
  b.view.setUint32(at + 12, flags, true);
  return [at, 16];
};

describe('5.2.3 features, 5.2.4 configuration', () => {
  it('is a block device', () => {
    expect(b.rig.configRead(0, 4)).toBe(0x10421af4);
    expect(b.rig.configRead(8, 4) >>> 8).toBe(0x010000);
  });
  it('offers what it does', () => {
    b.driver.setCommon(0, 4, 0);
    const expected = [1, 2, 6, 9, 10, 11, 13, 14, 28, 29].reduce((f, n) => f | bit(n), 0) >>> 0;
    expect(b.driver.common(4, 4)).toBe(expected);
    b = new Bench({ config: { queues: 4 } });
    expect(b.driver.common(4, 4)).toBe((expected | bit(BlkFeature.multiQueue)) >>> 0);
    b = new Bench({ readOnly: true });
    expect(b.driver.common(4, 4)).toBe((expected & ~(bit(13) | bit(14))) | bit(BlkFeature.readOnly));
  });
  it('tells capacity, limits and block size, in any width', () => {
    b = new Bench({ sectors: 1000, config: { queues: 3, blockBytes: 512 } });
    expect([config('capacity'), config('capacity', 2), config('segMax'), config('sizeMax')]).toEqual([
      1000, 1000, 254, 0x400000,
    ]);
    expect([config('blkSize'), config('physicalBlockExp'), config('minIoSize'), config('numQueues')]).toEqual(
      [512, 3, 8, 3],
    );
    expect([
      config('maxDiscardSeg'),
      config('maxWriteZeroesSeg'),
      config('writeZeroesMayUnmap'),
      config('unused0'),
    ]).toEqual([32, 32, 1, 0]);
    expect(b.driver.common(0x12, 2)).toBe(3);
  });
  it("5.2.5: writeback is the driver's only with CONFIG_WCE, and begins at 0 when FLUSH is missing", () => {
    expect(config('writeback')).toBe(1);
    b.driver.write(CfgType.device, 32, 1, 0);
    expect(config('writeback')).toBe(0);
    b.run(bit(BlkFeature.configWce));
    expect(config('writeback')).toBe(0);
    b.run(0);
    b.driver.write(CfgType.device, 32, 1, 0);
    expect(config('writeback')).toBe(1);
  });
  it('refuses a configuration that it cannot be', () => {
    expect(() => new Bench({ config: { queues: 9 } })).toThrow(
      expect.objectContaining({ code: 'CONFIG_INVALID' }),
    );
    expect(() => new Bench({ config: { serial: 'x'.repeat(21) } })).toThrow(/serial/);
    expect(() => new Bench({ config: { blockBytes: 1000 } })).toThrow(/blockBytes/);
  });
});

describe('5.2.6 device operation', () => {
  it('OUT writes and IN reads, used length covers data and status', () => {
    b.fill(b.data(0), 1024, 0xa5);
    expect(b.request(BlkType.out, 3, [[b.data(0), 1024]])).toEqual({ status: 0, length: 1, used: 1 });
    expect([
      ...b.content.subarray(3 * 512 - 1, 3 * 512 + 1),
      b.content[5 * 512 - 1],
      b.content[5 * 512],
    ]).toEqual([0, 0xa5, 0xa5, 0]);
    expect(b.request(BlkType.in, 4, [], [[b.data(1), 1024]])).toEqual({ status: 0, length: 1025, used: 1 });
    expect([b.view.getUint8(b.data(1)), b.view.getUint8(b.data(1) + 512)]).toEqual([0xa5, 0]);
  });
  it('2.7.4.1: nothing depends on how descriptors cut a request', () => {
    const cut = (at: number, length: number, cuts: readonly number[]): [number, number][] => {
      const ends = [...new Set(cuts.map((c) => c % length).filter((c) => c > 0)), length].sort(
        (x, y) => x - y,
      );
      return ends.map((end, i) => [at + (ends[i - 1] ?? 0), end - (ends[i - 1] ?? 0)]);
    };
    fc.assert(
      fc.property(
        fc.array(fc.nat(), { maxLength: 6 }),
        fc.boolean(),
        fc.boolean(),
        (cuts, indirect, write) => {
          const q = b.driver.queues[0]!;
          b.content.fill(0x11, 0, 1024);
          // Header and data, and data and status, lie side by side so that one descriptor may hold both.
          const head = b.header(write ? BlkType.out : BlkType.in, 0).out[0];
          const base = b.data(2);
          b.rig.memory.bytes(base, 2048).fill(0x22);
          b.rig.memory.bytes(base, 16).set(b.rig.memory.bytes(head, 16));
          if (write) q.add(cut(base, 16 + 1024, cuts), [[b.data(4), 1]], indirect);
          else q.add(cut(base, 16, cuts), cut(b.data(3), 1025, cuts), indirect);
          b.view.setUint8(b.data(4), 0xff);
          b.view.setUint8(b.data(3) + 1024, 0xff);
          q.kick();
          b.finish();
          expect(q.harvest()).toHaveLength(1);
          expect(b.view.getUint8(write ? b.data(4) : b.data(3) + 1024)).toBe(0);
          expect([...b.content.subarray(0, 1024)].every((x) => x === (write ? 0x22 : 0x11))).toBe(true);
          if (!write) expect([...b.rig.memory.bytes(b.data(3), 1024)].every((x) => x === 0x11)).toBe(true);
        },
      ),
      { numRuns: 200 },
    );
  });
  it('the longest request: 254 segments', () => {
    const segments: [number, number][] = Array.from({ length: 254 }, (_, i) => [
      b.data(0) + 512 * (i % 8),
      512,
    ]);
    b = new Bench({ sectors: 1024 });
    b.run();
    // 256 descriptors do not fit the 64 entries: an indirect table of 4 KiB of its own.
    const q = b.driver.queues[0]!;
    const { out, status } = b.header(BlkType.out, 0);
    const table = b.data(20);
    [out, ...segments, status].forEach(([a, n], i, list) => {
      q.descriptor(table, i, a, n, (i + 1 < list.length ? 1 : 0) | (i + 1 === list.length ? 2 : 0), i + 1);
    });
    b.fill(b.data(0), 4096, 0x77);
    q.descriptor(q.descAt, 0, table, 256 * 16, 4, 0);
    q.offer(0);
    q.kick();
    b.finish();
    expect([b.view.getUint8(status[0]), b.content[254 * 512 - 1], b.content[254 * 512]]).toEqual([
      0, 0x77, 0,
    ]);
  });
  it('beyond the capacity, or not in whole blocks: IOERR', () => {
    for (const [sector, bytes] of [
      [256, 512],
      [255, 1024],
      [2 ** 55, 512],
      [2 ** 63, 512],
      [0, 100],
    ] as const) {
      expect(b.request(BlkType.in, sector, [], [[b.data(0), bytes]])).toMatchObject({ status: 1, length: 0 });
      expect(b.request(BlkType.out, sector, [[b.data(0), bytes]])).toMatchObject({ status: 1, length: 1 });
    }
    b = new Bench({ config: { blockBytes: 4096 } });
    b.run();
    expect(b.request(BlkType.in, 8, [], [[b.data(0), 512]]).status).toBe(1);
    expect(b.request(BlkType.in, 4, [], [[b.data(0), 4096]]).status).toBe(1);
    expect(b.request(BlkType.in, 8, [], [[b.data(0), 4096]]).status).toBe(0);
  });
  it('an unknown type: UNSUPP', () => {
    for (const type of [2, 3, 5, 9, 10, 14, 0x80000000, 0xffffffff])
      expect(b.request(type, 0)).toMatchObject({ status: 2, length: 1 });
  });
  it('GET_ID gives the serial number, NUL-padded to 20 bytes, or as much as there is room for', () => {
    b = new Bench({ config: { serial: 'nyx-disk-1' } });
    b.run();
    b.fill(b.data(0), 32, 0xee);
    expect(b.request(BlkType.getId, 0, [], [[b.data(0), 20]])).toEqual({ status: 0, length: 21, used: 1 });
    expect(Buffer.from(b.rig.memory.bytes(b.data(0), 21)).toString('latin1')).toBe(
      `nyx-disk-1${'\0'.repeat(10)}\xee`,
    );
    b.fill(b.data(0), 32, 0xee);
    expect(b.request(BlkType.getId, 0, [], [[b.data(0), 3]])).toMatchObject({ status: 0, length: 4 });
    expect(Buffer.from(b.rig.memory.bytes(b.data(0), 4)).toString('latin1')).toBe('nyx\xee');
  });
  it('GET_LIFETIME gives the wear of the medium, where that was asked for', () => {
    b = new Bench({ config: { lifetime: [1, 2, 11] } });
    b.run();
    expect(b.driver.common(4, 4) & bit(BlkFeature.lifetime)).not.toBe(0);
    b.fill(b.data(0), 32, 0xee);
    expect(b.request(BlkType.getLifetime, 0, [], [[b.data(0), 6]])).toEqual({
      status: 0,
      length: 7,
      used: 1,
    });
    expect([...b.rig.memory.bytes(b.data(0), 7)]).toEqual([1, 0, 2, 0, 11, 0, 0xee]);
    expect(b.request(BlkType.getLifetime, 0, [], [[b.data(0), 5]])).toMatchObject({ status: 1, length: 1 });
    expect(() => new Bench({ config: { lifetime: [4, 0, 0] } })).toThrow(/lifetime/);
    b = new Bench();
    b.run();
    expect(b.request(BlkType.getLifetime, 0, [], [[b.data(0), 6]])).toMatchObject({ status: 2, length: 1 });
  });
  it('FLUSH reaches the disk', () => {
    const ops: number[] = [];
    b = new Bench({
      before: (r) => {
        ops.push(r.op);
        return BlockResult.ok;
      },
    });
    b.run();
    expect(b.request(BlkType.flush, 0).status).toBe(0);
    expect(ops).toEqual([BlockOp.flush]);
  });
  it('5.2.6.2: writes are forced through without FLUSH, and with CONFIG_WCE while writeback is 0', () => {
    let last: boolean | undefined;
    b = new Bench({
      before: (r) => {
        last = r.fua;
        return BlockResult.ok;
      },
    });
    const fua = (): boolean | undefined => {
      b.request(BlkType.out, 0, [[b.data(0), 512]]);
      return last;
    };
    b.run(0);
    expect(fua()).toBe(true);
    b.run(bit(BlkFeature.flush));
    expect(fua()).toBe(false);
    b.run(bit(BlkFeature.flush) | bit(BlkFeature.configWce));
    expect(fua()).toBe(false);
    b.driver.write(CfgType.device, 32, 1, 0);
    expect(fua()).toBe(true);
  });
  it('5.2.6.2: a read-only disk answers IOERR to a write and does not write', () => {
    b = new Bench({ readOnly: true });
    b.run();
    b.fill(b.data(0), 512, 1);
    expect(b.request(BlkType.out, 0, [[b.data(0), 512]]).status).toBe(1);
    expect(b.request(BlkType.discard, 0, [range(b.data(0), 0, 1, 0)]).status).toBe(1);
    expect(b.content[0]).toBe(0);
  });
  it('errors of the disk: IOERR, or UNSUPP', () => {
    let result: number = BlockResult.io;
    b = new Bench({ before: () => result });
    b.run();
    expect(b.request(BlkType.in, 0, [], [[b.data(0), 512]])).toEqual({ status: 1, length: 0, used: 1 });
    result = BlockResult.noSpace;
    expect(b.request(BlkType.out, 0, [[b.data(0), 512]]).status).toBe(1);
    result = BlockResult.unsupported;
    expect(b.request(BlkType.flush, 0).status).toBe(2);
  });
  it('DISCARD and WRITE_ZEROES do all their ranges, one after another', () => {
    const seen: [number, number, number, boolean][] = [];
    b = new Bench({
      before: (r: BlockRequest) => {
        seen.push([r.op, r.position, r.bytes, r.unmap]);
        return BlockResult.ok;
      },
    });
    b.run();
    b.content.fill(9);
    const list = (flags: number) => [range(b.data(0), 1, 2, flags), range(b.data(0) + 16, 10, 1, flags)];
    expect(b.request(BlkType.writeZeroes, 0, list(0)).status).toBe(0);
    expect(b.request(BlkType.writeZeroes, 0, list(1)).status).toBe(0);
    expect(b.request(BlkType.discard, 0, list(0)).status).toBe(0);
    expect(seen).toEqual([
      [4, 512, 1024, false],
      [4, 5120, 512, false],
      [4, 512, 1024, true],
      [4, 5120, 512, true],
      [3, 512, 1024, false],
      [3, 5120, 512, false],
    ]);
    expect([b.content[511], b.content[512], b.content[1535], b.content[1536], b.content[5120]]).toEqual([
      9, 0, 0, 9, 0,
    ]);
  });
  it('5.2.6.2: unknown flags, and unmap in a discard: UNSUPP; nothing was done', () => {
    b.content.fill(9);
    expect(
      b.request(BlkType.discard, 0, [range(b.data(0), 0, 1, 0), range(b.data(0) + 16, 0, 1, 1)]).status,
    ).toBe(2);
    expect(b.request(BlkType.writeZeroes, 0, [range(b.data(0), 0, 1, 2)]).status).toBe(2);
    expect(b.content[0]).toBe(9);
  });
  it('bad ranges: IOERR; nothing was done', () => {
    b.content.fill(9);
    const ok = range(b.data(0), 0, 1, 0);
    for (const bad of [
      range(b.data(0) + 16, 256, 1, 0),
      range(b.data(0) + 16, 0, 257, 0),
      range(b.data(0) + 16, 2 ** 60, 1, 0),
    ])
      expect(b.request(BlkType.writeZeroes, 0, [ok, bad]).status).toBe(1);
    expect(b.request(BlkType.writeZeroes, 0, [[b.data(0), 17]]).status).toBe(1);
    expect(b.request(BlkType.writeZeroes, 0, []).status).toBe(1);
    b.fill(b.data(1), 4096, 0);
    expect(b.request(BlkType.writeZeroes, 0, [[b.data(1), 16 * (BlkLimit.ranges + 1)]]).status).toBe(1);
    expect(b.content[0]).toBe(9);
  });
  it('without the feature, discard and write zeroes: UNSUPP', () => {
    b.run(0);
    expect(b.request(BlkType.discard, 0, [range(b.data(0), 0, 1, 0)]).status).toBe(2);
    expect(b.request(BlkType.writeZeroes, 0, [range(b.data(0), 0, 1, 0)]).status).toBe(2);
  });
  it('no room for header or status: the device needs a reset', () => {
    for (const make of [
      () => b.driver.queues[0]!.add([[b.data(0), 15]], [[b.data(1), 1]]),
      () => b.driver.queues[0]!.add([[b.data(0), 16]], []),
      () => b.driver.queues[0]!.add([], [[b.data(1), 1]]),
    ]) {
      b.run();
      make();
      b.driver.queues[0]!.kick();
      expect(b.driver.status & 64).toBe(64);
    }
    b.run();
    expect(b.request(BlkType.flush, 0).status).toBe(0);
  });
  it('several queues work at once, each with its vector', () => {
    b = new Bench({ config: { queues: 4 } });
    b.run(allFeatures, 4);
    b.driver.queues.forEach((q, i) => {
      b.fill(b.data(i), 512, i + 1);
      const { out, status } = b.header(BlkType.out, i);
      q.add([out, [b.data(i), 512]], [status]);
      q.kick();
    });
    b.finish();
    expect(b.driver.queues.map((q) => q.harvest().length)).toEqual([1, 1, 1, 1]);
    expect([0, 1, 2, 3].map((i) => b.content[512 * i])).toEqual([1, 2, 3, 4]);
    expect(b.rig.messages.slice(2, 6).map((m) => m.count)).toEqual([1, 1, 1, 1]);
  });
  it('marks the pages that DMA writes, also when the data comes', () => {
    const dirty = new Uint8Array(64);
    let attended = 0;
    b.rig.memory.attachPageMap(new Uint8Array(64).fill(0xff), dirty, () => attended++);
    const q = b.driver.queues[0]!;
    const { out, status } = b.header(BlkType.in, 0);
    q.add([out], [[b.data(3) + 4000, 512], status]);
    q.kick();
    const page = b.data(3) / 4096;
    const marked = (p: number): boolean => (dirty[p >> 3]! & (1 << (p & 7))) !== 0;
    expect([marked(page), marked(page + 1), marked(page + 2)]).toEqual([true, true, false]);
    dirty.fill(0);
    const before = attended;
    b.finish();
    expect([marked(page), marked(page + 1), marked((status[0] / 4096) | 0), marked(q.usedAt >> 12)]).toEqual([
      true,
      true,
      true,
      true,
    ]);
    expect(attended).toBeGreaterThan(before);
  });
  it('hostile requests never throw and always end', () => {
    const word = fc.oneof(fc.nat(20), fc.integer({ min: 0, max: 0xffffffff }));
    fc.assert(
      fc.property(
        fc.array(fc.tuple(word, word, word, fc.nat(5), fc.nat(1500), fc.nat(1500)), { maxLength: 30 }),
        (list) => {
          b.run();
          const q = b.driver.queues[0]!;
          for (const [type, lo, hi, shape, n, m] of list) {
            const { out, status } = b.header(type, lo + hi * 4294967296);
            if (q.freeDescriptors < 5 || b.driver.status & 64) break;
            q.add(
              shape === 0 ? [] : [out, [b.data(0), n + 1]],
              shape === 1 ? [] : [[b.data(1), m + 1], status],
              shape > 3,
            );
            q.kick();
            b.finish();
            if (!(b.driver.status & 64)) expect(q.harvest()).toHaveLength(1);
          }
        },
      ),
      { numRuns: 200 },
    );
  });
});

conformance(
  virtioBlk(() => (memory, completed) => new MemoryDisk(new Uint8Array(65536), memory, completed)),
  { config: {}, runs: 60 },
);
