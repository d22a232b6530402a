import {
  closeSync,
  constants,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { memfdCreate, mmap } from '@nyx/native';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BlockOp, BlockRequest, BlockResult } from './block.ts';
import { RawDisk, type RawOptions } from './raw.ts';

const MEMORY = 1 << 20;
let folder: string;
let path: string;
let fd: number;
let memory: Uint8Array;
let disk: RawDisk;
let done: BlockRequest[];
let wake: () => void = () => {};

function open(options: Partial<RawOptions> = {}, bytes = 1 << 20): void {
  writeFileSync(path, new Uint8Array(bytes).fill(0x11));
  fd = openSync(path, options.readOnly ? 'r' : 'r+');
  const buffer = mmap(memfdCreate('ram', MEMORY), MEMORY);
  memory = new Uint8Array(buffer);
  done = [];
  disk = new RawDisk({ fd, ...options }, buffer, (list, n) => {
    done.push(...list.slice(0, n));
    wake();
  });
}

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'nyx-raw-'));
  path = join(folder, 'disk');
});
afterEach(() => {
  disk.close();
  closeSync(fd);
  rmSync(folder, { recursive: true });
});

const request = (
  op: number,
  position: number,
  bytes: number,
  pieces: [number, number][] = [],
): BlockRequest => {
  const r = new BlockRequest(0);
  r.start(op, position, bytes);
  for (const [at, n] of pieces) r.add(at, n);
  return r;
};

/** Submits all at once and waits, by the event loop, until they are done. */
async function run(...list: BlockRequest[]): Promise<number[]> {
  const want = done.length + list.length;
  for (const r of list) disk.submit(r);
  disk.kick();
  while (done.length < want)
    await new Promise<void>((resolve) => {
      wake = resolve;
    });
  return list.map((r) => r.result);
}

describe('raw disk on a file', () => {
  it('vectored writes and reads', async () => {
    open();
    memory.fill(0xaa, 0, 512);
    memory.fill(0xbb, 8192, 8192 + 1536);
    expect(
      await run(
        request(BlockOp.write, 4096, 2048, [
          [8192, 1536],
          [0, 512],
        ]),
      ),
    ).toEqual([0]);
    const content = readFileSync(path);
    expect([
      content[4095],
      content[4096],
      content[5631],
      content[5632],
      content[6143],
      content[6144],
    ]).toEqual([0x11, 0xbb, 0xbb, 0xaa, 0xaa, 0x11]);
    expect(
      await run(
        request(BlockOp.read, 4096, 2048, [
          [20000, 1],
          [30001, 2047],
        ]),
      ),
    ).toEqual([0]);
    expect([
      memory[20000],
      memory[30001],
      memory[30001 + 1534],
      memory[30001 + 1535],
      memory[30001 + 2047],
    ]).toEqual([0xbb, 0xbb, 0xbb, 0xaa, 0]);
  });
  it('more requests than the queue is deep, each done once', async () => {
    open({ depth: 8 });
    const list = Array.from({ length: 100 }, (_, i) => {
      memory.fill(i, i * 512, i * 512 + 512);
      return request(BlockOp.write, (99 - i) * 512, 512, [[i * 512, 512]]);
    });
    expect(await run(...list)).toEqual(new Array(100).fill(0));
    expect(new Set(done).size).toBe(100);
    const content = readFileSync(path);
    for (let i = 0; i < 100; i++) expect(content[(99 - i) * 512]).toBe(i);
  });
  it('256 pieces in one request', async () => {
    open();
    const pieces = Array.from({ length: 256 }, (_, i): [number, number] => [i * 1024, 512]);
    for (const [i, [at]] of pieces.entries()) memory.fill(i, at, at + 512);
    expect(await run(request(BlockOp.write, 0, 256 * 512, pieces))).toEqual([0]);
    const content = readFileSync(path);
    for (let i = 0; i < 256; i++) expect([content[i * 512], content[i * 512 + 511]]).toEqual([i, i]);
  });
  it('flush, and writes that are forced through', async () => {
    open();
    const forced = request(BlockOp.write, 0, 512, [[0, 512]]);
    forced.fua = true;
    expect(await run(forced, request(BlockOp.flush, 0, 0))).toEqual([0, 0]);
    expect(readFileSync(path)[0]).toBe(0);
  });
  it('discard gives space back, write zeroes reads as zeroes; the size stays', async () => {
    open();
    const before = statSync(path).blocks;
    expect(await run(request(BlockOp.discard, 65536, 262144))).toEqual([0]);
    const unmap = request(BlockOp.writeZeroes, 524288, 65536);
    unmap.unmap = true;
    expect(await run(unmap, request(BlockOp.writeZeroes, 700_416, 512))).toEqual([0, 0]);
    const content = readFileSync(path);
    expect([content.length, content[700_415], content[700_416], content[700_927], content[700_928]]).toEqual([
      1 << 20,
      0x11,
      0,
      0,
      0x11,
    ]);
    expect(content.subarray(524288, 524288 + 65536).every((x) => x === 0)).toBe(true);
    // tmpfs and ext4 know holes; elsewhere discard is only a hint.
    if (content[65536] === 0) expect(statSync(path).blocks).toBeLessThan(before);
  });
  it('a file that somebody cut: an error, not stale memory', async () => {
    open();
    ftruncateSync(fd, 4096);
    memory.fill(0x77);
    expect(await run(request(BlockOp.read, 8192, 512, [[0, 512]]))).toEqual([BlockResult.gone]);
    expect(await run(request(BlockOp.read, 3584, 1024, [[0, 1024]]))).toEqual([BlockResult.gone]);
    expect(await run(request(BlockOp.read, 0, 4096, [[0, 4096]]))).toEqual([BlockResult.ok]);
  });
  it('a descriptor that cannot be written: an error', async () => {
    open({ readOnly: true });
    expect(disk.canDiscard).toBe(false);
    expect(await run(request(BlockOp.write, 0, 512, [[0, 512]]))).toEqual([BlockResult.io]);
  });
  it('size is in whole sectors', () => {
    open({}, 10_000);
    expect(disk.size).toBe(9728);
    writeSync(fd, 'x');
  });
  it('drain reports everything before it returns', () => {
    open();
    for (let i = 0; i < 20; i++) disk.submit(request(BlockOp.write, i * 4096, 4096, [[0, 4096]]));
    expect(disk.drain(5000)).toBe(true);
    expect(done).toHaveLength(20);
  });
  it('without the page cache: what is aligned, by the other descriptor', async () => {
    const other = join(folder, 'other');
    writeFileSync(other, new Uint8Array(1 << 20));
    // Another file, so that the way is seen.
    const direct = openSync(other, 'r+');
    open({ direct });
    memory.fill(7, 0, 16384);
    const ways: [position: number, pieces: [number, number][], direct: boolean][] = [
      [0, [[4096, 8192]], true],
      [
        16384,
        [
          [4096, 4096],
          [12288, 4096],
        ],
        true,
      ],
      [25_088, [[4096, 4096]], false],
      [32768, [[4608, 4096]], false],
      [
        40960,
        [
          [4096, 512],
          [8192, 3584],
        ],
        false,
      ],
    ];
    for (const [position, pieces, isDirect] of ways) {
      const bytes = pieces.reduce((n, [, length]) => n + length, 0);
      expect(await run(request(BlockOp.write, position, bytes, pieces))).toEqual([0]);
      const at = (file: string): number => readFileSync(file)[position + bytes - 1]!;
      expect([at(other), at(path)], String(position)).toEqual(isDirect ? [7, at(path)] : [at(other), 7]);
      expect(at(isDirect ? path : other)).not.toBe(7);
    }
    closeSync(direct);
  });
  it('O_DIRECT and the page cache on one file agree', async (t) => {
    writeFileSync(path, new Uint8Array(1 << 20));
    let direct = -1;
    try {
      direct = openSync(path, constants.O_RDWR | constants.O_DIRECT);
    } catch (e) {
      open();
      console.warn(`O_DIRECT is not tried: ${(e as Error).message}`);
      t.skip();
    }
    open({ direct });
    for (let i = 0; i < 60; i++) {
      // By turns aligned and not, over one another.
      const position = ((i * 7) % 64) * 4096 + (i % 3 === 1 ? 512 : 0);
      const from = 4096 * (1 + (i % 8)) + (i % 4 === 2 ? 256 : 0);
      memory.fill(i + 1, from, from + 8192);
      expect(await run(request(BlockOp.write, position, 8192, [[from, 8192]]))).toEqual([0]);
      const to = 131_072 + (i % 5 === 0 ? 512 : 0);
      expect(await run(request(BlockOp.read, position, 8192, [[to, 8192]]))).toEqual([0]);
      expect(
        memory.subarray(to, to + 8192).every((b) => b === i + 1),
        String(i),
      ).toBe(true);
    }
    closeSync(direct);
  });
  it('agrees with a model under random requests', async () => {
    open({ depth: 16 });
    const model = new Uint8Array(1 << 20).fill(0x11);
    const sector = fc.nat(2047);
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(3), sector, fc.integer({ min: 1, max: 40 }), fc.nat(255), fc.nat(3)), {
          maxLength: 12,
        }),
        async (ops) => {
          for (const [op, first, many, value, cut] of ops) {
            const count = Math.min(many, 2048 - first);
            const [at, bytes] = [first * 512, count * 512];
            const split = Math.min(bytes - 1, 100 + cut);
            const pieces: [number, number][] = [
              [4096, split],
              [100_000, bytes - split],
            ];
            if (op === 0) {
              memory.fill(value, 4096, 4096 + split);
              memory.fill(value ^ 1, 100_000, 100_000 + bytes - split);
              model.fill(value, at, at + split);
              model.fill(value ^ 1, at + split, at + bytes);
              expect(await run(request(BlockOp.write, at, bytes, pieces))).toEqual([0]);
            } else if (op === 1) {
              expect(await run(request(BlockOp.read, at, bytes, pieces))).toEqual([0]);
              expect(
                Buffer.compare(memory.subarray(4096, 4096 + split), model.subarray(at, at + split)),
              ).toBe(0);
              expect(
                Buffer.compare(
                  memory.subarray(100_000, 100_000 + bytes - split),
                  model.subarray(at + split, at + bytes),
                ),
              ).toBe(0);
            } else {
              const r = request(BlockOp.writeZeroes, at, bytes);
              r.unmap = op === 3;
              model.fill(0, at, at + bytes);
              expect(await run(r)).toEqual([0]);
            }
          }
          expect(Buffer.compare(readFileSync(path), model)).toBe(0);
        },
      ),
      { numRuns: 40 },
    );
  });
});
