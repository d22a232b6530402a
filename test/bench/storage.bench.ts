/**
 * Disks over vhost-user: `nyx storage serve` beside qemu-storage-daemon, on the same file, one after the other, again and
 * again in the same run. The client is a native driver of one virtqueue, once polling, once waiting for calls. CPU is
 * that of the whole server process per request. Ratios are of neighbours in time: of each round, to the better of
 * qemu-storage-daemon's io_uring modes. Each load runs until its rate is steady before it is measured. Arguments: raw, qcow2
 * (both without). By the environment: ROUNDS=n, LOAD_SECONDS=s, PRIORITY=1, LOADS=text (only loads with this text in their names),
 * RIVALS=io_uring (nobody else) and PIECE=bytes: the pieces in which the image is written before
 * (4096, as by a guest that writes at random). The page cache keeps a file in folios as large as those, and ext4 looks at every
 * block of a folio for each write into it: of 1 MiB pieces, a write of 4 KiB takes ten times as long, whoever does it.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from 'node:fs';
import { setPriority, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { memfdCreate, mmap, pread, pwrite } from '@nyx/native';
import { Client, type Load } from '@nyx/vhost-user/testing';
import { busy, noise, quantile, spread } from './noise.ts';

const rounds = Number(process.env.ROUNDS ?? 3);
const seconds = Number(process.env.LOAD_SECONDS ?? 0.4);
const wanted = process.argv.slice(2).filter((a) => a === 'raw' || a === 'qcow2');
const formats = wanted.length > 0 ? wanted : ['raw', 'qcow2'];
const piece = Number(process.env.PIECE ?? 4096);
const MiB = 2 ** 20;
const span = 256 * MiB;

const allLoads: { name: string; load: Omit<Load, 'count' | 'polling' | 'span'>; rate: number }[] = [
  {
    name: '4 KiB random read, depth 1',
    load: { depth: 1, bytes: 4096, write: false, sequential: false },
    rate: 50_000,
  },
  {
    name: '4 KiB random read, depth 32',
    load: { depth: 32, bytes: 4096, write: false, sequential: false },
    rate: 150_000,
  },
  {
    name: '4 KiB random write, depth 1',
    load: { depth: 1, bytes: 4096, write: true, sequential: false },
    rate: 30_000,
  },
  {
    name: '4 KiB random write, depth 32',
    load: { depth: 32, bytes: 4096, write: true, sequential: false },
    rate: 100_000,
  },
  {
    name: '128 KiB sequential read, depth 32',
    load: { depth: 32, bytes: 131072, write: false, sequential: true },
    rate: 30_000,
  },
  {
    name: '128 KiB sequential write, depth 32',
    load: { depth: 32, bytes: 131072, write: true, sequential: true },
    rate: 15_000,
  },
];

const loads = allLoads.filter((l) => l.name.includes(process.env.LOADS ?? ''));

const folder = mkdtempSync(join(tmpdir(), 'nyx-storage-bench-'));
const image = join(folder, 'disk');
const socket = join(folder, 'socket');
const nyx = fileURLToPath(new URL('../../bin/nyx', import.meta.url));

interface Server {
  name: string;
  start(format: string): ChildProcess;
  /** Process that serves. */
  pid(child: ChildProcess): number;
}

const ours: Server = {
  name: 'nyx',
  start: (format) =>
    spawn(nyx, ['storage', 'serve', '--socket', socket, '--format', format, '--num-queues', '1', image], {
      stdio: ['ignore', 'ignore', 'pipe'],
    }),
  pid(child) {
    const [pid] = readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8').trim().split(' ');
    // nyx-jail is the server's parent where it has a process namespace of its own.
    const below = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim();
    return Number(below === '' ? pid : below.split(' ')[0]);
  },
};
const qsd = (aio: string, thread: boolean): Server => ({
  name: `qsd ${aio}${thread ? ', iothread' : ''}`,
  start: (format) =>
    spawn(
      'qemu-storage-daemon',
      [
        ...(thread ? ['--object', 'iothread,id=io0'] : []),
        ...['--blockdev', `driver=file,node-name=f,filename=${image},aio=${aio}`],
        ...['--blockdev', `driver=${format},node-name=d,file=f`],
        '--export',
        `type=vhost-user-blk,id=e,node-name=d,addr.type=unix,addr.path=${socket},writable=on,num-queues=1${thread ? ',iothread=io0' : ''}`,
      ],
      { stdio: ['ignore', 'ignore', 'inherit'] },
    ),
  pid: (child) => child.pid!,
});
const rivals = [qsd('io_uring', false), qsd('io_uring', true)];
const servers = [ours, ...rivals, ...(process.env.RIVALS === 'io_uring' ? [] : [qsd('threads', true)])];

/** CPU time of all threads, ns. */
const cpu = (pid: number): number => {
  let ns = 0;
  for (const task of readdirSync(`/proc/${pid}/task`))
    try {
      ns += Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'utf8').split(' ')[0]);
    } catch {
      // It ended meanwhile.
    }
  return ns;
};

/**
 * With PRIORITY=1 (root): before all other work of a host that is not quiet. Where the kernel schedules by sessions
 * (autogroup), a process's nice value counts only within its own.
 */
const prefer = (pid: number | 'self'): void => {
  if (!process.env.PRIORITY) return;
  // Of each thread there is: a nice value is a thread's.
  for (const task of readdirSync(`/proc/${pid}/task`)) setPriority(Number(task), -19);
  try {
    writeFileSync(`/proc/${pid}/autogroup`, '-19');
  } catch {
    // A kernel without it.
  }
};

interface Row {
  rate: number[];
  median: number[];
  cpu: number[];
}
const rows = new Map<string, Row>();
const rowOf = (server: string, load: string, polling: boolean): Row => {
  const key = `${server}|${load}|${polling}`;
  const found = rows.get(key) ?? { rate: [], median: [], cpu: [] };
  rows.set(key, found);
  return found;
};

/** CPU time of others while loads ran, and of all CPUs, ns. */
const others = { busy: 0, all: 0 };
const ticks = 1e7;

/** What is new is compiled meanwhile, by ours: for a while, then until it goes at the same rate twice, but not for ever. */
function warmUp(client: Client, load: Omit<Load, 'count'>, count: number): void {
  const began = performance.now();
  const lasted = (ms: number): boolean => performance.now() - began > ms;
  for (let last = 0, steady = false; !steady && !lasted(1500); ) {
    const { rate } = client.run({ ...load, count });
    steady = lasted(300) && Math.abs(rate - last) < 0.1 * last;
    last = rate;
  }
}

async function measure(server: Server, format: string): Promise<void> {
  rmSync(socket, { force: true });
  const child = server.start(format);
  try {
    for (let i = 0; i < 100 && !existsSync(socket); i++) await sleep(50);
    await sleep(500);
    const pid = server.pid(child);
    prefer(pid);
    const client = new Client();
    await client.open(socket);
    for (const { name, load, rate } of loads)
      for (const polling of [true, false]) {
        const count = Math.ceil(rate * seconds);
        warmUp(client, { ...load, span, polling }, Math.ceil(count / 5));
        const [before, mine, machine] = [cpu(pid), process.cpuUsage(), busy()];
        const r = client.run({ ...load, span, polling, count });
        const used = cpu(pid) - before;
        const { user, system } = process.cpuUsage(mine);
        const now = busy();
        others.busy += Math.max(0, (now.busy - machine.busy) * ticks - used - (user + system) * 1000);
        others.all += (now.all - machine.all) * ticks;
        const row = rowOf(server.name, name, polling);
        row.cpu.push(used / count);
        row.rate.push(r.rate);
        row.median.push(r.median);
      }
    client.close();
  } finally {
    const ended = new Promise((r) => child.once('exit', r));
    // qemu-storage-daemon 7.2 with an iothread sometimes does not end when it is asked to.
    child.kill('SIGTERM');
    const late = setTimeout(() => child.kill('SIGKILL'), 2000);
    await ended;
    clearTimeout(late);
  }
}

/** What the kernel alone takes for it: CPU time of pread or pwrite of the raw file by the addon, ns. */
function floor(bytes: number, write: boolean, sequential: boolean): number {
  const fd = openSync(image, 'r+');
  const memory = mmap(memfdCreate('floor', 32 * bytes), 32 * bytes);
  const blocks = span / bytes;
  const count = Math.ceil(0.2e9 / (2000 + bytes / 8));
  const one = (i: number): number =>
    (write ? pwrite : pread)(
      fd,
      memory,
      (i % 32) * bytes,
      bytes,
      (sequential ? i % blocks : Math.floor(Math.random() * blocks)) * bytes,
    );
  for (let i = 0; i < count / 10; i++) one(i);
  const before = process.cpuUsage();
  for (let i = 0; i < count; i++) one(i);
  const { user, system } = process.cpuUsage(before);
  closeSync(fd);
  return ((user + system) * 1000) / count;
}

/** Ours to the better of the rivals, round by round: what is aimed at, and what came out. */
function verdict(format: string, name: string, polling: boolean): string {
  const mine = rowOf(ours.name, name, polling);
  const theirs = rivals.map((r) => rowOf(r.name, name, polling));
  const single = name.includes('depth 1,') || name.endsWith('depth 1');
  const ratios = mine.rate.map((rate, i) =>
    single
      ? Math.min(...theirs.map((r) => r.median[i]!)) / mine.median[i]!
      : rate / Math.max(...theirs.map((r) => r.rate[i]!)),
  );
  const aim = format === 'raw' && !single && name.startsWith('4 KiB') ? 1.5 : 1;
  const what = single ? 'its latency to ours' : 'our rate to its';
  return `${what}: ${spread(ratios, 2)}, aim ${aim}: ${quantile(ratios, 0.5) >= aim ? 'reached' : 'missed'}`;
}

function makeImage(format: string): void {
  const run = (command: string, args: string[]): void => {
    const r = spawnSync(command, args, { stdio: ['ignore', 'ignore', 'inherit'] });
    if (r.status !== 0) throw new Error(`${command} ${args.join(' ')} ended with ${r.status}`);
  };
  rmSync(image, { force: true });
  run('dd', ['if=/dev/urandom', `of=${image}.raw`, `bs=${piece}`, `count=${span / piece}`, 'status=none']);
  if (format === 'raw') run('mv', [`${image}.raw`, image]);
  else {
    run('qemu-img', ['convert', '-f', 'raw', '-O', format, `${image}.raw`, `${image}.made`]);
    // It writes in large pieces.
    run('dd', [`if=${image}.made`, `of=${image}`, `bs=${piece}`, 'status=none']);
    for (const made of ['raw', 'made']) rmSync(`${image}.${made}`);
  }
  run('sync', [folder]);
  // All of it in the page cache: what is compared is the servers, not the disk below.
  run('dd', [`if=${image}`, 'of=/dev/null', 'bs=1M', 'status=none']);
}

prefer('self');
try {
  const without = spawnSync('qemu-storage-daemon', ['--version']).status !== 0;
  if (without)
    console.log('qemu-storage-daemon is not installed (Debian: qemu-system-common): nothing to compare with');
  console.log(
    `${await noise()}; file system type 0x${statfsSync(folder).type.toString(16)}, ${rounds} rounds`,
  );
  for (const format of formats) {
    makeImage(format);
    rows.clear();
    others.busy = others.all = 0;
    for (let round = 0; round < rounds; round++)
      for (let i = 0; i < (without ? 1 : servers.length); i++) {
        // Nobody always comes first.
        const server = without ? ours : servers[(i + round) % servers.length]!;
        if (process.stderr.isTTY)
          process.stderr.write(`\r${format}, round ${round + 1} of ${rounds}: ${server.name}\x1b[K`);
        await measure(server, format);
      }
    if (process.stderr.isTTY) process.stderr.write('\r\x1b[K');
    console.log(
      `\n${format}, ${span / MiB} MiB, cached, written in pieces of ${piece / 1024} KiB. Medians of the rounds (least..most). Others took ${((100 * others.busy) / others.all).toFixed(0)} % of the CPUs meanwhile`,
    );
    for (const { name, load } of loads) {
      if (format === 'raw')
        console.log(
          `${name.replace(/, depth.*/, '')}: the kernel alone takes ${(floor(load.bytes, load.write, load.sequential) / 1000).toFixed(1)} us CPU`,
        );
      for (const polling of [true, false]) {
        console.log(`${name}, client ${polling ? 'polls' : 'waits'}`);
        for (const { name: server } of without ? [ours] : servers) {
          const r = rowOf(server, name, polling);
          const [rate, latency, used] = [r.rate.map((x) => x / 1000), r.median, r.cpu].map((values, i) =>
            spread(i === 0 ? values : values.map((x) => x / 1000), 1),
          );
          console.log(
            `  ${server.padEnd(24)} ${rate!.padStart(22)} k/s   latency ${latency!.padStart(22)} us   CPU ${used!.padStart(18)} us`,
          );
        }
        if (!without) console.log(`  ${verdict(format, name, polling)}`);
      }
    }
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
