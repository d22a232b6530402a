/**
 * Control groups, by a kernel that has them whole: a guest's, in which Node and nyx-jail run from a disk. The host's own are
 * whatever its administrator made of them, and are not touched.
 */
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Image, ImageStore } from '@nyx/image';
import { Vm } from '@nyx/nyx';
import { build } from 'esbuild';
import { afterAll, describe, expect, test } from 'vitest';
import { ownGroup } from './cgroup.ts';
import { addonPath, built } from './paths.ts';

const folder = mkdtempSync(join(tmpdir(), 'nyx-cgroup-'));
process.env.XDG_RUNTIME_DIR = folder;
const image: Image | undefined = await new ImageStore().build('debian').catch((e: Error) => {
  console.warn(`control groups are not tried, there is no image: ${e.message}`);
  return undefined;
});
let vm: Vm | undefined;
afterAll(async () => {
  await vm?.stop(0);
  rmSync(folder, { recursive: true, force: true });
});

test('our own group, wherever the hierarchy is mounted', () => {
  const v2 = '42 24 0:38 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw';
  const hybrid = `41 24 0:37 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n42 24 0:38 /user /cg rw - cgroup2 c rw`;
  expect(ownGroup(v2, '0::/user.slice/a.scope\n')).toBe('/sys/fs/cgroup/user.slice/a.scope');
  expect(ownGroup(hybrid, '4:memory:/x\n0::/user/a\n')).toBe('/cg/a');
  expect(ownGroup(hybrid, '0::/other\n')).toBeUndefined();
  expect(ownGroup('41 24 0:37 / /m rw - cgroup cgroup rw,memory', '4:memory:/x\n')).toBeUndefined();
});

/** A disk with Node, the libraries that it was linked with, and our parts as they lie in the project. */
const disk = async (): Promise<string> => {
  const root = join(folder, 'root');
  const put = (from: string, to: string): void => {
    mkdirSync(dirname(join(root, to)), { recursive: true });
    copyFileSync(from, join(root, to));
  };
  for (const [, path] of execFileSync('ldd', [process.execPath, addonPath()], { encoding: 'utf8' }).matchAll(
    /(\/\S+) \(0x/g,
  ))
    put(path!, path!);
  put(process.execPath, '/usr/bin/node');
  put(addonPath(), '/nyx/libs/native/build/Release/nyx_native.node');
  put(built('libs/native/build/Release/nyx-jail'), '/nyx/libs/native/build/Release/nyx-jail');
  for (const name of ['proc', 'sys', 'dev', 'tmp']) mkdirSync(join(root, name), { recursive: true });
  await build({
    entryPoints: [fileURLToPath(new URL('testing/cgroup-guest.ts', import.meta.url))],
    outfile: join(root, 'nyx/guest.mjs'),
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    logLevel: 'warning',
  });
  const path = join(folder, 'disk.img');
  execFileSync('truncate', ['-s', '256M', path]);
  execFileSync('mke2fs', ['-q', '-F', '-t', 'ext4', '-O', '^has_journal', '-d', root, path]);
  rmSync(root, { recursive: true });
  return path;
};

describe.runIf(image)('in a guest', () => {
  test('a delegated group bounds the memory and the threads of a process', { timeout: 660_000 }, async () => {
    vm = await Vm.start({
      name: 'cgroup',
      kernel: image!.vmlinux,
      initrd: image!.initrd,
      append: image!.cmdline,
      memory: '1G',
      accel: 'soft',
      agent: true,
      disks: [await disk()],
    });
    const script = `set -e
mkdir -p /m; mount -t ext4 /dev/vda /m
for d in proc sys dev; do mount --bind /$d /m/$d; done
mount -t cgroup2 none /m/sys/fs/cgroup; cd /m/sys/fs/cgroup
echo '+memory +pids' > cgroup.subtree_control; mkdir ours; echo $$ > ours/cgroup.procs
cd /; exec chroot /m /usr/bin/node /nyx/guest.mjs`;
    const r = await vm.exec(script, { timeout: 600 });
    expect(r.status, r.stderr.toString()).toBe(0);
    const seen = JSON.parse(r.stdout.toString());
    expect(seen).toMatchObject({ refusal: '', base: '/sys/fs/cgroup/ours', left: false });
    expect(seen.raised.layers).toContain('cgroup');
    expect([seen.greedy.reason, seen.raised.reason]).toEqual(['killed by SIGKILL', 'exited 8']);
    expect(seen.events).toMatch(/^oom_group_kill 1$/m);
    // 100 threads are refused at once; without a limit they would live for a minute, and it would end with 10.
    expect(seen.threads.reason).toMatch(/^exited [19]$/);
    expect(seen.pids).toMatch(/^max [1-9]/);
  });
});
