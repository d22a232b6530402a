/**
 * What a checkpoint costs a Debian guest on the software CPU: how long it stands still, how much memory is held, what the first write to
 * each page costs it afterwards, and how long the way back takes. Pages saved by their writers beside a copy of all memory in use, in the
 * same run, taken in turn. N=n rounds, MIB=n in use beside the guest's own, by the environment.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { Vm } from '@nyx/nyx';
import { noise, spread } from './noise.ts';

const rounds = Number(process.env.N ?? 4);
const used = Number(process.env.MIB ?? 64);
/** MiB that the guest writes after each checkpoint. */
const written = 8;

/** CPU time of all threads of a process, ms. */
const cpuMs = (pid: number): number =>
  readdirSync(`/proc/${pid}/task`).reduce((sum, t) => {
    try {
      return sum + Number(readFileSync(`/proc/${pid}/task/${t}/schedstat`, 'latin1').split(' ')[0]) / 1e6;
    } catch {
      return sum; // it has ended
    }
  }, 0);

interface Machine {
  memory: 'onWrite' | 'copy';
  vm: Vm;
  figures: Record<'pause' | 'copy' | 'held' | 'first' | 'again' | 'back' | 'put', number[]>;
}

const start = async (memory: 'onWrite' | 'copy'): Promise<Machine> => {
  const vm = await Vm.start({
    name: `bench-checkpoint-${memory}-${process.pid}`,
    image: 'debian',
    memory: '256M',
    accel: 'soft',
    logLevel: 'error',
    checkpoint: { memory },
  });
  await vm.exec(`head -c ${used << 20} /dev/urandom >/run/used`, { timeout: 120 });
  return { memory, vm, figures: { pause: [], copy: [], held: [], first: [], again: [], back: [], put: [] } };
};

const round = async ({ vm, figures }: Machine): Promise<void> => {
  const pid = (await vm.status()).vcpuPid;
  const write = async (): Promise<number> => {
    const before = cpuMs(pid);
    await vm.exec(`dd if=/dev/zero of=/run/used bs=64k count=${written << 4} conv=notrunc 2>/dev/null`, {
      timeout: 60,
    });
    return cpuMs(pid) - before;
  };
  const taken = await vm.checkpoint();
  figures.pause.push(taken.pauseNs / 1e6);
  figures.copy.push(taken.copyNs / 1e6);
  figures.first.push(await write());
  figures.again.push(await write());
  figures.held.push((await vm.checkpoints()).checkpoints[0]!.bytes / 2 ** 20);
  const back = await vm.rollback();
  figures.back.push(back.ns / 1e6);
  figures.put.push(back.bytes / 2 ** 20);
};

console.log(await noise());
if (!existsSync(join(homedir(), '.cache/nyx/images/debian.json')))
  console.log('skipped: the image is not built (nyx image build debian)');
else {
  const machines = [await start('onWrite'), await start('copy')];
  try {
    for (let i = 0; i < rounds; i++) for (const m of machines) await round(m);
    const rows: [keyof Machine['figures'], string, number][] = [
      ['pause', 'the guest stands still, ms', 1],
      ['copy', '  of it for vCPUs and memory, ms', 2],
      ['held', `memory held after ${written} MiB were written, MiB`, 1],
      ['first', `CPU time to write ${written} MiB of files, first, ms`, 0],
      ['again', '  the same again, ms', 0],
      ['back', 'roll-back until vCPUs go on, ms', 1],
      ['put', '  memory put back, MiB', 1],
    ];
    console.log(
      `${`median (least..most) of ${rounds}`.padEnd(52)}${'saved on write'.padEnd(24)}copied at once`,
    );
    for (const [key, name, digits] of rows)
      console.log(name.padEnd(52) + machines.map((m) => spread(m.figures[key], digits).padEnd(24)).join(''));
  } finally {
    for (const { vm } of machines) {
      await vm.stop(0).catch(() => {});
      vm.close();
    }
  }
}
console.log(await noise());
process.exit();
