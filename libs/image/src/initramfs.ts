/** The root file system of the default guest: busybox, our init, the modules it needs. */
import { type CpioEntry, cpio } from './cpio.ts';
import { agentScript, initScript, poweroffScript, profileScript } from './init.ts';
import type { LoadedModule } from './modules.ts';

const text = (s: string): Buffer => Buffer.from(s, 'utf8');

/**
 * @param busybox the static binary
 * @param applets paths as `busybox --list-full` prints them ("bin/ls")
 * @param modules in load order
 * @param forDevice loaded when there is such a device (init.ts)
 * @returns an uncompressed archive: memory is cheaper than guest instructions spent on unpacking
 */
export function buildInitramfs(
  busybox: Uint8Array,
  applets: readonly string[],
  modules: readonly LoadedModule[],
  forDevice: Readonly<Record<string, readonly LoadedModule[]>> = {},
): Buffer {
  const entries: CpioEntry[] = [];
  const names = (list: readonly LoadedModule[]): string[] => list.map((m) => m.name);
  const types = Object.entries(forDevice).map(([type, list]) => [type, names(list)] as const);
  for (const path of [
    'dev',
    'proc',
    'sys',
    'bin',
    'sbin',
    'usr',
    'usr/bin',
    'usr/sbin',
    'lib',
    'lib/modules',
    'etc',
    'etc/acpi',
    'etc/acpi/PWRF',
    'root',
    'run',
    'data',
  ])
    entries.push({ path, type: 'dir' });
  entries.push({ path: 'tmp', type: 'dir', mode: 0o1777 });
  // The kernel opens it as stdin, stdout and stderr of init before anything is mounted.
  entries.push({ path: 'dev/console', type: 'char', major: 5, minor: 1 });
  entries.push({ path: 'bin/busybox', type: 'file', data: busybox, mode: 0o755 });
  for (const path of [...applets].sort())
    if (/^(usr\/)?s?bin\/[^/]+$/.test(path) && path !== 'bin/busybox')
      entries.push({ path, type: 'link', target: '/bin/busybox' });
  for (const m of new Set([...modules, ...Object.values(forDevice).flat()]))
    entries.push({ path: `lib/modules/${m.name}.ko`, type: 'file', data: m.data });
  entries.push({
    path: 'init',
    type: 'file',
    data: text(initScript(names(modules), Object.fromEntries(types))),
    mode: 0o755,
  });
  entries.push({ path: 'sbin/nyx-agent', type: 'file', data: text(agentScript), mode: 0o755 });
  entries.push({ path: 'sbin/nyx-poweroff', type: 'file', data: text(poweroffScript), mode: 0o755 });
  entries.push({
    path: 'etc/acpi/PWRF/00000080',
    type: 'file',
    data: text('#!/bin/sh\nexec nyx-poweroff\n'),
    mode: 0o755,
  });
  entries.push({ path: 'etc/profile', type: 'file', data: text(profileScript) });
  entries.push({ path: 'etc/passwd', type: 'file', data: text('root::0:0:root:/root:/bin/sh\n') });
  entries.push({ path: 'etc/group', type: 'file', data: text('root:x:0:\n') });
  entries.push({ path: 'etc/fstab', type: 'file', data: text('') });
  return cpio(entries);
}
