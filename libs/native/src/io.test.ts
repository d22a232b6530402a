import { spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { close, createIoQueue, type IoQueue, ioOp, memfdCreate, mmap } from './index.ts';

const coded = (code: string) => expect.objectContaining({ code });
const SIZE = 1 << 20;

describe.each(['io_uring', 'threads'] as const)('%s', (engine) => {
  let folder: string;
  let path: string;
  let fd: number;
  let memoryFd: number;
  let bytes: Uint8Array;
  let queue: IoQueue;
  let memory: number;
  let wake: () => void;

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'nyx-io-'));
    path = join(folder, 'disk');
    writeFileSync(path, Buffer.alloc(SIZE, 0x11));
    fd = openSync(path, 'r+');
    memoryFd = memfdCreate('ram', SIZE);
    const buffer = mmap(memoryFd, SIZE);
    bytes = new Uint8Array(buffer);
    wake = () => {};
    queue = createIoQueue({ entries: 64, engine, onReady: () => wake() });
    memory = queue.addMemory(buffer);
  });
  afterEach(() => {
    queue.close();
    closeSync(fd);
    close(memoryFd);
    rmSync(folder, { recursive: true });
  });

  /** Waits for n completions: id to result. */
  const complete = async (n: number): Promise<Map<number, number>> => {
    const results = new Map<number, number>();
    const take = () => {
      const count = queue.harvest();
      for (let i = 0; i < count; i++) results.set(queue.completions[2 * i]!, queue.completions[2 * i + 1]!);
    };
    const more = () =>
      new Promise<void>((resolve) => {
        wake = resolve;
      });
    if (queue.submit()) take();
    while (results.size < n) {
      await more();
      take();
    }
    return results;
  };
  const segment = (i: number, offset: number, length: number) =>
    queue.segments.set([memory, offset, length], 3 * i);

  test('is told of a read that had to wait for the disk', async () => {
    // Data out of the page cache: such a read completes in this thread, in the middle of something else.
    const dropped = spawnSync('dd', [`of=${path}`, 'oflag=nocache', 'conv=notrunc,fdatasync', 'count=0']);
    expect(dropped.status).toBe(0);
    for (let i = 0; i < 16; i++) {
      segment(0, i * 4096, 4096);
      queue.queue(ioOp.read, i, fd, i * 65536, 1);
    }
    const done = await complete(16);
    expect([...done.values()]).toEqual(Array.from({ length: 16 }, () => 4096));
    expect(bytes[15 * 4096]).toBe(0x11);
  });

  test('reads into several places of memory, writes from several', async () => {
    bytes.fill(0xaa, 0, 512);
    bytes.fill(0xbb, 4096, 4096 + 1024);
    segment(0, 0, 512);
    segment(1, 4096, 1024);
    queue.queue(ioOp.write, 7, fd, 8192, 2);
    expect(await complete(1)).toEqual(new Map([[7, 1536]]));
    const disk = readFileSync(path);
    expect(disk.subarray(8192, 8704)).toEqual(Buffer.alloc(512, 0xaa));
    expect(disk.subarray(8704, 9728)).toEqual(Buffer.alloc(1024, 0xbb));
    expect(disk[9728]).toBe(0x11);
    segment(0, 100_000, 1536);
    queue.queue(ioOp.read, 8, fd, 8192, 1);
    expect(await complete(1)).toEqual(new Map([[8, 1536]]));
    expect(Buffer.from(bytes.subarray(100_000, 101_536))).toEqual(disk.subarray(8192, 9728));
  });

  test('onReady tells of every completion, also of those that were there when submit returned', async () => {
    for (let round = 0; round < 50; round++) {
      const told = new Promise<void>((resolve) => {
        wake = resolve;
      });
      segment(0, 0, 4096);
      queue.queue(ioOp.read, round, fd, 0, 1);
      queue.submit();
      await told;
      expect(queue.harvest()).toBe(1);
    }
    let early = 0;
    wake = () => early++;
    queue.queue(ioOp.read, 1, fd, 0, 1);
    const there = queue.submit();
    if (there) expect(queue.harvest()).toBe(1);
    await new Promise(setImmediate);
    await new Promise(setImmediate);
    if (there) expect(early).toBe(0);
  });

  test('many requests at once, each with its own id', async () => {
    for (let i = 0; i < 64; i++) {
      segment(0, i * 4096, 2048);
      segment(1, i * 4096 + 2048, 2048);
      expect(queue.queue(ioOp.read, 1000 + i, fd, i * 4096, 2)).toBe(true);
    }
    expect(queue.queue(ioOp.fsync, 1, fd, 0, 0)).toBe(false); // 64 are in flight
    expect(queue.inFlight).toBe(64);
    const results = await complete(64);
    expect([...results.values()].every((r) => r === 4096)).toBe(true);
    expect(queue.inFlight).toBe(0);
    expect(bytes.subarray(0, 64 * 4096).every((b) => b === 0x11)).toBe(true);
  });

  test('lists of 256 segments', async () => {
    for (let round = 0; round < 20; round++) {
      for (let i = 0; i < 256; i++) segment(i, i * 512, 512);
      queue.queue(ioOp.read, round, fd, 0, 256);
    }
    expect([...(await complete(20)).values()]).toEqual(Array(20).fill(256 * 512));
  });

  test('flush, holes and zeroes', async () => {
    queue.queue(ioOp.fsync, 1, fd, 0, 0);
    queue.queue(ioOp.fdatasync, 2, fd, 0, 0);
    segment(0, 0, 4096);
    queue.queue(ioOp.punchHole, 3, fd, 4096, 1);
    const results = await complete(3);
    expect([...results.entries()].sort()).toEqual([
      [1, 0],
      [2, 0],
      [3, 0],
    ]);
    expect(readFileSync(path).subarray(4096, 8192)).toEqual(Buffer.alloc(4096));
    queue.queue(ioOp.zeroRange, 4, fd, 16_384, 1);
    const zero = (await complete(1)).get(4);
    expect([0, -95]).toContain(zero); // EOPNOTSUPP: the file system cannot
  });

  test('the end of the file, errors and bad descriptors are results, not exceptions', async () => {
    segment(0, 0, 4096);
    queue.queue(ioOp.read, 1, fd, SIZE - 100, 1);
    queue.queue(ioOp.read, 2, fd, SIZE + 5, 1);
    queue.queue(ioOp.read, 3, 999_999, 0, 1);
    expect([...(await complete(3)).entries()].sort()).toEqual([
      [1, 100],
      [2, 0],
      [3, -9],
    ]);
  });

  test('a segment outside its memory is refused before anything happens', () => {
    for (const s of [
      [memory, SIZE - 1, 2],
      [memory, -1, 1],
      [memory + 1, 0, 1],
      [-1, 0, 1],
      [memory, Number.NaN, 1],
      [memory, 0, Number.POSITIVE_INFINITY],
      [memory, 2 ** 53, 2 ** 53],
    ]) {
      queue.segments.set(s);
      expect(() => queue.queue(ioOp.read, 1, fd, 0, 1)).toThrow(coded('EINVAL'));
    }
    expect(() => queue.queue(9, 1, fd, 0, 1)).toThrow(coded('EINVAL'));
    expect(() => queue.queue(ioOp.read, 1, fd, 0, 257)).toThrow(coded('EINVAL'));
    expect(() => queue.queue(ioOp.read, 1, fd, 0, 0)).toThrow(coded('EINVAL'));
    expect(queue.inFlight).toBe(0);
  });

  test('closing with requests in flight waits for them', () => {
    for (let i = 0; i < 32; i++) {
      segment(0, i * 4096, 4096);
      queue.queue(ioOp.read, i, fd, i * 4096, 1);
    }
    queue.submit();
    queue.close();
    expect(() => queue.submit()).toThrow(coded('EBADF'));
  });
});
