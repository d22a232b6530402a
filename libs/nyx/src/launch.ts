/** Starts a supervisor: a process of its own session, which outlives us, and tells through a pipe how it went. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import type { Socket } from 'node:net';
import { dirname, isAbsolute, join, resolve } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import type { Fingerprint, VmState } from '@nyx/protocol/control';
import { errorFromWire, NyxError, type WireError } from '@nyx/protocol/errors';
import type { VmSpec } from '@nyx/protocol/spec';
import { swtpmSocket } from '@nyx/protocol/tpm-spec';
import { claim, files, freeName, list, type RunResult, runRoot, writeJson } from './rundir.ts';

const nyxdBundle = (): string => {
  if (process.env.NYX_NYXD) return process.env.NYX_NYXD;
  const here = dirname(fileURLToPath(import.meta.url));
  for (let folder = here; ; folder = dirname(folder)) {
    const path = join(folder, 'services/supervisor/dist/nyxd.cjs');
    if (existsSync(path)) return path;
    if (folder === dirname(folder))
      throw new NyxError('NOT_BUILT', {
        expected: 'services/supervisor/dist/nyxd.cjs',
        got: `nothing above ${here}`,
      });
  }
};

/** How a machine that did not fail has ended. */
export interface Ended {
  /** Of a deterministic machine whose guest has powered off. */
  fingerprint?: Fingerprint;
}

/** A machine that was started here: its directory, and promises of how it goes. */
export interface Launched {
  name: string;
  dir: string;
  pid: number;
  /** Resolves when the guest runs; rejects with the reason when it does not come to that. */
  running: Promise<void>;
  /** Resolves when the machine has stopped; rejects with the reason when it failed. */
  ended: Promise<Ended>;
  /** Lets this process end although the machine goes on. */
  unref(): void;
}

const absoluteTpm = (
  { state, key, backend, ...tpm }: NonNullable<VmSpec['tpm']>,
  abs: (path: string) => string,
): NonNullable<VmSpec['tpm']> => ({
  ...tpm,
  ...(state === undefined ? {} : { state: abs(state) }),
  ...(key === undefined ? {} : { key: abs(key) }),
  ...(backend === undefined ? {} : { backend: `swtpm:${abs(swtpmSocket({ backend })!)}` }),
});

/** A disk that is no file of this host, like null-co://. */
const isUri = (path: string): boolean => /^[a-z][a-z0-9+-]*:\/\//.test(path);

/** Paths in a specification become absolute: nyxd runs elsewhere. */
export const absolute = (spec: VmSpec, base: string): VmSpec => {
  const abs = (p: string): string => (isAbsolute(p) ? p : resolve(base, p));
  return {
    ...spec,
    ...(spec.kernel === undefined ? {} : { kernel: abs(spec.kernel) }),
    ...(spec.initrd === undefined ? {} : { initrd: abs(spec.initrd) }),
    ...(spec.bios === undefined ? {} : { bios: spec.bios === 'seabios' ? spec.bios : abs(spec.bios) }),
    ...(spec.tpm === undefined ? {} : { tpm: absoluteTpm(spec.tpm, abs) }),
    vhostUser: spec.vhostUser.map((v) => ({ ...v, socket: abs(v.socket) })),
    cdroms: spec.cdroms.map((c) => (c.path === undefined ? c : { ...c, path: abs(c.path) })),
    disks: spec.disks.map((d) => ({
      ...d,
      path: isUri(d.path) ? d.path : abs(d.path),
      ...(d.standby === undefined ? {} : { standby: abs(d.standby) }),
    })),
  };
};

/** A disk that is written by one machine is not given to another. @throws NyxError FILE_IN_USE */
const checkDisks = (spec: VmSpec): void => {
  for (const info of list()) {
    if (info.kind === 'ended') continue;
    let other: VmSpec;
    try {
      other = JSON.parse(readFileSync(join(info.dir, files.spec), 'utf8'));
    } catch {
      continue;
    }
    for (const theirs of other.disks ?? [])
      for (const ours of spec.disks)
        if (ours.path === theirs.path && !isUri(ours.path) && !(ours.readonly && theirs.readonly))
          throw new NyxError('FILE_IN_USE', {
            expected: 'a disk of this machine alone',
            got: `${ours.path} (used by '${info.name}')`,
          });
  }
};

/** Claims a run directory; `prepare` may put files into it before nyxd starts. */
export const launch = async (
  spec: VmSpec,
  base: string,
  prepare?: (dir: string, spec: VmSpec) => Promise<VmSpec>,
): Promise<Launched> => {
  const bundle = nyxdBundle();
  const root = runRoot();
  let full = absolute(spec, base);
  checkDisks(full);
  const dir = claim(spec.name ?? freeName(defaultName(spec), root), root);
  const name = dir.slice(root.length + 1);
  try {
    if (prepare) full = await prepare(dir, full);
    writeJson(join(dir, files.spec), { ...full, name });
  } catch (e) {
    rmSync(dir, { recursive: true, force: true });
    throw e;
  }
  const child = startedEarly(dir) ?? start(bundle, [dir]);
  return follow(name, dir, child.pid ?? 0, child.stdio[3] as Readable, () => child.unref());
};

/** The supervisor that bin/nyx started before this code was loaded, once; it learns now what it is for. */
const startedEarly = (dir: string): ChildProcess | undefined => {
  const place = globalThis as { [early]?: ChildProcess };
  const child = place[early];
  delete place[early];
  if (!child || child.pid === undefined || child.exitCode !== null || child.signalCode !== null)
    return undefined;
  child.ref();
  (child.stdio[3] as Socket).ref();
  (child.stdio[4] as Writable).end(`${dir}\n`);
  return child;
};
const early = Symbol.for('nyx.early');

/** A supervisor with other arguments than a directory (services/supervisor/src/nyxd.ts). @throws NyxError NOT_BUILT */
export const startSupervisor = (args: readonly string[]): ChildProcess => start(nyxdBundle(), args);

const start = (bundle: string, args: readonly string[]): ChildProcess =>
  spawn(process.execPath, ['--no-warnings', bundle, ...args], {
    detached: true,
    cwd: '/',
    stdio: ['ignore', 'ignore', 'ignore', 'pipe'],
    env: {
      PATH: process.env.PATH ?? '/usr/bin:/bin',
      HOME: process.env.HOME ?? '/',
      ...(process.env.XDG_RUNTIME_DIR ? { XDG_RUNTIME_DIR: process.env.XDG_RUNTIME_DIR } : {}),
    },
  });

const defaultName = (spec: VmSpec): string => spec.image ?? 'vm';

const follow = (name: string, dir: string, pid: number, pipe: Readable, unref: () => void): Launched => {
  let isRunning: (() => void) | undefined;
  let notRunning: ((e: Error) => void) | undefined;
  const running = new Promise<void>((resolve, reject) => {
    isRunning = resolve;
    notRunning = reject;
  });
  const ended = new Promise<Ended>((resolve, reject) => {
    let text = '';
    let final: { state: VmState; error?: WireError; fingerprint?: Fingerprint } | undefined;
    pipe.on('data', (bytes: Buffer) => {
      text += bytes.toString();
      for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n')) {
        const line = JSON.parse(text.slice(0, at)) as NonNullable<typeof final> & { state: VmState };
        text = text.slice(at + 1);
        if (line.state === 'running') isRunning!();
        else final = line;
      }
    });
    pipe.on('error', () => {});
    pipe.on('close', () => {
      const error = final?.error
        ? errorFromWire(final.error)
        : final
          ? undefined
          : new NyxError('SUPERVISOR_DIED', {
              expected: 'a word of how the machine ended',
              got: reasonIn(dir),
            });
      notRunning!(
        error ?? new NyxError('VM_STATE', { expected: 'a machine that runs', got: 'it stopped at once' }),
      );
      if (error) reject(error);
      else resolve(final?.fingerprint ? { fingerprint: final.fingerprint } : {});
    });
  });
  // Whoever does not look at one of them does not want to die of it.
  running.catch(() => {});
  ended.catch(() => {});
  return {
    name,
    dir,
    pid,
    running,
    ended,
    unref: () => {
      (pipe as unknown as { unref?: () => void }).unref?.();
      unref();
    },
  };
};

const reasonIn = (dir: string): string => {
  try {
    const result = JSON.parse(readFileSync(join(dir, files.result), 'utf8')) as RunResult;
    return result.error ? JSON.stringify(result.error) : result.state;
  } catch {
    return `nothing; ${join(dir, files.log)} may tell more`;
  }
};
