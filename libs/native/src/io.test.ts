import { spawnSync } from 'node:child_process';
import {
  closeSync,
  constants,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeEach, describe, expect, test } from 'vitest';
import { close, createIoQueue, createStallBudget, type IoQueue, ioOp, memfdCreate, mmap } from './index.ts';

const coded = (code: string) => expect.objectContaining({ code });
const SIZE = 1 << 20;

describe.each([
  { engine: 'io_uring', inline: 'none' },
  { engine: 'threads', inline: 'none' },
  { engine: 'io_uring', inline: 'all' },
] as const)('$engine, inline $inline', ({ engine, inline }) => {
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
    queue = createIoQueue({ entries: 64, engine, inline, onReady: () => wake() });
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

describe('inline', () => {
  const folder = mkdtempSync(join(tmpdir(), 'nyx-io-'));
  const path = join(folder, 'disk');
  writeFileSync(path, Buffer.alloc(SIZE, 0x11));
  const buffer = mmap(memfdCreate('ram', SIZE), SIZE);
  let queue: IoQueue;
  let memory: number;
  beforeEach(() => {
    queue = createIoQueue({ entries: 8, inline: 'all', onReady: () => {} });
    memory = queue.addMemory(buffer);
  });
  afterEach(() => queue.close());
  afterAll(() => rmSync(folder, { recursive: true }));
  /** Whether the request was over when `queue` returned, without `submit`. */
  const atOnce = async (op: 0 | 1, fd: number): Promise<boolean> => {
    queue.segments.set([memory, 0, 4096]);
    queue.queue(op, 5, fd, 4096, 1);
    let n = queue.harvest();
    const early = n === 1;
    queue.submit();
    for (; n === 0; n = queue.harvest()) await sleep(1);
    expect([...queue.completions.subarray(0, 2)]).toEqual([5, 4096]);
    return early;
  };
  /** A machine short of CPU or memory may make one wait now and then. */
  const soonAtOnce = async (op: 0 | 1, fd: number): Promise<void> => {
    for (const end = Date.now() + 60_000; !(await atOnce(op, fd)); readFileSync(path))
      if (Date.now() > end) throw new Error('never done at once');
  };

  test('what the page cache has, and a write into it, are done at once', async () => {
    const fd = openSync(path, 'r+');
    await soonAtOnce(ioOp.read, fd);
    expect(new Uint8Array(buffer, 0, 4096)).toEqual(new Uint8Array(4096).fill(0x11));
    new Uint8Array(buffer, 0, 4096).fill(0x77);
    await soonAtOnce(ioOp.write, fd);
    expect(new Uint8Array(readFileSync(path)).subarray(4096, 8192)).toEqual(new Uint8Array(4096).fill(0x77));
    closeSync(fd);
  });

  test('so is a read of a file system that cannot say whether it would wait, like tmpfs', async () => {
    const fd = memfdCreate('file', SIZE);
    for (let i = 0; i < 3; i++) await soonAtOnce(ioOp.read, fd);
    expect(new Uint8Array(buffer, 0, 4096)).toEqual(new Uint8Array(4096));
    close(fd);
  });

  test('who must not stand still gets nothing that may wait', async () => {
    const fd = openSync(path, 'r+');
    const file = memfdCreate('file', SIZE);
    const all = queue;
    queue = createIoQueue({ entries: 8, onReady: () => {} });
    memory = queue.addMemory(buffer);
    await soonAtOnce(ioOp.read, fd);
    expect(await atOnce(ioOp.write, fd)).toBe(false);
    expect(await atOnce(ioOp.read, file)).toBe(false);
    all.close();
    close(file);
    closeSync(fd);
  });

  describe.each(['a file', 'tmpfs'])('what is read again and again is read from a mapping: %s', (kind) => {
    let fd: number;
    const read = (length: number, position: number, at = 0): number => {
      queue.segments.set([memory, at, length]);
      queue.queue(ioOp.read, 5, fd, position, 1);
      queue.submit();
      for (const end = Date.now() + 60_000; queue.harvest() === 0; )
        if (Date.now() > end) throw new Error('never done');
      return queue.completions[1]!;
    };
    /** Reads until one more was mapped. */
    const mapped = (length: number, position: number): void => {
      const before = queue.mapped;
      for (const end = Date.now() + 60_000; queue.mapped === before; ) {
        expect(read(length, position)).toBe(length);
        if (Date.now() > end) throw new Error('never read from the mapping');
      }
    };
    const first = (n: number): number[] => [...new Uint8Array(buffer, 0, n)];
    beforeEach(() => {
      fd = kind === 'tmpfs' ? memfdCreate('file', SIZE, { seal: false }) : openSync(`${path}.mapped`, 'w+');
      writeSync(fd, Buffer.alloc(SIZE, 0x11), 0, SIZE, 0);
    });
    afterEach(() => closeSync(fd));

    test('with all that was written since', () => {
      mapped(4096, 8192);
      for (let i = 0; i < 20; i++) {
        writeSync(fd, Buffer.alloc(4, i), 0, 4, 8192);
        mapped(4096, 8192);
        expect(first(5)).toEqual([i, i, i, i, 0x11]);
      }
      mapped(65536, 512);
      ftruncateSync(fd, 2 * SIZE);
      writeSync(fd, Buffer.alloc(4096, 0x22), 0, 4096, 2 * SIZE - 4096);
      mapped(4096, 2 * SIZE - 4096);
      expect(first(1)).toEqual([0x22]);
    });

    test('a file that is cut, and memory that is cut, are an answer as ever', () => {
      mapped(4096, 8192);
      ftruncateSync(fd, 8192);
      expect(read(4096, 8192)).toBe(0);
      ftruncateSync(fd, SIZE);
      expect(read(4096, 8192)).toBe(4096);
      expect(first(2)).toEqual([0, 0]);
      writeSync(fd, Buffer.alloc(4096, 0x33), 0, 4096, 8192);
      mapped(4096, 8192);
      expect(first(2)).toEqual([0x33, 0x33]);
      const ram = memfdCreate('ram', SIZE, { seal: false });
      memory = queue.addMemory(mmap(ram, SIZE));
      mapped(4096, 8192);
      ftruncateSync(ram, 4096);
      const EFAULT = 14;
      expect(read(4096, 8192, 8192)).toBe(-EFAULT);
      expect(read(4096, 8192)).toBe(4096);
      close(ram);
    });

    test('not the page in which the file ends', () => {
      ftruncateSync(fd, 4096 + 512);
      for (let i = 0; i < 20; i++) {
        mapped(4096, 0);
        expect(read(4096, 4096)).toBe(512);
      }
    });
  });

  // The process is on one CPU with three that never rest: it is stopped in the middle of calls all the time, and never waits.
  test('who is preempted does not wait', () => {
    const script = join(folder, 'preempted.ts');
    writeFileSync(
      script,
      `import { createIoQueue, ioOp, memfdCreate, mmap } from '${join(import.meta.dirname, 'index.ts')}';
      const queue = createIoQueue({ entries: 8, inline: 'all', onReady() {} });
      queue.segments.set([queue.addMemory(mmap(memfdCreate('ram', 65536), 65536)), 0, 65536]);
      const fd = memfdCreate('file', 65536);
      let [all, early] = [0, 0];
      const share = () => {
        all = early = 0;
        for (const end = Date.now() + 2000; Date.now() < end; all++) {
          queue.queue(ioOp.write, 0, fd, 0, 1);
          const n = queue.harvest();
          early += n;
          queue.submit();
          if (n === 0) while (queue.harvest() === 0);
        }
        return early / all;
      };
      for (let i = 0; i < 20 && share() < 0.9; i++);
      console.log(early / all);
      process.exit();`,
    );
    const busy = 'for i in 1 2 3; do while :; do :; done & done; "$@"; r=$?; kill $(jobs -p); exit $r';
    const cpu = /Cpus_allowed_list:\s*(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))![1]!;
    const r = spawnSync(
      'taskset',
      ['-c', cpu, 'bash', '-c', busy, 'busy', 'node', '--import', 'tsx', script],
      {
        encoding: 'utf8',
        cwd: import.meta.dirname,
        timeout: 110_000,
      },
    );
    if ((r.error as NodeJS.ErrnoException | undefined)?.code === 'ENOENT')
      return console.log('skipped: no taskset (util-linux)');
    expect([r.status, r.stderr]).toEqual([0, '']);
    expect(Number(r.stdout)).toBeGreaterThan(0.9);
  }, 120_000);

  test('direct I/O is not', async () => {
    let fd: number;
    try {
      fd = openSync(path, constants.O_RDWR | constants.O_DIRECT);
    } catch (e) {
      console.log(`skipped: no direct I/O in ${folder}: ${(e as Error).message}`);
      return;
    }
    expect(await atOnce(ioOp.read, fd)).toBe(false);
    expect(await atOnce(ioOp.write, fd)).toBe(false);
    closeSync(fd);
  });

  test('a call that waits now and then is nothing; one that waits long, or many, end it for fifty times as long', () => {
    const ms = 1e6;
    const budget = createStallBudget();
    let now = 1e9;
    // Copying takes time, too: 1 MiB in 1 ms is no waiting.
    for (let i = 0; i < 1000; i++) budget.spent(now, now + ms, 1 << 20);
    expect(budget.allows(now)).toBe(true);
    budget.spent(now, now + 10 * ms, 4096);
    expect(budget.allows(now + 10 * ms)).toBe(true);
    budget.spent(now, now + 200 * ms, 4096);
    now += 200 * ms;
    // 210 ms of waiting are paid by 10.5 s; 20 ms are for nothing.
    expect(budget.allows(now)).toBe(false);
    expect(budget.allows(now + 9000 * ms)).toBe(false);
    expect(budget.allows(now + 10_500 * ms)).toBe(true);
  });
});
