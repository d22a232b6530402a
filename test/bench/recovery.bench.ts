/**
 * From kill -9 of a device process to its successor's first answer, as the guest sees it: a program reads a register of the
 * platform and one of the disk in turn, for ever, and measures by RDTSC how long each read takes. Beside it, in the same run:
 * the same without a warm spare (a cold start of the process), and Debian writing to its disk. N=n by the environment.
 */
import { existsSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { Vm } from '@nyx/nyx';
import { find, signal } from '@nyx/nyx/rundir';
import type { Recovered } from '@nyx/protocol/control';
import { access, GuestWindow, layout, watching } from './guest.ts';
import { noise, quantile, sleep } from './noise.ts';

const kills = Number(process.env.N ?? 30);
/** Long enough for the next spare to be started (200 ms after a recovery) and to be warm. */
const pause = 1000;

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
    const v = all.map(f);
    return `${quantile(v, 0.5).toFixed(1).padStart(7)} ${quantile(v, 0.99).toFixed(1).padStart(7)}   `;
  };
  console.log(
    `${name.padEnd(34)}${String(all.length).padStart(3)}  ${column((k) => k.guest)}${column((k) => k.guest - k.recovery.ns / 1e6)}${column((k) => (k.recovery.ns - k.recovery.attachNs) / 1e6)}${column((k) => k.recovery.attachNs / 1e6)}`,
  );
};

const spareOf = (vm: Vm): ReturnType<typeof find>['pids'] =>
  find(vm.name).pids.filter((p) => p.role === 'spare');

const tiny = async (): Promise<void> => {
  const file = join(tmpdir(), `nyx-recovery-${process.pid}`);
  // Configuration space of 00:02.0, the first disk; the UART's line status.
  writeFileSync(
    `${file}.elf`,
    watching(access.out32(0xcf8, 0x8000_1000), [access.in8(0x3fd), access.in32(0xcfc)], 1_000_000),
  );
  writeFileSync(`${file}.img`, '');
  truncateSync(`${file}.img`, 1 << 20);
  const vm = await Vm.start({
    name: `bench-recovery-${process.pid}`,
    kernel: `${file}.elf`,
    memory: '64M',
    accel: 'soft',
    disks: [`${file}.img`],
    logLevel: 'error',
  });
  try {
    const window = new GuestWindow((await vm.status()).pid);
    await sleep(2000);
    const perMs = window.words(layout.ticks, 1)[0]! / 100;
    const once = async (target: string): Promise<Kill> => {
      const from = window.words(layout.flag, 1)[0]!;
      const recovery = await killOne(vm, target);
      const to = window.words(layout.flag, 1)[0]!;
      // The longest wait since is that for the successor; others are the scheduler's.
      const waits = window.words(layout.samples + 4 * from, Math.max(1, to - from));
      return { guest: to > from ? Math.max(...waits) / perMs : Number.NaN, recovery };
    };
    for (const target of ['platform', 'disk0']) {
      const warm: Kill[] = [];
      for (let i = 0; i < kills; i++) {
        warm.push(await once(target));
        await sleep(pause);
      }
      print(`kill -9 ${target}, warm spare`, warm);
    }
    for (const target of ['platform', 'disk0']) {
      const cold: Kill[] = [];
      for (let i = 0; i < Math.ceil(kills / 3); i++) {
        for (const p of spareOf(vm)) signal(p, 'SIGKILL');
        await sleep(100);
        cold.push(await once(target));
        await sleep(pause);
      }
      print(`kill -9 ${target}, cold start`, cold);
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
  });
  try {
    await vm.exec('true', { timeout: 120 });
    const load = vm.exec(
      'while [ ! -e /tmp/stop ]; do dd if=/dev/zero of=/data/load bs=32k count=64 conv=fsync 2>/dev/null; done; dmesg | grep -ciE "error|timed? ?out" || true',
      { timeout: 600 },
    );
    load.catch(() => {});
    await sleep(1000);
    for (const target of ['disk0', 'platform']) {
      const all: Kill[] = [];
      for (let i = 0; i < kills; i++) {
        all.push({ guest: Number.NaN, recovery: await killOne(vm, target) });
        await sleep(pause);
      }
      print(`Debian writes, kill -9 ${target}`, all);
    }
    await vm.exec('touch /tmp/stop', { timeout: 60 }).catch(() => {});
    console.log(`complaints in the guest's kernel log: ${(await load).stdout.toString().trim()}`);
    console.log(`longest wait of a vCPU: ${((await vm.metrics()).maxWaitNs / 1e6).toFixed(1)} ms`);
  } finally {
    await vm.stop(0).catch(() => {});
    vm.close();
  }
};

console.log(await noise());
console.log(
  `${'ms: p50, p99 of'.padEnd(34)}  n  ${'kill to answer'.padEnd(18)}${'kill to notice'.padEnd(18)}${'notice to attach'.padEnd(18)}attach`,
);
await tiny();
if (existsSync(join(homedir(), '.cache/nyx/images/debian.json'))) await debian();
else console.log('Debian: skipped: its image is not built (nyx image build debian)');
console.log(await noise());
process.exit();
