/**
 * Debian's 32-bit kernel: SeaBIOS and GRUB (16 and 32 bits) start it from a disk on the software CPU, and its user programs compute
 * what they should. Kernel and busybox are Debian's packages for i386.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cacheRoot, type Image } from '@nyx/image';
import { Apt, type Package } from '@nyx/image/apt';
import { cpio } from '@nyx/image/cpio';
import { readDeb } from '@nyx/image/deb';
import { afterAll, describe, expect, test } from 'vitest';
import { bios, bootDisk, canBoot } from './boot-disk.ts';

const folder = mkdtempSync(join(tmpdir(), 'nyx-i386-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Kernel and busybox of the architecture i386, from lists of our own. */
const packages = async (): Promise<Package[] | undefined> => {
  const apt = new Apt(join(cacheRoot(), 'apt-i386'), 'i386');
  const find = async (): Promise<Package[] | undefined> => {
    const known = await apt.show(['linux-image-686', 'busybox-static']);
    const name = known.get('linux-image-686')?.depends.find((d) => d.startsWith('linux-image-')) ?? '';
    const kernel = name && (await apt.show([name])).get(name);
    const busybox = known.get('busybox-static');
    return kernel && busybox ? [kernel, busybox] : undefined;
  };
  const fetch = async (list: Package[] | undefined): Promise<Package[] | undefined> =>
    list && apt.download(list, join(cacheRoot(), 'packages'), () => {}).then(() => list);
  // Old lists name versions that the mirror has removed.
  const found = await find()
    .then(fetch)
    .catch(() => undefined);
  if (found) return found;
  // A list that a mirror does not have just now may be one that we do not need.
  const failed = await apt
    .update(() => {})
    .then(
      () => undefined,
      (e: Error) => e,
    );
  const fresh = await fetch(await find());
  if (!fresh && failed) throw failed;
  return fresh;
};

const file = (p: Package): string => join(cacheRoot(), 'packages', `${p.name}_${p.sha256.slice(0, 16)}.deb`);

const init = `#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s /bin
export PATH=/bin
echo "machine $(uname -m), $(grep -c ^processor /proc/cpuinfo) processor"
echo "digest $(sha256sum </bin/busybox)"
i=0; s=0; while [ $i -lt 20000 ]; do s=$((s + i * i % 7)); i=$((i + 1)); done
echo "sum $s"
gzip -c /bin/busybox | gzip -dc | cmp - /bin/busybox && echo gzip good
poweroff -f
`;

const list = canBoot('the i386 kernel is')
  ? await packages().catch((e: Error) => {
      console.warn(`the i386 kernel is left out: ${e.message}`);
      return undefined;
    })
  : undefined;

describe.runIf(list)(
  'Debian for i386 on the software CPU',
  () => {
    test('boots by GRUB to its shell, translated', async () => {
      const [kernel, busybox] = list!;
      const [image] = (await readDeb(file(kernel!), (n) => /^boot\/vmlinuz-/.test(n))).values();
      const [program] = (await readDeb(file(busybox!), (n) => /^(usr\/)?bin\/busybox$/.test(n))).values();
      const paths = { kernel: join(folder, 'vmlinuz'), initrd: join(folder, 'initrd.img') };
      writeFileSync(paths.kernel, image!);
      writeFileSync(
        paths.initrd,
        cpio([
          { path: 'bin', type: 'dir' },
          { path: 'dev', type: 'dir' },
          { path: 'proc', type: 'dir' },
          { path: 'dev/console', type: 'char', major: 5, minor: 1 },
          { path: 'bin/busybox', type: 'file', data: program!, mode: 0o755 },
          { path: 'init', type: 'file', data: Buffer.from(init), mode: 0o755 },
        ]),
      );
      const disk = bootDisk(folder, paths as Image, '');
      const spec = { name: 'i386', bios, bootMenu: 0, memory: '256M', accel: 'soft' };
      writeFileSync(
        join(folder, 'machine.yaml'),
        JSON.stringify({ ...spec, disks: [{ path: disk, bus: 'ahci' }] }),
      );
      const nyx = fileURLToPath(new URL('../bin/nyx', import.meta.url));
      const r = spawnSync(nyx, ['run', join(folder, 'machine.yaml')], {
        encoding: 'latin1',
        stdio: ['ignore', 'pipe', 'pipe'],
        timeout: 300_000,
        env: { ...process.env, XDG_RUNTIME_DIR: folder },
      });
      const text = `${r.stdout}${r.stderr}`;
      let sum = 0;
      for (let i = 0; i < 20_000; i++) sum += (i * i) % 7;
      expect(text).toMatch(/machine i[56]86, 1 processor/);
      expect(text).toContain(`digest ${createHash('sha256').update(program!).digest('hex')}`);
      expect(text).toContain(`sum ${sum}`);
      expect(text).toContain('gzip good');
      expect(r.status).toBe(0);
    });
  },
  320_000,
);
