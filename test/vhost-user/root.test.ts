/**
 * Guests that have nothing but a disk on a vhost-user socket: SeaBIOS, GRUB, Debian's kernel and the root file system come
 * from there. Ours from qemu-storage-daemon, QEMU's from ours; whoever serves is killed while the guest works on its root.
 */
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { vmTest } from '@nyx/testkit';
import { afterAll, afterEach, beforeAll, describe, expect } from 'vitest';
import { bios, bootDisk, canBoot } from '../boot-disk.ts';
import {
  clean,
  during,
  endAll,
  folder,
  image,
  installed,
  ours,
  socket,
  start,
  storageDaemon,
} from './rig.ts';

afterAll(clean);
afterEach(endAll);
const bootable = canBoot('a boot from vhost-user');
const hasDaemon = installed('qemu-storage-daemon', 'a boot from a foreign back-end');
const hasQemu = installed('qemu-system-x86_64', 'a foreign guest that boots from our back-end');

/** Writes programs to its root, forgets what it has in memory, reads them back and runs them. */
const load = `mkdir -p /root/d; bad=0; i=0
while [ $i -lt 16 ]; do
  mkdir -p /root/d/$((i%4)) && cp /bin/busybox /root/d/$((i%4))/ || bad=write
  sync; echo 3 > /proc/sys/vm/drop_caches
  cmp /bin/busybox /root/d/$((i%4))/busybox || bad=compare
  /root/d/$((i%4))/busybox true || bad=run
  i=$((i+1))
done
sync; dmesg | grep -iE 'I/O error|EXT4-fs (error|warning)|timed out|blocked for' && bad=log
echo "over bad=$bad"
`;
let disk = '';
beforeAll(() => {
  if (image && bootable)
    disk = bootDisk(folder, image, 'nyx.agent=1 root=/dev/vda1 rw', { 'root/load': load });
});
/** The image for one test. */
const fresh = (name: string): string => {
  const path = join(folder, name);
  copyFileSync(disk, path);
  return path;
};

const test = vmTest({ memory: '256M', bios, bootMenu: 0, vhostUser: [{ socket }] }, { bootTimeout: 240 });

describe.runIf(image && bootable)('boots from vhost-user, and lives on it', () => {
  test.runIf(hasDaemon)(
    'our guest: qemu-storage-daemon, which dies under load',
    { timeout: 400_000 },
    async ({ boot }) => {
      const daemon = await storageDaemon(fresh('ours.img')).start();
      const vm = await boot();
      expect((await vm.run('awk \'$2 == "/" {print $1}\' /proc/mounts')).stdout).toContain('/dev/vda1');
      expect(vm.console()).toContain('rooted on /dev/vda1');
      const { strikes, result } = await during(vm.run('sh /root/load', 240), 5, 900, () => daemon.again());
      expect(result.stdout).toBe('over bad=0\n');
      expect(strikes).toBeGreaterThan(1);
    },
  );

  test.runIf(hasQemu)(
    'a guest of QEMU: our back-end, which dies under load',
    { timeout: 400_000 },
    async () => {
      const { kill } = await ours(fresh('theirs.img'));
      const qemu = start('qemu-system-x86_64', [
        ...['-accel', 'tcg', '-nodefaults', '-nographic', '-no-reboot', '-m', '256M', '-smp', '2'],
        ...[
          '-object',
          'memory-backend-memfd,id=ram,size=256M,share=on',
          '-machine',
          'q35,memory-backend=ram',
        ],
        ...['-chardev', `socket,id=d,path=${socket},reconnect=1`],
        ...['-device', 'vhost-user-blk-pci,chardev=d,bootindex=0', '-serial', 'stdio'],
      ]);
      let said = '';
      qemu.stdout!.on('data', (b: Buffer) => {
        said += b.toString('latin1');
      });
      const wait = async (text: RegExp, seconds: number): Promise<void> => {
        for (let n = 0; !text.test(said); n++) {
          if (n > seconds * 20) throw new Error(`no ${text}: ${said.slice(-500)}`);
          await sleep(50);
        }
      };
      await wait(/rooted on \/dev\/vda1[\s\S]*# /, 200);
      qemu.stdin!.write('sh /root/load\n');
      const { strikes } = await during(wait(/over bad=\w+\r?\n/, 150), 5, 1500, kill);
      expect(/over bad=(\w+)\r?\n/.exec(said)![1]).toBe('0');
      expect(strikes).toBeGreaterThan(1);
    },
  );
});
