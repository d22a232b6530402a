/** How the image `debian` is made: Debian's (or Ubuntu's) own kernel, busybox, our init. */

import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isBzImage, parseBzImage, unpackKernel } from '@nyx/boot';
import { Apt, type Package } from './apt.ts';
import { readDeb, unpackModule } from './deb.ts';
import { ImageError } from './errors.ts';
import { type Guest, modulesForDevice } from './init.ts';
import { buildInitramfs } from './initramfs.ts';
import { type LoadedModule, loadOrder, moduleName } from './modules.ts';
import { tool } from './tool.ts';

export interface Progress {
  step: 'wait' | 'resolve' | 'lists' | 'download' | 'kernel' | 'initramfs' | 'done';
  message: string;
  /** 0..1 of this step, when known. */
  fraction?: number;
}

export type OnProgress = (progress: Progress) => void;

const BUSYBOX = 'busybox-static';

/**
 * Why each word is there. Everything is a default that the user's own command line can override (Linux takes the last).
 * - console=ttyS0: the first serial port is the console; quiet: printing at a byte an exit is slow
 * - panic=-1: a panic resets the machine, which the supervisor sees, instead of hanging
 * - tsc=reliable: the TSC is told by the hypervisor; no watchdog clock has to confirm it
 * - no_timer_check: the check of the timer interrupt spins for 10 ticks and can fail on a busy host
 * - cryptomgr.notests: no self-tests of the ciphers; measured, 0.87 of 1.50 billion guest instructions from entry to shell
 * - rootfstype=ramfs: unpacking into ramfs takes fewer instructions than into tmpfs
 */
export const guestCmdline =
  'console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check cryptomgr.notests rootfstype=ramfs';

export interface BuiltImage {
  release: string;
  packages: { name: string; version: string }[];
  /** Content by file name. */
  files: Record<'vmlinuz' | 'vmlinux' | 'initrd.img', Uint8Array>;
}

/** The kernel package that exists, what belongs to it, and busybox. */
async function resolve(apt: Apt, kernels: readonly string[]): Promise<Package[] | undefined> {
  const known = await apt.show([...kernels, BUSYBOX]);
  const busybox = known.get(BUSYBOX);
  const meta = kernels.map((k) => known.get(k)).find((p) => p !== undefined);
  if (!busybox || !meta) return undefined;
  // Ubuntu keeps modules in a package of their own that the kernel package depends on.
  const names = meta.depends.filter((d) => /^linux-image-(unsigned-)?\d/.test(d));
  const kernel = await apt.show([
    ...names,
    ...names.map((n) => n.replace(/^linux-image-(unsigned-)?/, 'linux-modules-')),
  ]);
  return kernel.has(names[0] ?? '') ? [...kernel.values(), busybox] : undefined;
}

async function packages(
  apt: Apt,
  debs: string,
  kernels: readonly string[],
  onProgress: OnProgress,
): Promise<{ list: Package[]; paths: string[] }> {
  onProgress({ step: 'resolve', message: 'asking apt for the kernel and busybox' });
  let list = await resolve(apt, kernels);
  for (let updated = false; ; updated = true) {
    if (list) {
      const total = list.reduce((sum, p) => sum + p.size, 0);
      const message = `${list.map((p) => `${p.name} ${p.version}`).join(', ')} (${Math.round(total / 1e6)} MB)`;
      onProgress({ step: 'download', message });
      try {
        const paths = await apt.download(list, debs, (fraction) => {
          if (!Number.isNaN(fraction)) onProgress({ step: 'download', message, fraction });
        });
        return { list, paths };
      } catch (error) {
        // Old lists name versions that the mirror has removed.
        if (updated || !(error instanceof ImageError) || error.code !== 'IMAGE_DOWNLOAD_FAILED') throw error;
      }
    }
    if (updated)
      throw new ImageError(
        'IMAGE_NO_PACKAGES',
        `apt to know ${BUSYBOX} and one of ${kernels.join(', ')} for amd64`,
        "neither the host's lists nor fresh ones do",
        'Use a Debian or Ubuntu host for x86-64, or give a kernel with --kernel and --initrd.',
      );
    onProgress({ step: 'lists', message: 'fetching package lists' });
    await apt.update((fraction) => {
      if (!Number.isNaN(fraction)) onProgress({ step: 'lists', message: 'fetching package lists', fraction });
    });
    list = await resolve(apt, kernels);
  }
}

/** The applets that the binary has, as paths. The binary comes from a package that apt has verified. */
async function appletPaths(busybox: Uint8Array, directory: string): Promise<string[]> {
  const work = await mkdtemp(join(directory, 'busybox-'));
  try {
    const path = join(work, 'busybox');
    await writeFile(path, busybox);
    await chmod(path, 0o700);
    return (await tool(path, ['--list-full'])).toString('utf8').split('\n').filter(Boolean);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** Modules that may be needed; a kernel for all hardware has some 300 MB of others. */
const usable =
  /^(usr\/)?lib\/modules\/[^/]+\/kernel\/(arch|block|crypto|fs|lib|drivers\/(acpi|ata|block|cdrom|char|input|misc\/pvpanic|scsi|virtio|watchdog))\/.*\.ko(\.xz|\.zst)?$/;

/**
 * Makes kernel and initramfs; nothing is written but apt's and our package cache.
 * @param cache directory of the caches
 */
export async function makeDebian(cache: string, guest: Guest, onProgress: OnProgress): Promise<BuiltImage> {
  const debs = join(cache, 'packages');
  const { list, paths } = await packages(new Apt(join(cache, 'apt')), debs, guest.kernels, onProgress);
  onProgress({ step: 'kernel', message: 'unpacking the kernel' });
  const files = new Map<string, Buffer>();
  for (const path of paths)
    for (const [name, data] of await readDeb(
      path,
      (n) => /^boot\/vmlinuz-|^(usr\/)?bin\/busybox$/.test(n) || usable.test(n),
    ))
      files.set(name, data);
  const find = (pattern: RegExp, what: string): Buffer => {
    for (const [name, data] of files) if (pattern.test(name)) return data;
    throw new ImageError(
      'IMAGE_BAD_PACKAGE',
      `${what} in the packages ${list.map((p) => p.name).join(', ')}`,
      'none',
      'Report the distribution and the package versions.',
    );
  };
  const vmlinuz = find(/^boot\/vmlinuz-/, 'a kernel');
  const busybox = find(/bin\/busybox$/, 'busybox');
  if (!isBzImage(vmlinuz))
    throw new ImageError(
      'IMAGE_BAD_PACKAGE',
      'a bzImage in the kernel package',
      'another format',
      'Report the distribution and the package versions.',
    );
  const kernel = parseBzImage(vmlinuz);
  const vmlinux = await unpackKernel(kernel, (format, data) =>
    tool(format, format === 'xz' ? ['-dc'] : ['-dcq'], {
      input: data,
      install: `Install the program ${format}.`,
    }),
  );
  onProgress({ step: 'initramfs', message: 'writing the initramfs' });
  const modulePaths = new Map(
    [...files.keys()].filter((n) => /\.ko(\.\w+)?$/.test(n)).map((n) => [moduleName(n), n] as const),
  );
  const read = async (name: string): Promise<Uint8Array | undefined> => {
    const path = modulePaths.get(name);
    const data = path === undefined ? undefined : files.get(path);
    return data && unpackModule(path!, data);
  };
  const modules = await loadOrder(guest.modules, read);
  const forDevice: Record<string, LoadedModule[]> = {};
  for (const [type, names] of Object.entries(modulesForDevice))
    forDevice[type] = (await loadOrder(names, read)).filter((m) => !modules.some((o) => o.name === m.name));
  const initrd = buildInitramfs(busybox, await appletPaths(busybox, cache), modules, forDevice);
  return {
    release: kernel.release.split(' ')[0] ?? '',
    packages: list.map(({ name, version }) => ({ name, version })),
    files: { vmlinuz, vmlinux, 'initrd.img': initrd },
  };
}
