/**
 * From the start of `nyx run` to the first guest instruction and to the shell of the Debian guest, beside QEMU TCG with the
 * same kernel, initramfs and command line; where the time goes; memory of each process. N=n by the environment.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { monotonicNs } from '@nyx/native';
import { Vm } from '@nyx/nyx';
import { files, find } from '@nyx/nyx/rundir';
import { first } from './guest.ts';
import { noise, quantile, spread } from './noise.ts';

const repeats = Number(process.env.N ?? 5);
const nyx = fileURLToPath(new URL('../../bin/nyx', import.meta.url));
const prompt = ':/root# ';

interface Start {
  /** Milliseconds from the start of the command. */
  first: number;
  shell: number;
  steps: Record<string, number>;
}

/** The record that nyxd logs when the guest runs. */
const ran = (dir: string): { startedNs: number; originNs: number; milestones: Record<string, number> } => {
  for (const line of readFileSync(join(dir, files.log), 'utf8').split('\n'))
    if (line.includes('the guest runs')) return JSON.parse(line);
  throw new Error(`${dir}: the guest does not run`);
};

const until = (child: ChildProcess, text: string): Promise<number> =>
  new Promise((resolve, reject) => {
    let seen = '';
    child.stdout!.on('data', (b: Buffer) => {
      seen = (seen + b.toString('latin1')).slice(-4096);
      if (seen.includes(text)) resolve(monotonicNs());
    });
    child.on('exit', (code) => reject(new Error(`ended with ${code}: ${seen}`)));
  });

const ended = (child: ChildProcess): Promise<void> =>
  child.exitCode !== null || child.signalCode !== null
    ? Promise.resolve()
    : new Promise((r) => child.once('exit', () => r()));

/** `look`: called when the shell is there. */
const run = async (args: string[], shell: boolean, look?: (vm: Vm) => Promise<void>): Promise<Start> => {
  const name = `bench-start-${process.pid}`;
  const t0 = monotonicNs();
  // As a person starts it, by its first line.
  const child = spawn(
    nyx,
    ['run', ...args, '--name', name, '--accel', 'soft', ...(shell ? [] : ['--detach'])],
    {
      stdio: ['pipe', 'pipe', 'inherit'],
    },
  );
  const at = shell ? await until(child, prompt) : (await ended(child), monotonicNs());
  const dir = find(name).dir;
  const r = ran(dir);
  const vm = Vm.connect(name);
  if (look) await look(vm);
  await vm.stop(0).catch(() => {});
  vm.close();
  await ended(child);
  const ms = (ns: number): number => (ns - t0) / 1e6;
  const m = r.milestones;
  const origin = ms(r.originNs);
  const step = (a: string, b: string): number => (m[b] ?? Number.NaN) - (m[a] ?? Number.NaN);
  return {
    first: ms(r.startedNs),
    shell: ms(at),
    steps: {
      'command until nyxd is started': origin,
      'nyxd: Node, code, specification': m.code!,
      'memory, tables, processes': step('code', 'spawned'),
      'kernel and initrd into memory': step('spawned', 'loaded'),
      'vCPU process ready': step('loaded', 'vcpu'),
      'waiting for device processes': step('vcpu', 'devices'),
      'start of the vCPUs': step('devices', 'started'),
    },
  };
};

const qemu = async (kernel: string, initrd: string, append: string): Promise<number> => {
  const t0 = monotonicNs();
  const args = [
    '-M',
    'q35,accel=tcg',
    '-m',
    '512',
    '-nographic',
    '-no-reboot',
    '-nic',
    'none',
    '-kernel',
    kernel,
  ];
  const child = spawn('qemu-system-x86_64', [...args, '-initrd', initrd, '-append', append], {
    stdio: ['pipe', 'pipe', 'ignore'],
  });
  const at = await until(child, prompt);
  child.kill('SIGKILL');
  await ended(child);
  return (at - t0) / 1e6;
};

const repeat = async <T>(f: () => Promise<T>): Promise<T[]> => {
  const all: T[] = [];
  for (let i = 0; i < repeats; i++) {
    all.push(await f());
    // Processes of the last machine end meanwhile.
    await sleep(300);
  }
  return all;
};

const print = (name: string, text: string): void => console.log(`${name.padEnd(44)}${text}`);

const pss = (pid: number): number => {
  const m = /^Pss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'));
  return m ? Number(m[1]) / 1024 : Number.NaN;
};
/** PSS without guest memory, which all processes share. */
const own = (pid: number): number => {
  let kb = 0;
  let counts = false;
  for (const line of readFileSync(`/proc/${pid}/smaps`, 'utf8').split('\n')) {
    if (/^[0-9a-f]+-[0-9a-f]+ /.test(line)) counts = !line.includes('nyx-ram');
    else if (counts && line.startsWith('Pss:')) kb += Number(/\d+/.exec(line)![0]);
  }
  return kb / 1024;
};

const memory = async (vm: Vm): Promise<void> => {
  const s = await vm.status();
  const rows: [string, number][] = [
    ['nyxd', s.pid],
    ['nyx-vcpu', s.vcpuPid],
  ];
  for (const p of s.processes) rows.push([p.name, p.pid]);
  for (const p of find(vm.name).pids) if (p.role === 'spare') rows.push(['spare', p.pid]);
  console.log('\nPSS of each process at the shell, MiB: all, and without guest memory (512 MiB offered)');
  let total = 0;
  for (const [name, pid] of rows) {
    const mine = own(pid);
    total += mine;
    print(`  ${name}`, `${pss(pid).toFixed(1).padStart(7)} ${mine.toFixed(1).padStart(7)}`);
  }
  print('  all, without guest memory', `${total.toFixed(1).padStart(15)}`);
  const v = s.vcpus[0]!;
  const seconds = s.guestNs / 1e9;
  print(
    'guest instructions until then',
    `${(v.instructions / 1e6).toFixed(0)} M, ${(v.instructions / seconds / 1e6).toFixed(0)} M/s (halts included)`,
  );
};

console.log(`${await noise()}; ${repeats} repetitions; ms, median (least..most)`);
const bare = await repeat(async () => {
  const t0 = monotonicNs();
  spawnSync(process.execPath, ['-e', '0']);
  return (monotonicNs() - t0) / 1e6;
});
print("'node -e 0', for comparison", spread(bare));

const elf = join(tmpdir(), `nyx-first-${process.pid}.elf`);
writeFileSync(elf, first());
const tiny = await repeat(() => run(['--kernel', elf, '--memory', '64M'], false));
rmSync(elf);
print('first guest instruction, a tiny kernel', spread(tiny.map((s) => s.first)));

const image = join(homedir(), '.cache/nyx/images/debian.json');
if (!existsSync(image)) console.log('debian: skipped: its image is not built (nyx image build debian)');
else {
  let spec: { kernel: string; initrd: string; append: string } | undefined;
  const debian = await repeat(() =>
    run(['debian'], true, async (vm) => {
      if (spec) return;
      spec = JSON.parse(readFileSync(join(vm.dir, files.spec), 'utf8'));
      await memory(vm);
    }),
  );
  console.log();
  print(
    'first guest instruction, Debian',
    `${spread(debian.map((s) => s.first))}  goal < 300: ${
      quantile(
        debian.map((s) => s.first),
        0.5,
      ) < 300
        ? 'yes'
        : 'no'
    }`,
  );
  for (const name of Object.keys(debian[0]!.steps))
    print(`  ${name}`, spread(debian.map((s) => s.steps[name]!)));
  print('shell, Debian', spread(debian.map((s) => s.shell)));
  if (spawnSync('qemu-system-x86_64', ['--version']).status !== 0)
    console.log('QEMU: skipped: qemu-system-x86_64 is not installed');
  else {
    // `agent` is a parameter of ours; it would wait for a second serial port.
    const { kernel, initrd, append } = spec!;
    print(
      'shell, QEMU TCG, q35, same kernel and initrd',
      spread(await repeat(() => qemu(kernel, initrd, append))),
    );
  }
}
console.log(await noise());
process.exit();
