import type { Status } from '@nyx/protocol/control';
import { expect, test } from 'vitest';
import { spent, usage } from './processor.ts';
import { cut } from './text.ts';
import { draw } from './top.ts';
import { type Look, rates } from './top-rates.ts';

const status = (n: number): Status => ({
  name: 'vm',
  state: 'running',
  since: 0,
  pid: 10,
  vcpuPid: 11,
  accel: 'soft',
  cpus: 1,
  memory: 512 << 20,
  guestNs: n * 1e9,
  resets: 0,
  agent: false,
  milestones: {},
  vcpus: [
    {
      state: 'running',
      instructions: 1e9 * n,
      instructionsPerSecond: 0,
      exits: { sync: 1000 * n, posted: 500 * n, shadow: 0, counter: 20 * n, unclaimed: 0, halt: 4 * n },
      exitsPerSecond: 0,
      interrupts: 250 * n,
      waitNs: 0,
      maxWaitNs: 0,
      time: {
        translated: 6e8 * n,
        interpreter: 1e8 * n,
        translator: 5e7 * n,
        mmu: 2e7 * n,
        exits: 3e7 * n,
        waiting: 1e7 * n,
        halted: 2e8 * n,
      },
      lastRip: '0x0',
    },
  ],
  processes: [
    {
      name: 'disk0',
      state: 'serving',
      pid: 12,
      devices: [{ name: 'disk0', kind: 'virtioBlk' }],
      restarts: 3,
      served: 1500 * n,
      exitsPerSecond: 0,
      violations: 0,
    },
  ],
  faults: [],
});
const look = (n: number): Look => ({
  at: n * 1e9,
  status: status(n),
  usage: new Map([
    [10, { threads: new Map([['nyxd 10', 1e7 * n]]), bytes: 0 }],
    [
      11,
      {
        threads: new Map([
          ['main 11', 1e8 * n],
          ['vcpu0 20', 8e8 * n],
        ]),
        bytes: 0,
      },
    ],
    [12, { threads: new Map([['node 12', 2e8 * n]]), bytes: 40 << 20 }],
  ]),
});

test('rates and shares of two looks', () => {
  const t = rates(look(2), look(4));
  expect(t.seconds).toBe(2);
  expect(t.cpu).toEqual({ vcpus: 90, devices: 20, nyxd: 1 });
  const v = t.vcpus[0]!;
  expect([v.cpu, v.instructionsPerSecond, v.interruptsPerSecond, v.halted, v.waiting]).toEqual([
    80, 1e9, 250, 20, 1,
  ]);
  expect(v.exitsPerSecond).toEqual({
    sync: 1000,
    posted: 500,
    shadow: 0,
    counter: 20,
    unclaimed: 0,
    halt: 4,
  });
  expect(v.shares).toEqual({ translated: 75, interpreter: 12.5, translator: 6.25, mmu: 2.5, exits: 3.75 });
  expect(t.processes[0]).toMatchObject({ cpu: 20, bytes: 40 << 20, exitsPerSecond: 1500, restarts: 3 });
});

test('counters that went back, and processes that are new, make no negative rates', () => {
  const t = rates({ ...look(9), usage: new Map() }, look(1));
  const numbers = JSON.stringify(t)
    .match(/-?\d+(\.\d+)?(e-?\d+)?/g)!
    .map(Number);
  expect(Math.min(...numbers)).toBeGreaterThanOrEqual(0);
});

test('the screen', () => {
  const text = draw(rates(look(0), look(1)));
  expect(text).toContain('processors of the host 111 %');
  expect(text).toMatch(/█{14}.*▓{3}.*·/);
  expect(text).toMatch(/disk0 +serving +12 +20 % +40 MiB +1\.5 k +3 +disk0/);
  const widths = new Set(text.split('\n').map((l) => l.length));
  expect(widths.size).toBe(1);
  expect(cut('\x1b[31mred\x1b[0m and more', 5)).toBe('\x1b[31mred\x1b[0m a');
});

test('a real process: its time grows, its memory is its own', () => {
  const before = usage(process.pid)!;
  const end = performance.now() + 30;
  while (performance.now() < end);
  const now = usage(process.pid)!;
  expect(spent(before, now)).toBeGreaterThan(5e6);
  expect(now.bytes).toBeGreaterThan(1 << 20);
  expect(usage(2 ** 22 + 1)).toBe(undefined);
});
