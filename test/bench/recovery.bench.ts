/**
 * From kill -9 of a device process to its successor's first answer, as the guest sees it: a program reads a register of the
 * platform and one of the disk in turn, for ever, and measures by RDTSC how long each read takes. Beside it, in the same run:
 * the same with a spare that gets its role after the death, the same with nobody (a cold start of the process), and Debian
 * writing to its disk. N=n, and MODES=standby,debian for some of it, by the environment.
 */
import { existsSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Vm } from '@nyx/nyx';
import type { Recovered } from '@nyx/protocol/control';
import { access, GuestWindow, layout, watching } from './guest.ts';
import { noise, quantile } from './noise.ts';

const kills = Number(process.env.N ?? 30);
const wanted = process.env.MODES?.split(',');
/** After the successor of the successor is ready. */
const pause = 100;

interface Kill {
  /** Milliseconds that the guest waited; NaN when that cannot be told. */
  guest: number;
  recovery: Recovered;
}

const killOne = async (vm: Vm, target: string): Promise<Recovered> => {
  const before = (await vm.status()).processes.find((p) => p.name === target)!.restarts;
  await vm.kill(target);
  for (;;) {
    await sleep(20);
    const p = (await vm.status()).processes.find((x) => x.name === target)!;
    if (p.restarts > before && p.state === 'serving' && p.lastRecovery) return p.lastRecovery;
    if (p.state === 'isolated') throw new Error(`${target}: ${p.error?.got}`);
  }
};

const print = (name: string, all: Kill[]): void => {
  const column = (f: (k: Kill) => number): string => {
    const v = all.map(f).filter((n) => !Number.isNaN(n));
    if (v.length === 0) return '      -       -   ';
    return `${quantile(v, 0.5).toFixed(1).padStart(7)} ${quantile(v, 0.99).toFixed(1).padStart(7)}   `;
  };
  console.log(
    `${name.padEnd(46)}${String(all.length).padStart(3)}  ${column((k) => k.guest)}${column((k) => k.recovery.ns / 1e6)}${column((k) => k.recovery.attachNs / 1e6)}`,
  );
};

/** Until a standby is ready, or, where there is none, long enough for a spare to be started (200 ms) and warm. */
const ready = async (vm: Vm, target: string, hot: boolean): Promise<void> => {
  if (!hot) return sleep(1000);
  for (let i = 0; i < 500; i++) {
    if ((await vm.status()).processes.find((p) => p.name === target)!.standby?.armed) return sleep(pause);
    await sleep(20);
  }
  throw new Error(`no standby for ${target} within 10 s`);
};

const modes = [
  { key: 'standby', name: 'standby', hot: true, recovery: {}, share: 1 },
  {
    key: 'spare',
    name: 'spare, role after the death',
    hot: false,
    recovery: { standby: false, spares: 1 },
    share: 3,
  },
  { key: 'cold', name: 'cold start', hot: false, recovery: { standby: false, spares: 0 }, share: 3 },
] as const;

const tiny = async ({ name, hot, recovery, share }: (typeof modes)[number]): Promise<void> => {
  const file = join(tmpdir(), `nyx-recovery-${process.pid}-${share}-${hot}-${name.length}`);
  // Configuration space of 00:02.0, the first disk; the UART's line status.
  writeFileSync(
    `${file}.elf`,
    watching(access.out32(0xcf8, 0x8000_1000), [access.in8(0x3fd), access.in32(0xcfc)], 1_000_000),
  );
  writeFileSync(`${file}.img`, '');
  truncateSync(`${file}.img`, 1 << 20);
  const vm = await Vm.start({
    name: `bench-recovery-${process.pid}-${name.length}`,
    kernel: `${file}.elf`,
    memory: '64M',
    accel: 'soft',
    disks: [`${file}.img`],
    logLevel: 'error',
    recovery: { ...recovery, budget: 10_000 },
  });
  try {
    const window = new GuestWindow((await vm.status()).pid);
    await sleep(2000);
    const perMs = window.words(layout.ticks, 1)[0]! / 100;
    for (const target of ['platform', 'disk0']) {
      const all: Kill[] = [];
      for (let i = 0; i < Math.ceil(kills / share); i++) {
        await ready(vm, target, hot);
        const from = window.words(layout.flag, 1)[0]!;
        const recovery = await killOne(vm, target);
        const to = window.words(layout.flag, 1)[0]!;
        // The longest wait since is that for the successor; others are the scheduler's.
        const waits = window.words(layout.samples + 4 * from, Math.max(1, to - from));
        all.push({ guest: to > from ? Math.max(...waits) / perMs : Number.NaN, recovery });
      }
      print(`kill -9 ${target}, ${name}`, all);
    }
  } finally {
    await vm.stop(0).catch(() => {});
    vm.close();
    rmSync(`${file}.elf`);
    rmSync(`${file}.img`);
  }
};

const debian = async (): Promise<void> => {
  const vm = await Vm.start({
    name: `bench-recovery-debian-${process.pid}`,
    image: 'debian',
    memory: '256M',
    accel: 'soft',
    logLevel: 'error',
    recovery: { budget: 10_000 },
  });
  try {
    await vm.exec('true', { timeout: 120 });
    await vm.exec(
      '(while [ ! -e /tmp/stop ]; do dd if=/dev/zero of=/data/load bs=32k count=64 conv=fsync 2>/dev/null; done; touch /tmp/done) >/dev/null 2>&1 &',
    );
    await sleep(1000);
    for (const target of ['disk0', 'platform']) {
      const all: Kill[] = [];
      for (let i = 0; i < kills; i++) {
        await ready(vm, target, true);
        all.push({ guest: Number.NaN, recovery: await killOne(vm, target) });
      }
      print(`Debian writes, kill -9 ${target}`, all);
    }
    const { stdout } = await vm.exec(
      'touch /tmp/stop; while [ ! -e /tmp/done ]; do sleep 0.2; done; dmesg | grep -ciE "error|timed? ?out" || true',
      { timeout: 60 },
    );
    console.log(`complaints in the guest's kernel log: ${stdout.toString().trim()}`);
    console.log(`longest wait of a vCPU: ${((await vm.metrics()).maxWaitNs / 1e6).toFixed(1)} ms`);
  } finally {
    await vm.stop(0).catch(() => {});
    vm.close();
  }
};

console.log(await noise());
console.log(
  `${'ms: p50, p99 of'.padEnd(46)}  n  ${'kill to answer'.padEnd(18)}${'death told to serving'.padEnd(18)} attach`,
);
for (const mode of modes) if (wanted?.includes(mode.key) ?? true) await tiny(mode);
if (!(wanted?.includes('debian') ?? true)) console.log('Debian: left out');
else if (existsSync(join(homedir(), '.cache/nyx/images/debian.json'))) await debian();
else console.log('Debian: skipped: its image is not built (nyx image build debian)');
console.log(await noise());
process.exit();
