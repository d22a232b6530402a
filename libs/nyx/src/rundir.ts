/**
 * Run directories: one per machine, `$XDG_RUNTIME_DIR/nyx/<vm>` or `/tmp/nyx-<uid>/<vm>`, mode 0700. What is known about a
 * machine without asking its supervisor is here: its processes (pids.json), its specification (spec.json), how it ended
 * (result.json), logs and sockets. A pid counts only together with its start time: pids are used again.
 */
import { lstatSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { sockets } from '@nyx/protocol/control';
import { NyxError, type WireError } from '@nyx/protocol/errors';
import { files } from './files.ts';

export { files };

export interface ProcessId {
  /** 'nyxd', 'nyx-vcpu', or the name of the device process. */
  role: string;
  pid: number;
  /** Clock ticks after boot (field 22 of /proc/PID/stat). */
  start: number;
}

/** How a machine ended. */
export interface RunResult {
  state: 'stopped' | 'failed';
  at: number;
  error?: WireError;
  /** The fault that ended a machine which has not failed: what the policy says. */
  fault?: string;
}

export interface RunInfo {
  name: string;
  dir: string;
  /** 'orphaned': the supervisor is gone, the guest runs on (until another supervisor takes it over). 'ended': it failed, or a fault ended it; its directory was kept. */
  kind: 'alive' | 'orphaned' | 'ended';
  pids: ProcessId[];
  result?: RunResult;
}

/** Start time of a process, undefined when there is none or it is a zombie. */
export const startTime = (pid: number): number | undefined => {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const rest = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return rest[0] === 'Z' || rest[0] === 'X' ? undefined : Number(rest[19]);
  } catch {
    return undefined;
  }
};

export const identify = (role: string, pid: number): ProcessId => ({ role, pid, start: startTime(pid) ?? 0 });
export const isAlive = (p: ProcessId): boolean => p.pid > 0 && startTime(p.pid) === p.start;

/** Signals that very process, not one that got its number later; false when it is gone. */
export const signal = (p: ProcessId, name: NodeJS.Signals): boolean => {
  if (!isAlive(p)) return false;
  try {
    process.kill(p.pid, name);
    return true;
  } catch {
    return false;
  }
};

const uid = (): number => process.getuid?.() ?? 0;

/** The folder of all run directories, made when missing. @throws NyxError RUN_DIR_UNSAFE, HOST_ERROR */
export const runRoot = (env: NodeJS.ProcessEnv = process.env): string => {
  const root = env.XDG_RUNTIME_DIR ? join(env.XDG_RUNTIME_DIR, 'nyx') : `/tmp/nyx-${uid()}`;
  try {
    mkdirSync(root, { recursive: true, mode: 0o700 });
  } catch (e) {
    throw new NyxError('HOST_ERROR', { expected: `a directory ${root}`, got: String((e as Error).message) });
  }
  const s = lstatSync(root);
  if (!s.isDirectory() || s.uid !== uid() || (s.mode & 0o077) !== 0)
    throw new NyxError('RUN_DIR_UNSAFE', {
      expected: `${root}: a directory of user ${uid()} with mode 0700`,
      got: `user ${s.uid}, mode ${(s.mode & 0o777).toString(8)}`,
    });
  return root;
};

const json = <T>(path: string): T | undefined => {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as T;
  } catch {
    return undefined;
  }
};

/** Replaces a file at once: a reader sees the old or the new one. */
export const writeJson = (path: string, value: unknown): void => {
  writeFileSync(`${path}.new`, JSON.stringify(value), { mode: 0o600 });
  renameSync(`${path}.new`, path);
};

/** Processes that a run directory names and that live. */
export const recorded = (dir: string): ProcessId[] => {
  const all = json<unknown>(join(dir, files.pids));
  const known = (p: unknown): p is ProcessId => {
    const { role, pid, start } = (p ?? {}) as Record<string, unknown>;
    return typeof role === 'string' && Number.isInteger(pid) && Number.isInteger(start);
  };
  return Array.isArray(all) ? all.filter(known).filter(isAlive) : [];
};

/** What a run directory says; undefined when nothing is left of the machine and nothing was worth keeping. */
export const inspect = (dir: string, name: string): RunInfo | undefined => {
  const result = json<RunResult>(join(dir, files.result));
  const live = recorded(dir);
  const base = { name, dir, pids: live, ...(result ? { result } : {}) };
  if (live.some((p) => p.role === 'nyxd' || p.role === 'launcher')) return { ...base, kind: 'alive' };
  // A keeper alone keeps nothing that could go on.
  if (live.some((p) => p.role !== 'nyx-keeper')) return { ...base, kind: 'orphaned' };
  return result?.state === 'failed' || result?.fault !== undefined ? { ...base, kind: 'ended' } : undefined;
};

/** All machines of this user. Directories of which nothing is left are removed. */
export const list = (root = runRoot()): RunInfo[] => {
  const found: RunInfo[] = [];
  for (const entry of readdirSync(root, { withFileTypes: true })) {
    if (!entry.isDirectory()) continue;
    const dir = join(root, entry.name);
    const info = inspect(dir, entry.name);
    if (info) found.push(info);
    else rmSync(dir, { recursive: true, force: true });
  }
  return found.sort((a, b) => (a.name < b.name ? -1 : 1));
};

/** Longest path of a unix socket (sockaddr_un.sun_path without its NUL). */
const maxSocketPath = 107;

/**
 * Makes the run directory of a new machine and marks it as ours until nyxd takes over.
 * @throws NyxError VM_EXISTS, PATH_TOO_LONG
 */
export const claim = (name: string, root = runRoot()): string => {
  const dir = join(root, name);
  const longest = join(
    dir,
    sockets.control.length > sockets.console.length ? sockets.control : sockets.console,
  );
  if (Buffer.byteLength(longest) > maxSocketPath)
    throw new NyxError('PATH_TOO_LONG', {
      expected: `at most ${maxSocketPath} bytes`,
      got: `${longest} (${Buffer.byteLength(longest)})`,
    });
  for (let tries = 0; ; tries++) {
    try {
      mkdirSync(dir, { mode: 0o700 });
      writeJson(join(dir, files.pids), [identify('launcher', process.pid)]);
      return dir;
    } catch (e) {
      if ((e as NodeJS.ErrnoException).code !== 'EEXIST' || tries > 2) throw e;
    }
    const info = inspect(dir, name);
    if (info && info.kind !== 'ended')
      throw new NyxError('VM_EXISTS', { expected: 'a free name', got: `'${name}' (${info.kind})` });
    rmSync(dir, { recursive: true, force: true });
  }
};

/** The first of base, base-2, base-3 ... that no machine has. */
export const freeName = (base: string, root = runRoot()): string => {
  const taken = new Set(
    list(root)
      .filter((i) => i.kind !== 'ended')
      .map((i) => i.name),
  );
  for (let n = 1; ; n++) {
    const name = n === 1 ? base : `${base}-${n}`;
    if (!taken.has(name)) return name;
  }
};

/** The machine that a user means: the named one, or the only one. @throws NyxError VM_UNKNOWN, VM_AMBIGUOUS */
export const find = (name: string | undefined, root = runRoot()): RunInfo => {
  const all = list(root);
  if (name !== undefined) {
    const info = all.find((i) => i.name === name);
    if (!info)
      throw new NyxError('VM_UNKNOWN', {
        expected: all.length ? `one of ${all.map((i) => i.name).join(', ')}` : 'a machine that runs',
        got: `'${name}'`,
      });
    return info;
  }
  const live = all.filter((i) => i.kind !== 'ended');
  if (live.length === 1) return live[0]!;
  if (live.length === 0) throw new NyxError('VM_UNKNOWN', { expected: 'a machine that runs', got: 'none' });
  throw new NyxError('VM_AMBIGUOUS', {
    expected: `one of ${live.map((i) => i.name).join(', ')}`,
    got: 'no name',
  });
};
