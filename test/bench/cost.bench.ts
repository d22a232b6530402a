/**
 * What crash-only costs an exit when nothing fails: the same exit with and without its commit (copy of the half, CRC32C,
 * flip), and a real device process without fault rules, and with one that never fits. Variants take turns in one run, so
 * that what others do to the machine hits all of them. ROUNDS=n, N=n by the environment.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Served } from '@nyx/device/served';
import { createTestProducer, eventfd, memfdCreate, mmap, monotonicNs } from '@nyx/native';
import { defaultBlockBytes, ExitKind, formatRings, ringsBytes } from '@nyx/ring';
import { buildSync } from 'esbuild';
import { noise, quantile } from './noise.ts';

const rounds = Number(process.env.ROUNDS ?? 15);
const count = Number(process.env.N ?? 40_000);
const goalNs = 300;

interface Variant {
  name: string;
  /** Nanoseconds of each of `count` exits into `out`. */
  run(out: Float64Array): void;
}

/**
 * Of each round what its fastest twentieth of the exits takes at most: both sides spin then, and the figure is the work's.
 * The rest is the scheduler's, who puts both sides on one CPU where there are few.
 */
const measure = (variants: readonly Variant[]): Map<string, number[]> => {
  const out = new Float64Array(count);
  const medians = new Map(variants.map((v) => [v.name, [] as number[]]));
  for (const v of variants) v.run(out);
  for (let r = 0; r < rounds; r++)
    for (const v of variants) {
      v.run(out);
      medians.get(v.name)!.push(quantile([...out], 0.05));
    }
  return medians;
};

const print = (medians: Map<string, number[]>): void => {
  for (const [name, m] of medians) {
    const [least, mid, most] = [0, 0.5, 1].map((q) => quantile(m, q).toFixed(0));
    console.log(`${name.padEnd(52)}${mid!.padStart(6)} ns  (rounds ${least}..${most})`);
  }
};

/** Round by round, because a round's variants share its conditions. */
const difference = (what: string, a: readonly number[], b: readonly number[], goal?: number): void => {
  const d = a.map((x, i) => x - b[i]!);
  const mid = quantile(d, 0.5);
  const met = goal === undefined ? '' : `, goal < ${goal} ns: ${mid < goal ? 'yes' : 'no'}`;
  console.log(
    `  ${what}: ${mid.toFixed(0)} ns (rounds ${quantile(d, 0).toFixed(0)}..${quantile(d, 1).toFixed(0)})${met}`,
  );
};

/** A consumer that answers reads without, and writes with a commit. */
const commits = (folder: string): void => {
  const program = join(folder, 'server.cjs');
  const here = fileURLToPath(new URL('.', import.meta.url));
  buildSync({
    entryPoints: [join(here, 'cost-server.ts')],
    outfile: program,
    bundle: true,
    platform: 'node',
    format: 'cjs',
    logLevel: 'error',
  });
  const variants: Variant[] = [];
  const children = [128, 1280].map((bytes) => {
    const ring = memfdCreate('ring', ringsBytes(1));
    const buffer = mmap(ring, ringsBytes(1));
    formatRings(buffer, 1);
    const kick = eventfd();
    const state = memfdCreate('state', defaultBlockBytes);
    const child = spawn(process.execPath, [program, String(bytes)], {
      stdio: ['ignore', 'inherit', 'inherit', ring, kick, state],
      env: {},
    });
    const p = createTestProducer(buffer, 0, kick);
    for (const [text, kind] of [
      ['without a commit', ExitKind.read],
      [`with the commit of a ${bytes} byte state`, ExitKind.write],
    ] as const)
      variants.push({
        name: `exit ${text}${kind === ExitKind.read ? ` (process of ${bytes})` : ''}`,
        run: (out) => void p.bench(count, kind, 0, 0, 0, 4, out),
      });
    return child;
  });
  const m = measure(variants);
  print(m);
  const [a0, a1, b0, b1] = [...m.values()] as [number[], number[], number[], number[]];
  difference('commit, CRC and copy, small device (a UART)', a1, a0, goalNs);
  difference('commit, CRC and copy, large device (virtio-blk)', b1, b0, goalNs);
  for (const c of children) c.kill('SIGKILL');
};

const injection = async (): Promise<void> => {
  const platform = fileURLToPath(new URL('../../services/platform/dist/platform.cjs', import.meta.url));
  const never = {
    ...{ slot: 0, point: 'exit', verb: 'error', device: '*', place: 'handler', from: 0x7000, to: 0x7001 },
    ...{ after: 0, every: 1, count: 0, probability: 1, seed: 1, delayNs: 0, mask: 0, bytes: 0, again: false },
  };
  const variants: Variant[] = [];
  const all: Served[] = [];
  for (const [name, rules] of [
    ['platform process, no fault rule', undefined],
    ['platform process, a rule that never fits', [never]],
  ] as const) {
    const s = new Served([process.execPath, platform], [{ name: 'post', kind: 'post', irqs: 0 }]);
    if (rules) s.faults(rules as never);
    await s.start();
    all.push(s);
    variants.push({ name, run: (out) => void s.cpu.bench(count, ExitKind.write, 0, 0, 0, 1, out) });
  }
  const m = measure(variants);
  print(m);
  const [off, on] = [...m.values()] as [number[], number[]];
  difference('injection points with rules, over none', on, off);
  for (const s of all) await s.kill();
};

console.log(await noise());
const folder = mkdtempSync(fileURLToPath(new URL('../../libs/native/build/cost-', import.meta.url)));
try {
  commits(folder);
  await injection();
  // What the clock itself costs, which all of the above contain once.
  const from = monotonicNs();
  for (let i = 0; i < 1000; i++) monotonicNs();
  console.log(`a call of the clock: ${((monotonicNs() - from) / 1000).toFixed(0)} ns`);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
console.log(await noise());
process.exit();
