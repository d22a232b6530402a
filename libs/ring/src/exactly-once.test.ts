/**
 * The promise of the whole design: a device process is killed at any instruction, another one continues, and
 * every access of the guest happened exactly once.
 */
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { createTestProducer } from '@nyx/native';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { StateBlock } from './block.ts';
import { RingsView } from './rings.ts';
import { counterSpec } from './testing/counter.ts';
import { bundle, makeBlock, makeRings, type RingFixture, startCounter } from './testing/fixture.ts';
import { ExitKind } from './wire.ts';

let counter: string;
let worker: string;
let rings: RingFixture;
let state: ReturnType<typeof makeBlock>;

beforeAll(() => {
  counter = bundle('counter');
  worker = bundle('worker');
});
afterAll(() => {
  rmSync(counter);
  rmSync(worker);
});
beforeEach(() => {
  rings = makeRings();
  state = makeBlock();
});
afterEach(() => rings.close());

const total = (n: number): number => (n * (n + 1)) / 2;

/** What the device remembers, as a successor would see it. */
const remembered = () => {
  const block = new StateBlock(state.buffer, counterSpec);
  const { total, writes, disorder, last } = block.state;
  return { total, writes, disorder, last };
};

const pointNames = [
  'before the commit',
  'between commit and reply',
  'between reply and tail',
  'after the tail moved',
];

test.each(pointNames.map((name, point) => ({ name, point })))(
  'killed $name, an exit happens exactly once',
  async ({ point }) => {
    const producer = createTestProducer(rings.buffer, 0, rings.kick);
    for (let i = 1; i <= 20; i++) producer.publish(ExitKind.write, 0, 0, 0, 4, i, 0);
    const first = startCounter(counter, rings, state.fd, 11, point);
    expect(await once(first, 'exit')).toEqual([null, 'SIGKILL']);
    const committed = point === 0 ? 10 : 11;
    const { control } = new RingsView(rings.buffer);
    const header = new RingsView(rings.buffer).header(0);
    expect(header.tail).toBe(point === 3 ? 11 : 10);
    expect(new Uint32Array(state.buffer)[64 >> 2]).toBe(committed); // BlockHeader.generation
    // The successor dies too, after the last exit: everything was answered.
    const second = startCounter(counter, rings, state.fd, point === 0 ? 10 : 9, 3);
    expect(await once(second, 'exit')).toEqual([null, 'SIGKILL']);
    expect(producer.await(0)).toBe(true);
    expect(remembered()).toEqual({ total: total(20), writes: 20, disorder: 0, last: 20 });
    const view = new RingsView(rings.buffer);
    for (let i = 1; i <= 20; i++)
      expect(view.slot(0, i)).toMatchObject({ replySeqLo: i, reply: total(i), status: 0 });
    expect(control.epoch).toBe(2);
  },
);

test('a vCPU at full speed never notices that its device is killed again and again', async () => {
  const n = 60_000;
  const vcpu = new Worker(worker, { workerData: { rings: rings.fd, kick: rings.kick, n } });
  let seed = 20_261;
  const random = (below: number): number => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
    return Math.floor((seed / 4294967296) * below);
  };
  let running = true;
  const finished = once(vcpu, 'message').then(([message]) => {
    running = false;
    device?.kill('SIGKILL');
    return message;
  });
  let device: ReturnType<typeof startCounter> | undefined;
  let deaths = 0;
  while (running) {
    device = startCounter(counter, rings, state.fd, 1 + random(4000), random(4));
    const [, signal] = await once(device, 'exit');
    expect(signal).toBe('SIGKILL');
    deaths++;
  }
  expect(await finished).toEqual({ done: n, wrong: 0 });
  expect(deaths).toBeGreaterThan(15);
  expect(remembered()).toEqual({ total: total(n), writes: n, disorder: 0, last: n });
  await vcpu.terminate();
}, 60_000);

test('a vCPU at full speed never notices that its device is killed from outside', async () => {
  const n = 300_000;
  const vcpu = new Worker(worker, { workerData: { rings: rings.fd, kick: rings.kick, n } });
  let running = true;
  const finished = once(vcpu, 'message').then(([message]) => {
    running = false;
    device?.kill('SIGKILL');
    return message;
  });
  let device: ReturnType<typeof startCounter> | undefined;
  let deaths = 0;
  const { control } = new RingsView(rings.buffer);
  const writes = () => {
    const words = new Uint32Array(state.buffer);
    return words[64 >> 2]!;
  };
  while (running) {
    const epoch = control.epoch;
    device = startCounter(counter, rings, state.fd);
    const gone = once(device, 'exit');
    // As soon as it has served something, wherever it is then.
    const before = writes();
    while (running && (control.attached === epoch || writes() < before + 5000))
      await new Promise(setImmediate);
    device.kill('SIGKILL');
    await gone;
    deaths++;
  }
  expect(await finished).toEqual({ done: n, wrong: 0 });
  expect(deaths).toBeGreaterThan(3);
  expect(remembered()).toEqual({ total: total(n), writes: n, disorder: 0, last: n });
  await vcpu.terminate();
}, 120_000);

test('a device process that is jailed to its system calls serves as before', async () => {
  const n = 100_000;
  const device = startCounter(counter, rings, state.fd, 0, 0, true);
  const gone = once(device, 'exit');
  const vcpu = new Worker(worker, { workerData: { rings: rings.fd, kick: rings.kick, n } });
  const [message] = await Promise.race([once(vcpu, 'message'), gone]);
  expect(message).toEqual({ done: n, wrong: 0 });
  device.kill('SIGKILL');
  await gone;
  expect(remembered()).toEqual({ total: total(n), writes: n, disorder: 0, last: n });
  await vcpu.terminate();
});
