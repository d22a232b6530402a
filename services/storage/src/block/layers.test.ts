/** The layers over drivers: what becomes of errors, and limits. */
import { describe, expect, it } from 'vitest';
import { BlockOp, BlockRequest, BlockResult, type Completed, type OpenBlock } from './block.ts';
import { MemoryDisk } from './memory.ts';
import { NullDisk } from './null.ts';
import type { ErrorPolicies } from './policy.ts';
import { layered } from './stack.ts';
import { Bucket, ThrottledDisk } from './throttle.ts';

const SIZE = 1 << 20;
const request = (id: number, op: number, position = 0, bytes = 512): BlockRequest => {
  const r = new BlockRequest(id);
  r.start(op, position, bytes);
  if (op === BlockOp.read || op === BlockOp.write) r.add(0, bytes);
  return r;
};

describe('what becomes of errors', () => {
  /** A disk that gives `errors` one after another, then none. */
  const world = (policies: ErrorPolicies, errors: number[], tells = true) => {
    const events: Record<string, unknown>[] = [];
    const done: [id: number, result: number][] = [];
    const open: OpenBlock = (memory, completed) =>
      new MemoryDisk(new Uint8Array(SIZE), memory, completed, {
        eager: true,
        before: () => errors.shift() ?? BlockResult.ok,
      });
    const completed: Completed = (list, n) => {
      for (let i = 0; i < n; i++) done.push([list[i]!.id, list[i]!.result]);
    };
    const source = tells
      ? { tell: (event: string, detail: object) => void events.push({ event, ...detail }) }
      : {};
    const disk = layered(source, policies, open)(new ArrayBuffer(65536), completed);
    const run = (...list: BlockRequest[]): void => {
      for (const r of list) disk.submit(r);
      disk.kick();
      disk.poll();
    };
    return { events, done, disk, run };
  };
  const { read, write, flush, discard } = BlockOp;
  const { io, noSpace, unsupported, ok } = BlockResult;

  it('is reported, unless there is no room', () => {
    const w = world({}, [io, io, io, noSpace]);
    w.run(request(1, read), request(2, write), request(3, flush), request(4, write, 4096));
    expect(w.done).toEqual([
      [1, io],
      [2, io],
      [3, io],
    ]);
    expect(w.events).toEqual([
      { event: 'stopped', op: 'write', position: 4096, bytes: 512, reason: 'noSpace' },
    ]);
    w.disk.order!({ name: 'retry' }, []);
    w.disk.poll();
    expect(w.done.at(-1)).toEqual([4, ok]);
  });
  it('a read without room has no meaning of its own', () => {
    const w = world({}, [noSpace]);
    w.run(request(1, read));
    expect(w.done).toEqual([[1, noSpace]]);
  });
  it('ignore', () => {
    const w = world({ werror: 'ignore', rerror: 'ignore' }, [io, noSpace, io]);
    w.run(request(1, read), request(2, write), request(3, discard));
    expect(w.done.map(([, r]) => r)).toEqual([ok, ok, ok]);
  });
  it('stop holds until a retry succeeds; others go on', () => {
    const w = world({ werror: 'stop', rerror: 'stop' }, [io, ok, io, io]);
    w.run(request(1, read), request(2, write), request(3, write));
    expect(w.done).toEqual([[2, ok]]);
    w.disk.order!({ name: 'retry' }, []);
    w.disk.poll();
    // The first retry fails once more.
    expect(w.done).toEqual([
      [2, ok],
      [3, ok],
    ]);
    w.disk.order!({ name: 'retry' }, []);
    w.disk.poll();
    expect(w.done.at(-1)).toEqual([1, ok]);
    expect(w.events.map((e) => e.op)).toEqual(['read', 'write', 'read']);
  });
  it('what a driver cannot do is always reported', () => {
    const w = world({ werror: 'stop' }, [unsupported]);
    w.run(request(1, discard));
    expect(w.done).toEqual([[1, unsupported]]);
  });
  it('a drain ends what is held with its error', () => {
    const w = world({ werror: 'stop' }, [noSpace]);
    w.run(request(1, write));
    expect(w.disk.drain(100)).toBe(true);
    expect(w.done).toEqual([[1, noSpace]]);
  });
  it('without a supervisor everything is reported', () => {
    const w = world({ werror: 'stop' }, [noSpace], false);
    w.run(request(1, write));
    expect(w.done).toEqual([[1, noSpace]]);
  });
});

describe('limits', () => {
  /** Units that a bucket lets through in `seconds`, one at a time. */
  const through = (b: Bucket, from: number, seconds: number): number => {
    let n = 0;
    for (let now = from; now < from + seconds; now += 0.001)
      while (b.wait(now) === 0) {
        b.take(1);
        n++;
      }
    return n;
  };
  it('an average, with a tenth of a second at once', () => {
    const b = new Bucket(1000, 0, 1);
    const n = through(b, 100, 5);
    expect(n).toBeGreaterThanOrEqual(5000);
    expect(n).toBeLessThanOrEqual(5102);
  });
  it('a burst of so many seconds, then the average', () => {
    const b = new Bucket(100, 1000, 3);
    const burst = through(b, 100, 3);
    expect(burst).toBeGreaterThan(2900);
    expect(burst).toBeLessThan(3300);
    const after = through(b, 103, 10);
    expect(after).toBeGreaterThan(950);
    expect(after).toBeLessThan(1500);
  });

  const throttled = (o: object) => {
    let now = 10;
    const done: number[] = [];
    const memory = new ArrayBuffer(1 << 20);
    const disk = new ThrottledDisk(
      o,
      (m, c) => new MemoryDisk(new Uint8Array(SIZE), m, c, { eager: true }),
      memory,
      (list, n) => done.push(...list.slice(0, n).map((r) => r.id)),
      () => now,
    );
    const turn = (seconds: number): number => {
      now += seconds;
      disk.kick();
      disk.poll();
      return done.length;
    };
    return { disk, done, turn };
  };
  it('directions have lanes of their own; a flush passes', () => {
    const { disk, done, turn } = throttled({ 'iops-write': 10 });
    for (let i = 0; i < 10; i++) disk.submit(request(i, BlockOp.write));
    for (let i = 100; i < 110; i++) disk.submit(request(i, BlockOp.read));
    disk.submit(request(200, BlockOp.flush));
    turn(0);
    expect(done.filter((id) => id >= 100)).toHaveLength(11);
    expect(done.filter((id) => id < 100).length).toBeLessThanOrEqual(2);
    for (let i = 0; i < 12; i++) turn(0.1);
    expect(done.filter((id) => id < 100)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    disk.close();
  });
  it('bytes, and large requests that count as several', () => {
    const bps = throttled({ 'bps-total': 65536 });
    for (let i = 0; i < 4; i++) bps.disk.submit(request(i, BlockOp.read, 0, 65536));
    expect(bps.turn(0)).toBe(1);
    expect(bps.turn(0.5)).toBe(1);
    expect(bps.turn(0.5)).toBe(2);
    bps.disk.close();
    const size = throttled({ 'iops-total': 16, 'iops-size': 4096 });
    for (let i = 0; i < 4; i++) size.disk.submit(request(i, BlockOp.write, 0, 65536));
    expect(size.turn(0)).toBe(1);
    expect(size.turn(1)).toBe(2);
    size.disk.close();
  });
  it('neither direction starves the other', () => {
    const { disk, done, turn } = throttled({ 'iops-total': 10 });
    for (let i = 0; i < 40; i++) disk.submit(request(i, i % 2 ? BlockOp.read : BlockOp.write));
    for (let i = 0; i < 20; i++) turn(0.1);
    const reads = done.filter((id) => id % 2).length;
    expect(done.length).toBeLessThanOrEqual(22);
    expect(Math.abs(done.length - 2 * reads)).toBeLessThanOrEqual(2);
    expect(disk.drain(100)).toBe(true);
    expect(done).toHaveLength(40);
  });
});

it('null: zeroes', () => {
  const memory = new ArrayBuffer(4096);
  new Uint8Array(memory).fill(7);
  let finished = 0;
  const disk = new NullDisk(SIZE, false, memory, (_, n) => {
    finished += n;
  });
  disk.submit(request(1, BlockOp.read));
  disk.submit(request(2, BlockOp.write));
  disk.drain();
  expect(finished).toBe(2);
  expect([...new Uint8Array(memory, 510, 4)]).toEqual([0, 0, 7, 7]);
});
