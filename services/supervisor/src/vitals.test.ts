import { describe, expect, test } from 'vitest';
import { Growth, HangWatch, type VcpuVital } from './vitals.ts';

const on = 0x202;
const off = 0x2;
const running = (over: Partial<VcpuVital> = {}): VcpuVital => ({
  state: 1,
  looks: 0,
  rflags: off,
  rip: '0x10',
  interrupts: 5,
  ...over,
});

/** Looks once a second for `seconds`; the second at which a hang was told, and its words. */
const run = (vcpus: (t: number) => VcpuVital[], seconds = 60, counts = true): string[] => {
  const w = new HangWatch(10, () => counts);
  const told: string[] = [];
  for (let t = 0; t <= seconds; t++) {
    const h = w.look(t * 1000, vcpus(t));
    if (h) told.push(`${t}: vCPU ${h.vcpu} ${h.what}`);
  }
  return told;
};

describe('a guest', () => {
  test('that spins with interrupts off hangs; once', () =>
    expect(run((t) => [running({ looks: t, rip: `0x${t % 3}` })])).toEqual([
      '11: vCPU 0 spins with interrupts off',
    ]));
  test('that takes interrupts does not', () =>
    expect(run((t) => [running({ looks: t, interrupts: t })])).toEqual([]));
  test('that has interrupts on and moves does not', () =>
    expect(run((t) => [running({ looks: t, rflags: on, rip: `0x${t}` })])).toEqual([]));
  test('that has interrupts on, takes none and is always at one place does', () =>
    expect(run((t) => [running({ looks: t, rflags: on })])).toEqual([
      '11: vCPU 0 spins with interrupts on, at one place',
    ]));
  test('the same under an engine that does not count interrupts is nothing', () =>
    expect(run((t) => [running({ looks: t, rflags: on })], 60, false)).toEqual([]));
  test('that halted with interrupts off hangs, with interrupts on it idles', () => {
    expect(run(() => [running({ state: 2 })])).toEqual(['10: vCPU 0 halted with interrupts off']);
    expect(run(() => [running({ state: 2, rflags: on })])).toEqual([]);
  });
  test('of which one vCPU is parked for good goes on', () =>
    expect(run((t) => [running({ state: 2, rflags: on, looks: t }), running({ state: 2 })])).toEqual([]));
  test('of which all are parked hangs, whatever waits for its start', () =>
    expect(run(() => [running({ state: 2 }), running({ state: 2 }), running({ state: 0 })]).length).toBe(1));
  test('that waits for a device does not hang', () =>
    expect(run((t) => [running({ state: 3, looks: t })])).toEqual([]));
  test('whose vCPU never comes by hangs', () =>
    expect(run(() => [running()])).toEqual(['11: vCPU 0 does not come by']));
  test('that makes progress in between is told again', () =>
    expect(run((t) => [running({ looks: t, interrupts: t === 30 ? 6 : 5 + (t > 30 ? 1 : 0) })])).toHaveLength(
      2,
    ));
});

test('growth: what came, and how much that is a second', () => {
  const g = new Growth();
  expect(g.of('a', 100, 0)).toEqual({ count: 100, perSecond: 0 });
  expect(g.of('a', 150, 500)).toEqual({ count: 50, perSecond: 100 });
  expect(g.of('b', 7, 500).count).toBe(7);
  // Counters begin anew with a new process.
  expect(g.of('a', 10, 1000).count).toBe(0);
});
