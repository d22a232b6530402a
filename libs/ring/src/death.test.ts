/** Who serves rings tells its death in them (holder, inFlight), and only the kernel can say that it is dead. */
import { once } from 'node:events';
import { closeSync, openSync, rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { createDeathWatch, createIoQueue, ioOp } from '@nyx/native';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { RingsView } from './rings.ts';
import { ExitServer } from './server.ts';
import { bundle, makeBlock, makeRings, type RingFixture, startCounter } from './testing/fixture.ts';

const waiters = 0x8000_0000;
const ownerDied = 0x4000_0000;
const dead = (waiters | ownerDied) >>> 0;

let counter: string;
let rings: RingFixture;
beforeAll(() => {
  counter = bundle('counter');
});
afterAll(() => rmSync(counter));
beforeEach(() => {
  rings = makeRings();
});
afterEach(() => rings.close());

const control = () => new RingsView(rings.buffer).control;
const serving = async (): Promise<void> => {
  while (control().attached === 0) await sleep(5);
};

test.each(['SIGKILL', 'SIGSEGV'] as const)('a death by %s is told to who waits for it', async (signal) => {
  const child = startCounter(counter, rings, makeBlock().fd);
  await serving();
  expect(control().holder).toBeGreaterThan(waiters);
  const told = new Promise<number>((resolve) => {
    createDeathWatch(resolve).start(rings.buffer);
  });
  const exit = once(child, 'exit');
  child.kill(signal);
  expect(await told).toBe(0);
  expect(control().holder).toBe(dead);
  await exit;
});

test('a death that was before is told at once', async () => {
  const child = startCounter(counter, rings, makeBlock().fd, 0, 0, true);
  await serving();
  const exit = once(child, 'exit');
  child.kill('SIGKILL');
  await exit;
  expect(await new Promise((resolve) => createDeathWatch(resolve).start(rings.buffer))).toBe(0);
});

test.each([0, 17, ownerDied, waiters | ownerDied | 17])('%i in its place is no death', async (word) => {
  let told = false;
  const watch = createDeathWatch(() => {
    told = true;
  });
  control().holder = word;
  watch.start(rings.buffer);
  await sleep(20);
  watch.close();
  await sleep(20);
  expect(told).toBe(false);
});

test('a watch ends while it waits, and before it does', () => {
  const [idle, waiting] = [createDeathWatch(() => {}), createDeathWatch(() => {})];
  control().holder = (waiters | 17) >>> 0;
  waiting.start(rings.buffer);
  expect(() => waiting.start(rings.buffer)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  waiting.close();
  idle.close();
});

test('file requests that others carry out are counted', async () => {
  const server = new ExitServer({ rings: rings.buffer, kick: rings.kick, onExit() {} });
  server.attach();
  expect(control().holder).toBeGreaterThan(waiters);
  const fd = openSync('/dev/zero', 'r');
  const queue = createIoQueue({ entries: 8, onReady() {} });
  for (const id of [1, 2, 3]) {
    queue.queue(ioOp.fsync, id, fd, 0, 0);
    expect(control().inFlight).toBe(id);
  }
  queue.submit();
  expect(control().inFlight).toBe(3);
  for (let done = 0; done < 3; await sleep(1)) done += queue.harvest();
  expect(control().inFlight).toBe(0);
  queue.close();
  closeSync(fd);
  server.close();
  await sleep(1);
  expect(control().holder).toBe(0);
});

test('a process whose other threads write tells nothing', () => {
  const server = new ExitServer({ rings: rings.buffer, kick: rings.kick, alone: false, onExit() {} });
  server.attach();
  expect(control().holder).toBe(0);
  server.close();
});
