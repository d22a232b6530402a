/**
 * A file system of the host in a guest, by QEMU's virtiofsd. It ends when its connection does and remembers nothing of its
 * guest: after a death of either side the guest mounts anew, and that works without anything done to the machine.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { vmTest } from '@nyx/testkit';
import { afterAll, afterEach, describe, expect } from 'vitest';
import { clean, endAll, folder, image, installed, Partner, socket } from './rig.ts';

afterAll(clean);
afterEach(endAll);
const places = ['/usr/lib/qemu/virtiofsd', '/usr/libexec/virtiofsd'];
const virtiofsd = places.find((p) => existsSync(p)) ?? 'virtiofsd';
const hasIt = installed(virtiofsd, 'a guest on virtiofsd');
const root = process.getuid?.() === 0;
if (!root) console.warn('a guest on virtiofsd is left out: the packaged virtiofsd runs as root only');

const shared = join(folder, 'shared');
mkdirSync(shared);
const daemon = new Partner(virtiofsd, [
  ...[`--socket-path=${socket}`, '--rlimit-nofile=1024'],
  ...['-o', `source=${shared}`, '-o', 'sandbox=chroot', '-o', 'cache=none'],
]);
/** It wants more of the host than other back-ends: tried once, for its reason. */
const works =
  image !== undefined &&
  hasIt &&
  root &&
  (await daemon.start().then(
    () => true,
    (e: Error) => {
      console.warn(`a guest on virtiofsd is left out: it does not start here: ${e.message}`);
      return false;
    },
  ));
await endAll();

const test = vmTest({
  ...(image ? { kernel: image.vmlinux, initrd: image.initrd, append: image.cmdline } : {}),
  memory: '128M',
  vhostUser: [{ socket, type: 'fs', tag: 'data' }],
});

describe.runIf(works)('virtiofs', () => {
  test('is mounted, read and written; virtiofsd and front-end die', { timeout: 240_000 }, async ({
    boot,
  }) => {
    writeFileSync(join(shared, 'hello'), 'from the host\n');
    const big = Buffer.alloc(3_000_001, 'host');
    writeFileSync(join(shared, 'big'), big);
    await daemon.start();
    const vm = await boot();
    const done = async (command: string): Promise<string> => {
      const r = await vm.run(command);
      expect(`${r.status} ${r.stderr}`, command).toBe('0 ');
      return r.stdout;
    };
    await done('mkdir -p /mnt && mount -t virtiofs data /mnt');
    expect(await done('cat /mnt/hello; wc -c </mnt/big; md5sum </mnt/big')).toMatch(
      /^from the host\n3000001\n/,
    );
    await done(
      'mkdir /mnt/d && cp /mnt/big /mnt/d/copy && mv /mnt/d/copy /mnt/d/again && ln -s again /mnt/d/link',
    );
    expect(readFileSync(join(shared, 'd/link')).equals(big)).toBe(true);

    // Whichever side dies: virtiofsd's memory of the guest is gone, the machine's device is not.
    const anew = async (): Promise<void> => {
      expect((await vm.run('cat /mnt/hello')).status).not.toBe(0);
      await done('umount -l /mnt && mount -t virtiofs data /mnt');
      expect(await done('cat /mnt/hello')).toBe('from the host\n');
    };
    await daemon.again();
    await anew();
    await vm.kill('fs0-vhost');
    await daemon.gone();
    await daemon.start();
    await anew();
    await done('echo from the guest >/mnt/back');
    expect(readFileSync(join(shared, 'back'), 'utf8')).toBe('from the guest\n');
  });
});
