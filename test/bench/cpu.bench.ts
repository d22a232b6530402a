/**
 * The software CPU, interpreting and translating, beside QEMU TCG: the same kernel, initramfs and guest programs
 * (cpu-guest.c). Times are CPU time of the host that each takes, so that other load on the machine counts little; boot
 * is also told as it is on the clock. By the environment N=n repeats, in turns with the others, and the least time
 * counts; ONLY='fork;getpid' runs those programs alone.
 */
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ImageStore } from '@nyx/image';
import { type CpioEntry, cpio } from '../../libs/image/src/cpio.ts';
// @ts-expect-error plain JavaScript
import { build } from '../../services/vcpu/build.mjs';
import { noise } from './noise.ts';

const repeats = Number(process.env.N ?? 1);
const memory = '512';
const folder = mkdtempSync(join(tmpdir(), 'nyx-bench-cpu-'));
const only = process.env.ONLY ? ` "only=${process.env.ONLY}"` : '';
const append = `console=ttyS0 quiet printk.devkmsg=on panic=-1 reboot=k${only}`;

/** The guest's /init; undefined with a printed reason. */
const compile = (): Buffer | undefined => {
  const source = fileURLToPath(new URL('cpu-guest.c', import.meta.url));
  const out = join(folder, 'init');
  const gcc = (...more: string[]) =>
    spawnSync('gcc', ['-O2', '-static', ...more, source, '-o', out, ...(more.length ? ['-lz'] : []), '-lm'], {
      encoding: 'utf8',
    });
  if (gcc('-DHAVE_ZLIB').status !== 0) {
    const plain = gcc();
    if (plain.status !== 0) {
      console.log(`cpu: skipped: gcc: ${plain.error?.message ?? plain.stderr}`);
      return undefined;
    }
    console.log('gzip: skipped: there is no static zlib');
  }
  return readFileSync(out);
};

/** Nanoseconds of host CPU time of a process and its threads so far. */
const cpuNs = (pid: number): number => {
  let sum = 0;
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    try {
      sum += Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'latin1').split(' ')[0]);
    } catch {}
  }
  return sum;
};

interface Result {
  /** Milliseconds of CPU time by program; `boot` is the kernel up to /init. */
  ms: Map<string, number>;
  bootClock: number;
  checks: string;
  /** Of our vCPU, by program. */
  shares: Map<string, Shares>;
}

/** Instructions, and samples of the vCPU thread's processor time in each part of the engine. */
type Shares = [
  instructions: number,
  translated: number,
  interpreter: number,
  translator: number,
  mmu: number,
  exits: number,
];
const parts = ['translated', 'interpreter', 'translator', 'MMU', 'exits'];

/** soft-run's `--stats-at @`: what was done between two marks. */
const readShares = (text: string): Map<string, Shares> => {
  const r = new Map<string, Shares>();
  let before: Shares = [0, 0, 0, 0, 0, 0];
  for (const m of text.matchAll(/^stats ((?:\d+ ){6}).*@(\w+) ?([^:\r\n]*)/gm)) {
    const now = m[1]!.trim().split(' ').map(Number) as Shares;
    const name = m[2] === 'shell' ? 'boot' : m[2] === 'end' ? m[3]! : undefined;
    if (name) r.set(name, now.map((v, k) => v - before[k]!) as Shares);
    before = now;
  }
  return r;
};

const guest = (command: string, args: string[]): Promise<Result> =>
  new Promise((resolve, reject) => {
    const t0 = performance.now();
    const child = spawn(command, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const r: Result = { ms: new Map(), bootClock: 0, checks: '', shares: new Map() };
    let stats = '';
    child.stderr.on('data', (b: Buffer) => {
      stats += b.toString('latin1');
    });
    let rest = '';
    let last = '';
    let started = 0;
    let done = false;
    child.stdout.on('data', (b: Buffer) => {
      const lines = (rest + b.toString('latin1')).split('\n');
      rest = lines.pop()!;
      for (const line of lines) {
        last = line;
        const at = line.indexOf('@');
        if (at < 0 || child.exitCode !== null) continue;
        const [word = '', ...name] = line.slice(at).trim().split(' ');
        if (word === '@done') {
          done = true;
          child.kill('SIGKILL');
          continue;
        }
        const now = cpuNs(child.pid!);
        if (word === '@shell') {
          r.ms.set('boot', now / 1e6);
          r.bootClock = performance.now() - t0;
        } else if (word === '@begin') {
          started = now;
        } else if (word === '@end') {
          const [program = '', check] = name.join(' ').split(': ');
          r.ms.set(program, (now - started) / 1e6);
          r.checks += `${program} ${check}\n`;
        }
      }
    });
    const timer = setTimeout(() => child.kill('SIGKILL'), 600_000);
    child.on('error', reject);
    child.on('close', (code) => {
      clearTimeout(timer);
      r.shares = readShares(stats);
      if (done) resolve(r);
      else reject(new Error(`${command} ended with ${code} before the guest did; its last line: ${last}`));
    });
  });

/** The least of each. */
const least = (runs: Result[]): Result => ({
  ms: new Map([...runs[0]!.ms.keys()].map((k) => [k, Math.min(...runs.map((r) => r.ms.get(k)!))])),
  bootClock: Math.min(...runs.map((r) => r.bootClock)),
  checks: runs[0]!.checks,
  shares: runs[0]!.shares,
});

try {
  const init = compile();
  if (init) {
    build({ target: 'soft-run' });
    const program = fileURLToPath(new URL('../../services/vcpu/build/Release/soft-run', import.meta.url));
    const kernel = process.env.KERNEL ?? (await new ImageStore().build('debian')).kernel;
    const entries: CpioEntry[] = [
      { path: 'dev', type: 'dir' },
      { path: 'dev/console', type: 'char', major: 5, minor: 1 },
      { path: 'dev/kmsg', type: 'char', major: 1, minor: 11 },
      { path: 'init', type: 'file', data: init, mode: 0o755 },
    ];
    const initrd = join(folder, 'initrd');
    writeFileSync(initrd, cpio(entries));
    console.log(await noise());
    const ours = [
      '--kernel',
      kernel,
      '--initrd',
      initrd,
      '--append',
      append,
      '--mem',
      memory,
      '--seconds',
      '590',
    ];
    const kinds: { name: string; run: () => Promise<Result> }[] = [
      { name: 'translated', run: () => guest(program, [...ours, '--quiet', '--stats-at', '@']) },
      { name: 'interpreted', run: () => guest(program, [...ours, '--quiet', '--soft', 'interpret']) },
    ];
    if (spawnSync('qemu-system-x86_64', ['--version']).status !== 0) {
      console.log('TCG: skipped: qemu-system-x86_64 is not installed');
    } else {
      const args = [
        '-accel',
        'tcg',
        '-cpu',
        'max',
        '-m',
        memory,
        '-nodefaults',
        '-display',
        'none',
        '-serial',
        'stdio',
        '-no-reboot',
      ];
      args.push('-kernel', kernel, '-initrd', initrd, '-append', append);
      kinds.push({ name: 'TCG', run: () => guest('qemu-system-x86_64', args) });
    }
    const results = new Map<string, Result>();
    const runs = new Map<string, Result[]>(kinds.map(({ name }) => [name, []]));
    for (let n = 0; n < repeats; n++) {
      for (const { name, run } of kinds) {
        runs.get(name)!.push(await run());
        console.log(`${name}: run ${n + 1} of ${repeats} is done`);
      }
    }
    for (const { name } of kinds) {
      results.set(name, least(runs.get(name)!));
      console.log(`${name}: boot ${results.get(name)!.bootClock.toFixed(0)} ms on the clock`);
    }
    const first = results.get('translated')!;
    const tcg = results.get('TCG');
    for (const [name, r] of results)
      if (r.checks !== first.checks)
        console.log(`${name}: results of the programs differ:\n${r.checks}\n${first.checks}`);
    console.log(
      `${'ms of host CPU time'.padEnd(30)}${[...results.keys()].map((n) => n.padStart(12)).join('')}   TCG / translated`,
    );
    let product = 0;
    let count = 0;
    for (const [program] of first.ms) {
      const row = [...results.values()].map((r) => r.ms.get(program)!);
      const ratio = tcg ? tcg.ms.get(program)! / first.ms.get(program)! : Number.NaN;
      if (program !== 'boot') {
        product += Math.log(ratio);
        count++;
      }
      console.log(
        `${program.padEnd(30)}${row.map((v) => v.toFixed(0).padStart(12)).join('')}   ${ratio.toFixed(2)}`,
      );
    }
    if (tcg) console.log(`geometric mean of the programs: ${Math.exp(product / count).toFixed(2)}`);
    console.log(
      `\n${'translated, first run: where'.padEnd(30)}${[' M instr.', ' M instr./s', ...parts.map((p) => `${p} %`)].map((p) => p.padStart(14)).join('')}`,
    );
    for (const [program, [instructions, ...samples]] of first.shares) {
      const all = samples.reduce((a, b) => a + b, 0);
      const ms = runs.get('translated')![0]!.ms.get(program)!;
      const row = [
        (instructions / 1e6).toFixed(0),
        (instructions / ms / 1e3).toFixed(0),
        ...samples.map((v) => (all ? ((100 * v) / all).toFixed(1) : '-')),
      ];
      console.log(`${program.padEnd(30)}${row.map((v) => v.padStart(14)).join('')}`);
    }
    console.log(await noise());
  }
} finally {
  rmSync(folder, { recursive: true });
}
