/** 4 KiB random reads from a file in the page cache into mapped memory: the addon's queue beside fs.read. */
import { closeSync, mkdtempSync, openSync, read, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createIoQueue, ioOp, memfdCreate, mmap, pread } from '../src/index.ts';

const FILE = 64 << 20;
const folder = mkdtempSync(join(tmpdir(), 'nyx-bench-'));
const path = join(folder, 'disk');
writeFileSync(path, Buffer.alloc(FILE, 1));
const fd = openSync(path, 'r');
const memory = mmap(memfdCreate('ram', 1 << 20), 1 << 20);
const bytes = new Uint8Array(memory);
const place = (): number => Math.floor((Math.random() * FILE) / 4096) * 4096;

const report = (name: string, n: number, began: number, cpu: NodeJS.CpuUsage): void => {
  const seconds = (performance.now() - began) / 1000;
  const used = process.cpuUsage(cpu);
  console.log(
    `${name.padEnd(36)} ${(n / seconds / 1000).toFixed(0).padStart(5)} k/s  ${((used.user + used.system) / n).toFixed(1).padStart(5)} us CPU each`,
  );
};

async function queued(engine: 'io_uring' | 'threads', depth: number, n: number): Promise<void> {
  let done = 0;
  let started = 0;
  let finish: () => void = () => {};
  const finished = new Promise<void>((resolve) => {
    finish = resolve;
  });
  const q = createIoQueue({ entries: 64, engine, onReady: () => run() });
  const m = q.addMemory(memory);
  const start = (id: number): void => {
    if (started++ >= n) return;
    q.segments[0] = m;
    q.segments[1] = id * 4096;
    q.segments[2] = 4096;
    q.queue(ioOp.read, id, fd, place(), 1);
  };
  const run = (): void => {
    // A while at a time, as a device does between two turns of its event loop.
    for (let turns = 0; turns < 50; turns++) {
      const count = q.harvest();
      if (count === 0 && turns > 0) break;
      done += count;
      for (let i = 0; i < count; i++) start(q.completions[2 * i]!);
      if (done === n) {
        finish();
        return;
      }
      if (!q.submit()) break;
    }
  };
  const began = performance.now();
  const cpu = process.cpuUsage();
  for (let id = 0; id < depth; id++) start(id);
  q.submit();
  await finished;
  report(`${engine}, depth ${depth}`, n, began, cpu);
  q.close();
}

async function node(depth: number, n: number): Promise<void> {
  let done = 0;
  let started = 0;
  const began = performance.now();
  const cpu = process.cpuUsage();
  await new Promise<void>((resolve) => {
    const start = (id: number): void => {
      if (started++ >= n) return;
      read(fd, bytes, id * 4096, 4096, place(), () => {
        if (++done === n) resolve();
        else start(id);
      });
    };
    for (let id = 0; id < depth; id++) start(id);
  });
  report(`fs.read, depth ${depth}`, n, began, cpu);
}

for (const depth of [1, 32]) {
  await queued('io_uring', depth, 200_000);
  await queued('threads', depth, 50_000);
  await node(depth, 30_000);
}
const began = performance.now();
const cpu = process.cpuUsage();
for (let i = 0; i < 200_000; i++) pread(fd, memory, 0, 4096, place());
report('pread, synchronous', 200_000, began, cpu);
closeSync(fd);
rmSync(folder, { recursive: true });
