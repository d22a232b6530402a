/**
 * What an exit costs a guest: a program on a real machine (supervisor, nyx-vcpu, the platform process) times accesses of
 * the platform's registers with RDTSC, one part for each exit class; beside them, in the same run, two native threads
 * that only play ping-pong. Arguments: kvm to measure that engine as well, ROUNDS=n, N=n by the environment.
 */
import { rmSync, writeFileSync } from 'node:fs';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { benchPingPong, cpuCount } from '@nyx/native';
import { Vm } from '@nyx/nyx';
import { access, GuestWindow, layout, measuring, type Part } from './guest.ts';

const rounds = Number(process.env.ROUNDS ?? 5);
const count = Number(process.env.N ?? 100_000);
/** At 2 to 3 GHz: long enough for the device process to be done and to spin again, and for it to fall asleep. */
const short = 20_000;
const long = 6_000_000;

const parts: (Part & { name: string; goal?: [p50: number, p99: number] })[] = [
  { name: 'RDTSC pair alone', code: access.nothing, count },
  { name: 'port of nobody', code: access.in8(0x2e8), count },
  { name: 'shadow: UART LCR', code: access.in8(0x3fb), count, goal: [300, 300] },
  { name: 'counter: ACPI PM timer', code: access.in32(0x608), count, goal: [300, 300] },
  {
    name: 'sync write: UART scratch',
    code: access.out8(0x3ff, 0x5a),
    count,
    warm: 50_000,
    goal: [1500, 5000],
  },
  { name: 'sync read: UART LSR', code: access.in8(0x3fd), count, warm: 50_000, goal: [1500, 5000] },
  { name: 'sync read: PIT counter 0', code: access.in8(0x40), count, warm: 50_000, goal: [1500, 5000] },
  { name: 'sync read: RTC register', code: access.in8(0x71), count, warm: 50_000, goal: [1500, 5000] },
  {
    name: 'posted, 1 in 8 us: POST',
    code: access.out8(0x80, 1),
    count: count / 10,
    pause: short,
    goal: [300, 300],
  },
  { name: 'posted, back to back: POST', code: access.out8(0x80, 1), count, warm: 50_000 },
  { name: 'sync after 2 ms asleep: UART scratch', code: access.out8(0x3ff, 1), count: 200, pause: long },
];

interface Row {
  p50: number;
  p99: number;
  p999: number;
  /** Exits per second. */
  rate: number;
}

const rowOf = (ns: Float64Array, rate: number): Row => {
  ns.sort();
  const at = (p: number): number => ns[Math.min(ns.length - 1, Math.floor(ns.length * p))]!;
  return { p50: at(0.5), p99: at(0.99), p999: at(0.999), rate };
};

const median = (values: number[]): number => values.sort((a, b) => a - b)[values.length >> 1]!;

/** The median round, and the lowest and highest p50 and p99 of all rounds. */
const print = (name: string, rows: Row[], goal?: [number, number]): void => {
  const us = (ns: number): string => (ns / 1000).toFixed(2);
  const column = (f: (r: Row) => number): string => {
    const v = rows.map(f);
    return `${us(median([...v])).padStart(8)} (${us(Math.min(...v))}..${us(Math.max(...v))})`.padEnd(26);
  };
  const rate = median(rows.map((r) => r.rate));
  const met = (value: number, limit: number): string => (value < limit ? 'yes' : 'no');
  const verdict = goal
    ? ` goal p50 < ${us(goal[0])}: ${met(median(rows.map((r) => r.p50)), goal[0])}, p99 < ${us(goal[1])}: ${met(median(rows.map((r) => r.p99)), goal[1])}`
    : '';
  console.log(
    `${name.padEnd(38)}${column((r) => r.p50)}${column((r) => r.p99)}${column((r) => r.p999)}${Math.round(rate).toLocaleString('en').padStart(12)}/s${verdict}`,
  );
};

const measure = async (accel: 'soft' | 'kvm', scale: number): Promise<void> => {
  const scaled = parts.map((p) => ({ ...p, count: Math.max(100, Math.floor(p.count / scale)) }));
  const file = join(tmpdir(), `nyx-exits-${process.pid}.elf`);
  writeFileSync(file, measuring(scaled, rounds));
  const vm = await Vm.start({
    name: `bench-exits-${process.pid}`,
    kernel: file,
    memory: '64M',
    accel,
    logLevel: 'error',
  });
  try {
    const status = await vm.status();
    const window = new GuestWindow(status.pid);
    await window.done();
    const perNs = window.words(layout.ticks, 1)[0]! / 1e8;
    console.log(`\nengine ${status.accel}, guest TSC ${(perNs * 1000).toFixed(0)} MHz`);
    const rows: Row[][] = scaled.map(() => []);
    let samples = layout.samples;
    let total = layout.total;
    for (let r = 0; r < rounds; r++)
      scaled.forEach((p, i) => {
        const ns = Float64Array.from(window.words(samples, p.count), (t) => t / perNs);
        const [from, to] = window.words(total, 2) as unknown as [number, number];
        rows[i]!.push(rowOf(ns, (p.count * perNs * 1e9) / ((to - from) >>> 0)));
        samples += p.count * 4;
        total += 8;
      });
    scaled.forEach((p, i) => print(p.name, rows[i]!, p.goal));
  } finally {
    await vm.stop(0).catch(() => {});
    vm.close();
    rmSync(file, { force: true });
  }
};

const native = (mode: 'spin' | 'futex', n: number): void => {
  const rows = Array.from({ length: rounds }, () => {
    const out = new Float64Array(n);
    benchPingPong(mode, n, out);
    const sum = out.reduce((a, b) => a + b, 0);
    return rowOf(out, (n / sum) * 1e9);
  });
  print(`two native threads, ${mode}`, rows);
};

console.log(
  `${cpuCount()} CPUs, load ${loadavg()
    .map((n) => n.toFixed(1))
    .join(' ')}; ${rounds} rounds; median round (least..most)`,
);
console.log(`${''.padEnd(38)}${'p50 us'.padEnd(26)}${'p99 us'.padEnd(26)}${'p99.9 us'.padEnd(26)}`);
native('spin', count);
native('futex', 2000);
await measure('soft', 1);
if (process.argv.includes('kvm')) await measure('kvm', 50).catch((e) => console.log(`kvm: ${e.message}`));
console.log(
  `\nload ${loadavg()
    .map((n) => n.toFixed(1))
    .join(' ')}`,
);
process.exit();
