/**
 * Control groups (cgroup v2, Documentation/admin-guide/cgroup-v2.rst) of device processes, where the system has delegated one
 * to us: systemd does for `systemd-run --user --scope -p Delegate=yes nyx run ...`, a container may. Each device process then
 * has a group of its own, which bounds its memory of every kind, and its threads. Elsewhere limits of the process count
 * (jail.ts), and `refusal` says why.
 */
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readFileSync,
  rmdirSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';

/** More threads than a device process ever has. */
const maxThreads = 64;

/** The group of one process. nyx-jail enters it. */
export interface Group {
  path: string;
  /** @param bytes all memory: its own, and shared memory that it is the first to touch */
  limit(bytes: number): void;
  /** The process has ended. */
  remove(): void;
}

const text = (path: string): string => readFileSync(path, 'utf8').trim();
const words = (path: string): string[] => text(path).split(/\s+/).filter(Boolean);

/**
 * Our own group's folder.
 * @param mountinfo, groups contents of /proc/self/mountinfo and /proc/self/cgroup
 */
export const ownGroup = (mountinfo: string, groups: string): string | undefined => {
  const path = /^0::(\/.*)$/m.exec(groups)?.[1];
  const mount = mountinfo
    .split('\n')
    .find((line) => / - cgroup2 /.test(line))
    ?.split(' ');
  if (path === undefined || mount === undefined) return undefined;
  const [root, at] = [mount[3]!, mount[4]!];
  const below = relative(root, path);
  return below.startsWith('..') ? undefined : join(at, below);
};

/** Where the supervisor itself is. */
const asideName = 'nyx';
/** Whether groups in it have limits of their own. */
const divided = (path: string): boolean => {
  try {
    return words(join(path, 'cgroup.subtree_control')).includes('memory');
  } catch {
    return false;
  }
};

export class Cgroups {
  #count = 0;

  private constructor(
    readonly base: string | undefined,
    /** Why there is no group; empty when there is. */
    readonly refusal: string,
  ) {}

  /** Looks what was delegated, and takes it. Changes nothing where others use the group. */
  static find(
    base = ownGroup(text('/proc/self/mountinfo'), text('/proc/self/cgroup')),
    self: readonly number[] = [process.pid, process.ppid],
  ): Cgroups {
    const none = (why: string): Cgroups => new Cgroups(undefined, why);
    if (base === undefined) return none('cgroup v2 is not mounted');
    // A supervisor before us has taken it, and has stepped aside: so we were born there.
    const above = dirname(base);
    if (basename(base) === asideName && divided(above)) return new Cgroups(above, '');
    try {
      for (const path of [base, join(base, 'cgroup.procs'), join(base, 'cgroup.subtree_control')])
        accessSync(path, constants.W_OK);
    } catch {
      return none('none is delegated to this user');
    }
    const offered = words(join(base, 'cgroup.controllers'));
    if (!['memory', 'pids'].every((c) => offered.includes(c)))
      return none('the one we are in has no memory or pids controller');
    try {
      if (!divided(base)) {
        // Only the root of all may hold processes beside groups with controllers: we step aside, if we are alone.
        if (existsSync(join(base, 'cgroup.type'))) {
          const inside = words(join(base, 'cgroup.procs')).map(Number);
          if (!inside.every((pid) => self.includes(pid)))
            return none('other programs are in the one we are in');
          const aside = join(base, asideName);
          mkdirSync(aside, { recursive: true });
          for (const pid of inside) writeFileSync(join(aside, 'cgroup.procs'), String(pid));
        }
        writeFileSync(join(base, 'cgroup.subtree_control'), '+memory +pids');
      }
    } catch (e) {
      return none((e as Error).message);
    }
    return new Cgroups(base, '');
  }

  /** A new one; undefined where there is none, or the system gives no more. */
  make(bytes: number): Group | undefined {
    if (this.base === undefined) return undefined;
    const path = join(this.base, `nyx-${process.pid}-${this.#count++}`);
    try {
      mkdirSync(path);
      writeFileSync(join(path, 'pids.max'), String(maxThreads));
      // All or nothing of it: half a device process is of no use.
      writeFileSync(join(path, 'memory.oom.group'), '1');
    } catch {
      return undefined;
    }
    const group = groupAt(path);
    group.limit(bytes);
    return group;
  }
}

/** One that was made already. */
export const groupAt = (path: string): Group => ({
  path,
  limit: (most) => {
    try {
      writeFileSync(join(path, 'memory.max'), String(most));
    } catch {
      // Someone took the group away: the limits of the process are left.
    }
  },
  remove: () => {
    try {
      rmdirSync(path);
    } catch {
      // Its helper is about to end; the group goes with the delegated one.
    }
  },
});

let found: Cgroups | undefined;
/** Those of this process, looked for once. */
export const cgroups = (): Cgroups => {
  found ??= Cgroups.find();
  return found;
};
