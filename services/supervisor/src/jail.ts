/**
 * Starts a program in a jail: namespaces of its own where the kernel gives them to us, then nyx-jail, which builds the
 * rest and becomes the program. What a kernel or its administrator refuses is left out and told, never silently.
 */
import { readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { close, type NativeError, socketpair, spawnProcess } from '@nyx/native';
import { built } from './paths.ts';

/** What a program may read while it starts, beside the C library and itself. */
export interface Jail {
  read: readonly string[];
  /** Bytes of anonymous memory, where there is a limit. */
  dataLimit?: number;
  /** Folder of its control group. */
  cgroup?: string;
  /** Time slice in ns, for a program that is to run soon when it wakes. */
  slice?: number;
  /** It empties its root directory itself when all of its code is loaded (libs/device lockdown.ts). */
  leaves: boolean;
}

/** Of nyx-jail, and later of the program itself. */
export interface JailReport {
  /** What holds: 'user', 'pid', 'net', 'root', 'landlock' ... */
  layers: string[];
  /** What does not, each with its reason. */
  missing: string[];
}

/**
 * Anonymous memory of a device process, bytes. Node has some 80 MiB of it when it starts, most of it never touched. The
 * limit that counts where no memory cgroup is delegated to us.
 */
export const deviceDataLimit = 512 * 2 ** 20;

type Mode = 'root' | 'user' | 'none';
const inner = ['mount', 'pid', 'net', 'ipc', 'uts'];
const namespaces: Record<Mode, readonly string[]> = { root: inner, user: ['user', ...inner], none: [] };
/**
 * From the best to the last; the first is in use, and is dropped when the kernel refuses it. Root needs no user namespace to
 * make the others; where it lacks that right (in a container) it is as anybody.
 */
const modes: Mode[] = process.getuid?.() === 0 ? ['root', 'user', 'none'] : ['user', 'none'];
let refusal = '';
const refusals = new Set(['EPERM', 'ENOSPC', 'EINVAL', 'EUSERS', 'ENOSYS']);

/** Folders of the shared libraries that a Node process has loaded; the dynamic linker looks for them by other names too. */
const libraries = (): string[] => {
  const folders = new Set(['/lib', '/lib64', '/usr/lib', '/usr/lib64']);
  for (const [, path] of readFileSync('/proc/self/maps', 'latin1').matchAll(/ (\/\S+\.so[.\d]*)$/gm))
    if (![...folders].some((f) => path!.startsWith(`${f}/`))) folders.add(dirname(path!));
  return [...folders];
};
let libraryFolders: string[] | undefined;

/**
 * @param fds as in spawnProcess; descriptor 3 is the control socket, on which nyx-jail's report comes first
 * @throws NativeError when the program cannot be started at all
 */
export const spawnJailed = (
  jail: Jail,
  program: string,
  args: readonly string[],
  env: readonly string[],
  fds: readonly number[],
): number => {
  libraryFolders ??= libraries();
  const launcher = built('libs/native/build/Release/nyx-jail');
  const read = [...libraryFolders, '/etc/ld.so.cache', '/dev/null', program, ...jail.read];
  const options = [
    ...read.flatMap((path) => ['--read', path]),
    ...['CORE=0', 'NOFILE=1024', ...(jail.dataLimit ? [`DATA=${jail.dataLimit}`] : [])].flatMap((limit) => [
      '--limit',
      limit,
    ]),
  ];
  const attempt = (mode: Mode, ends: readonly number[]): number => {
    const leaves = ends.length > 0;
    return spawnProcess(
      launcher,
      [
        ...['--mode', mode, '--why', refusal, ...options],
        ...(jail.cgroup ? ['--cgroup', jail.cgroup] : []),
        ...(jail.slice ? ['--slice', String(jail.slice)] : []),
        ...(leaves ? ['--leave', String(fds.length + 1)] : []),
        ...['--', program, ...args],
      ],
      leaves ? [...env, `NYX_JAIL=${fds.length}`] : env,
      [...fds, ...ends],
      namespaces[mode],
    );
  };
  for (;;) {
    const mode = modes[0]!;
    const ends = jail.leaves && mode !== 'none' ? socketpair() : [];
    try {
      return attempt(mode, ends);
    } catch (e) {
      const { code } = e as NativeError;
      if (mode === 'none' || !refusals.has(code)) throw e;
      refusal = `the kernel refuses them to user ${process.getuid?.()} (${code})`;
      modes.shift();
    } finally {
      for (const fd of ends) close(fd);
    }
  }
};

/** The report in a message, if it is one. */
export const jailReport = (bytes: Uint8Array): JailReport | undefined => {
  const text = Buffer.from(bytes).toString();
  if (!text.startsWith('{"type":"jail",')) return undefined;
  const { layers, missing } = JSON.parse(text) as JailReport;
  return { layers, missing };
};
