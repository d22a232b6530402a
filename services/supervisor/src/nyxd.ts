/**
 * nyxd: the supervisor of one machine. `nyxd <run directory>`; the directory was claimed and holds spec.json. Or `nyxd --early
 * [service...]`, started by the command before it has loaded its own code: the run directory then comes as a line on
 * descriptor 4, and without one nyxd ends. Or `nyxd --adopt <run directory> [--report]`: the machine runs, and its nyxd is dead. Device processes need longest to start, so they come first, before even the
 * supervisor's own code is loaded (supervise.ts).
 */
import { lstatSync, openSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { Socket } from 'node:net';
import { join } from 'node:path';
import { files } from '@nyx/nyx/files';
import { serviceBundle } from './paths.ts';
import { Spares } from './spares.ts';

/** What the machine will surely need. Whether the specification is right is seen later. */
const servicesOf = (dir: string): string[] => {
  try {
    const spec = JSON.parse(readFileSync(join(dir, files.spec), 'utf8')) as {
      disks?: unknown[];
      cdroms?: unknown[];
    };
    return spec.disks?.length || spec.cdroms?.length ? ['platform', 'storage'] : ['platform'];
  } catch {
    return [];
  }
};

const startSpares = (log: number, services: readonly string[]): Spares => {
  const spares = new Spares({ log, bundle: serviceBundle });
  for (const service of services) {
    try {
      spares.start(service);
    } catch {
      // It is tried again when it is needed, and reported then.
    }
  }
  return spares;
};

const openLog = (path: string): number => openSync(path, 'a', 0o600);

/** The run directory, or undefined when the command ended without a machine. */
const directory = (): Promise<string | undefined> =>
  new Promise((resolve) => {
    let text = '';
    const pipe = new Socket({ fd: 4, readable: true, writable: false });
    pipe.setEncoding('utf8');
    pipe.on('data', (s) => {
      text += s;
    });
    pipe.on('error', () => {});
    pipe.on('close', () => resolve(text.endsWith('\n') ? text.slice(0, -1) : undefined));
  });

/** Where run directories are, if that is there already and ours alone; the command makes sure of it later. */
const runRoot = (): string | undefined => {
  const uid = process.getuid!();
  const root = process.env.XDG_RUNTIME_DIR ? join(process.env.XDG_RUNTIME_DIR, 'nyx') : `/tmp/nyx-${uid}`;
  try {
    const s = lstatSync(root);
    return s.isDirectory() && s.uid === uid && (s.mode & 0o077) === 0 ? root : undefined;
  } catch {
    return undefined;
  }
};

const early = async (services: readonly string[]): Promise<void> => {
  const known = directory();
  const root = runRoot();
  // The log of the device processes gets its place when there is one.
  const path = root && join(root, `early-${process.pid}.log`);
  const spares = path ? startSpares(openLog(path), services) : undefined;
  const { supervise } = await import('./supervise.ts');
  const dir = await known;
  if (dir === undefined) {
    spares?.close();
    if (path) rmSync(path, { force: true });
    process.exit(0);
  }
  const log = join(dir, files.deviceLog);
  if (path) renameSync(path, log);
  await supervise(dir, spares ?? startSpares(openLog(log), servicesOf(dir)));
};

/** Another supervisor was here, and is dead. */
const adopt = async (dir: string, reports: boolean): Promise<void> => {
  const { supervise } = await import('./supervise.ts');
  await supervise(dir, startSpares(openLog(join(dir, files.deviceLog)), []), { reports });
};

const main = async (dir: string): Promise<void> => {
  const spares = startSpares(openLog(join(dir, files.deviceLog)), servicesOf(dir));
  const { supervise } = await import('./supervise.ts');
  await supervise(dir, spares);
};

const [dir, ...rest] = process.argv.slice(2);
if (!dir) {
  process.stderr.write('usage: nyxd RUN-DIRECTORY (nyx run starts it)\n');
  process.exit(64);
}
void (dir === '--early'
  ? early(rest)
  : dir === '--adopt'
    ? adopt(rest[0]!, rest.includes('--report'))
    : main(dir));
