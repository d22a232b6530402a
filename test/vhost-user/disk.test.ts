/**
 * A disk over vhost-user with real partners: our guest on our back-end and on qemu-storage-daemon; back-end and front-end are
 * killed under load, again and again. The guest may not see an error, or wrong bytes. (QEMU's guest: root.test.ts.)
 */
import { readFileSync, truncateSync } from 'node:fs';
import { vmTest } from '@nyx/testkit';
import { afterAll, afterEach, describe, expect } from 'vitest';
import { blank, clean, during, endAll, grow, image, installed, ours, socket, storageDaemon } from './rig.ts';

afterAll(clean);
afterEach(endAll);
const hasDaemon = installed('qemu-storage-daemon', 'a guest on a foreign back-end');

const test = vmTest({
  ...(image ? { kernel: image.vmlinux, initrd: image.initrd, append: image.cmdline } : {}),
  memory: '128M',
  vhostUser: [{ socket }],
});

/** Writes and reads with direct I/O, several at once, and compares. */
const load = (disk: string, rounds: number): string => `
bad=0; i=0; dd if=/dev/urandom of=/tmp/r bs=64k count=16 2>/dev/null
while [ $i -lt ${rounds} ]; do
  dd if=/tmp/r of=${disk} bs=8k seek=$((i%8*128)) oflag=direct conv=notrunc 2>/dev/null || bad=write
  dd if=${disk} of=/dev/null bs=4k count=128 iflag=direct 2>/dev/null &
  dd if=${disk} of=/tmp/b bs=64k skip=$((i%8*16)) count=16 iflag=direct 2>/dev/null || bad=read
  wait; cmp /tmp/r /tmp/b || bad=compare; i=$((i+1))
done
sync; dmesg | grep -iE "I/O error|timed out|blocked" && bad=log
echo "over bad=$bad"`;

/** Waits until the guest's disk has so many sectors. */
const sizeIs = (sectors: number): string =>
  `n() { cat /sys/block/vda/size; }; for i in $(seq 100); do [ $(n) = ${sectors} ] && break; sleep 0.1; done
[ $(n) = ${sectors} ] || exit 1
`;

describe.skipIf(!image)('vhost-user', () => {
  test('our guest on our back-end: back-end and front-end die under load', { timeout: 240_000 }, async ({
    boot,
  }) => {
    const { kill } = await ours(blank('ours.img', 16 << 20));
    const vm = await boot();
    const size = await vm.run('cat /sys/block/vda/size; cat /sys/block/vda/serial');
    expect(size.stdout).toBe('32768\nnyx-storage');
    const { strikes, result } = await during(vm.run(load('/dev/vda', 30), 180), 6, 700, (n) =>
      n % 2 === 0 ? kill() : vm.kill('blk0-vhost'),
    );
    expect(result.stdout).toBe('over bad=0\n');
    expect(strikes).toBeGreaterThan(1);
    // It grows under load, and the guest is told.
    const more = vm.run(load('/dev/vda', 6), 180);
    grow('+16M');
    expect(
      await vm.run(`${sizeIs(65536)}echo x | dd of=/dev/vda bs=512 seek=65535 conv=sync,fsync`),
    ).toMatchObject({
      status: 0,
    });
    expect((await more).stdout).toBe('over bad=0\n');
    await vm.kill('blk0-vhost');
    expect((await vm.run('cat /sys/block/vda/size')).stdout).toBe('65536\n');
  });

  test.skipIf(!hasDaemon)(
    'our guest on qemu-storage-daemon, which dies under load',
    { timeout: 240_000 },
    async ({ boot }) => {
      const path = blank('theirs.img', 16 << 20);
      const daemon = await storageDaemon(path).start();
      const vm = await boot();
      const { strikes, result } = await during(vm.run(load('/dev/vda', 24), 180), 4, 600, () =>
        daemon.again(),
      );
      expect(result.stdout).toBe('over bad=0\n');
      expect(strikes).toBeGreaterThan(1);
      // It does not tell of a resize; the one that comes after it has another size.
      truncateSync(path, 24 << 20);
      await daemon.again();
      expect((await vm.run(sizeIs(49152))).status).toBe(0);
      expect(
        readFileSync(path)
          .subarray(0, 8192)
          .some((b) => b !== 0),
      ).toBe(true);
    },
  );
});
