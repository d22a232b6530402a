/**
 * Debian's kernel and the AHCI controller, all processes real: disk and CD are used, fail and recover, media change, and the
 * process is killed a hundred times while the guest writes.
 */
import { createHash, randomBytes } from 'node:crypto';
import { openSync, readSync, statSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { list } from '@nyx/nyx/rundir';
import { type TestVm, vmTest } from '@nyx/testkit';
import { afterAll, describe, expect } from 'vitest';
import { clean, folder, guestImage, has, iso, ready, run } from './machine.ts';

afterAll(clean);

const image = has('xorriso', 'tests of AHCI in a guest are') ? await guestImage() : undefined;
const MiB = 1 << 20;
const data = randomBytes(3 * MiB + 1000);
const sha = (b: Buffer): string => createHash('sha256').update(b).digest('hex');
const media = image
  ? {
      first: iso('first.iso', { 'data.bin': data, 'name.txt': 'first\n' }),
      second: iso('second.iso', { 'name.txt': 'second\n' }),
    }
  : { first: '', second: '' };

const disk = `${folder}/disk.img`;
if (image) run('truncate', ['-s', '64M', disk]);

const test = vmTest({
  ...(image ? { kernel: image.vmlinux, initrd: image.initrd, append: image.cmdline } : {}),
  memory: '256M',
  accel: 'soft',
  disks: [{ path: disk, bus: 'ahci', serial: 'nyx-test' }],
  cdroms: [media.first],
});

const nyx = (...args: string[]): string =>
  run(process.execPath, [fileURLToPath(new URL('../../bin/nyx', import.meta.url)), ...args]);

/** Runs in the guest; its output. */
const sh = async (vm: TestVm, command: string, timeout = 60): Promise<string> => {
  const r = await vm.run(command, timeout);
  if (r.status !== 0) throw new Error(`${command}: ${r.status}: ${r.stdout}${r.stderr}`);
  return r.stdout.trim();
};
/** Lines of the kernel log that speak of trouble with a port. */
const troubles = (vm: TestVm): Promise<string> =>
  sh(
    vm,
    "dmesg | grep -iE 'ata[0-9].*(error|exception|failed|timeout|reset)|I/O error|frozen|limiting' || true",
  );

describe.runIf(image)(
  'AHCI in a Linux guest',
  () => {
    afterAll(() => expect(list()).toEqual([]));

    test('disk: NCQ, trim, flush, checksums', async ({ vm }) => {
      await sh(vm, ready);
      const queue = '/sys/block/sda/queue';
      expect(
        await sh(
          vm,
          `cat /sys/block/sda/device/queue_depth ${queue}/write_cache ${queue}/physical_block_size ${queue}/rotational /sys/block/sda/size`,
        ),
      ).toBe('32\nwrite back\n4096\n0\n131072');
      // 40 requests of 1280 KiB at most at once: more than there are slots.
      await sh(vm, 'dd if=/dev/urandom of=/tmp/blob bs=1M count=32 2>/dev/null');
      await sh(vm, 'dd if=/tmp/blob of=/dev/sda bs=32M oflag=direct 2>/dev/null && sync');
      const want = await sh(vm, 'sha256sum </tmp/blob');
      expect(await sh(vm, 'dd if=/dev/sda bs=32M count=1 iflag=direct 2>/dev/null | sha256sum')).toBe(want);
      const many =
        'for k in $(seq 40); do dd if=/dev/sda of=/dev/null bs=4k count=64 skip=$((k*200)) iflag=direct 2>/dev/null & done; wait';
      await sh(vm, many);
      // With a disk that takes its time all slots are in use.
      await vm.inject({ point: 'io', verb: 'delay', device: 'ahci', type: 'read', delay: 0.1 });
      await sh(vm, 'dd if=/dev/sda of=/dev/null bs=48M count=1 iflag=direct 2>/dev/null');
      await vm.heal();
      expect(nyx('logs', vm.vm.name)).toMatch(/port 0: 32 commands at once/);
      await sh(vm, 'blkdiscard -o 1048576 -l 2097152 /dev/sda');
      expect(
        await sh(vm, 'dd if=/dev/sda bs=1M skip=1 count=2 iflag=direct 2>/dev/null | tr -d "\\000" | wc -c'),
      ).toBe('0');
      const host = Buffer.alloc(MiB);
      const fd = openSync(disk, 'r');
      readSync(fd, host, 0, MiB, 3 * MiB);
      expect(sha(host)).toBe(
        (await sh(vm, 'dd if=/tmp/blob bs=1M skip=3 count=1 2>/dev/null | sha256sum')).split(' ')[0],
      );
      // The hole is one of the host's file, too.
      expect(statSync(disk).blocks * 512).toBeLessThanOrEqual(30 * MiB + 65536);
      expect(await troubles(vm)).toBe('');
    });

    test('errors of the backend are told, and recovered from', async ({ vm }) => {
      await sh(vm, ready);
      const block = (n: number): string =>
        `dd if=/dev/sda of=/dev/null bs=4k count=1 skip=${n} iflag=direct 2>&1`;
      // Unreadable once: the driver asks the log which of the queued commands it was, and does not try again.
      await vm.inject({ point: 'io', verb: 'error', device: 'ahci', type: 'read', count: 1 });
      const first = await vm.run(block(1));
      expect([first.status, first.stdout]).toEqual([
        1,
        expect.stringMatching(/I\/O error|Input\/output error/),
      ]);
      expect(await vm.faults()).toBe(1);
      await vm.heal();
      expect((await vm.run(block(1))).status).toBe(0);
      expect(
        await sh(vm, 'dmesg | grep -E "READ FPDMA|error: { UNC }|Unrecovered read" | cut -c16-'),
      ).toMatch(
        /failed command: READ FPDMA QUEUED\n(.*\n)*.*error: \{ UNC \}\n(.*\n)*.*Unrecovered read error/,
      );
      // One that fails for good is an error of the program, and the disk lives on.
      await vm.inject({ point: 'io', verb: 'error', device: 'ahci', type: 'read' });
      const r = await vm.run(block(2));
      expect([r.status, r.stdout]).toEqual([1, expect.stringMatching(/I\/O error|Input\/output error/)]);
      await vm.heal();
      expect((await vm.run(block(2))).status).toBe(0);
      await vm.inject({ point: 'io', verb: 'error', device: 'ahci', type: 'write', count: 1 });
      expect((await vm.run('dd if=/dev/zero of=/dev/sda bs=4k count=8 oflag=direct 2>&1')).status).toBe(0);
      await vm.heal();
      // A request that never ends: the driver resets the port.
      await vm.inject({ point: 'io', verb: 'drop', device: 'ahci', type: 'read', count: 1 });
      await sh(vm, 'echo 3 >/sys/block/sda/device/timeout');
      expect((await vm.run(block(3))).status).toBe(0);
      await vm.heal();
      expect(await sh(vm, 'dmesg | grep -c "hard resetting link"')).not.toBe('0');
    });

    test('CD: content, eject, insert, lock', async ({ vm }) => {
      await sh(vm, `${ready} mkdir -p /cd`);
      const mount = 'mount -t iso9660 -o ro /dev/sr0 /cd';
      await sh(vm, mount);
      expect(await sh(vm, 'sha256sum </cd/data.bin')).toBe(`${sha(data)}  -`);
      // Mounted: the drive is locked, and gives nothing without force.
      expect((await vm.vm.cds())[0]).toMatchObject({ name: 'cd0', locked: true, open: false });
      expect(await vm.vm.ejectCd()).toBe(false);
      await expect(vm.vm.insertCd(media.second)).rejects.toMatchObject({ code: 'CD_LOCKED' });
      expect(await sh(vm, 'cat /cd/name.txt; umount /cd')).toBe('first');
      expect(nyx('cd', 'eject', '--vm', vm.vm.name)).toBe('The tray is open and empty.\n');
      expect((await vm.vm.cds())[0]).toEqual({ name: 'cd0', locked: false, open: true });
      expect((await vm.run(mount)).status).not.toBe(0);
      nyx('cd', 'insert', media.second, '--vm', vm.vm.name);
      expect(nyx('cd', 'ls', '--vm', vm.vm.name)).toMatch(/cd0 +closed +no +\S+second.iso/);
      expect(await sh(vm, `${mount}; cat /cd/name.txt; umount /cd`)).toBe('second');
      // Another medium at once: the guest must not read the old one out of its cache.
      await vm.vm.insertCd(media.first, 'cd0');
      expect(await sh(vm, `${mount}; cat /cd/name.txt; sha256sum </cd/data.bin; umount /cd`)).toBe(
        `first\n${sha(data)}  -`,
      );
      await expect(vm.vm.insertCd('/nowhere.iso')).rejects.toMatchObject({ code: 'FILE_MISSING' });
      await expect(vm.vm.ejectCd('cd7')).rejects.toMatchObject({ code: 'DEVICE_UNKNOWN' });
      expect(await troubles(vm)).toBe('');
    });

    test('its process is killed 100 times while the guest writes', async ({ vm }) => {
      await sh(vm, ready);
      await sh(
        vm,
        'mount -t iso9660 -o ro /dev/sr0 /mnt 2>/dev/null || { mkdir -p /mnt; mount -t iso9660 -o ro /dev/sr0 /mnt; }',
      );
      await sh(vm, 'dd if=/dev/urandom of=/tmp/blob bs=1M count=8 2>/dev/null');
      const want = await sh(vm, 'sha256sum </tmp/blob');
      let stop = false;
      let rounds = 0;
      let kills = 0;
      /** Rounds that are over, and in which it was killed. */
      let struck = 0;
      // Writes with flushes, reads back past the cache, and reads the CD; again and again.
      const load = (async () => {
        while (!stop) {
          const before = kills;
          const at = (rounds++ % 6) * 10;
          const [wrote, cd] = (
            await sh(
              vm,
              `dd if=/tmp/blob of=/dev/sda bs=64k seek=$((${at} * 16)) conv=fsync 2>/dev/null
               dd if=/dev/sda bs=1M skip=${at} count=8 iflag=direct 2>/dev/null | sha256sum
               echo 3 >/proc/sys/vm/drop_caches; sha256sum </mnt/data.bin`,
              120,
            )
          ).split('\n');
          expect([wrote, cd]).toEqual([want, `${sha(data)}  -`]);
          if (kills > before) struck++;
        }
      })();
      // What goes wrong there ends the kills.
      load.catch(() => {
        stop = true;
      });
      try {
        // However slow the machine is: a hundred times, and in three rounds at least.
        while (!stop && (kills < 100 || struck < 3)) {
          await vm.kill('ahci');
          kills++;
          await sleep(kills < 100 ? 10 + ((kills * 37) % 60) : 300);
        }
      } finally {
        stop = true;
        await load;
      }
      expect(kills).toBeGreaterThanOrEqual(100);
      expect(struck).toBeGreaterThanOrEqual(3);
      expect(await troubles(vm)).toBe('');
      console.info(
        `${kills} kills in ${struck} of ${rounds} rounds of 8 MiB written, read back, 3 MiB read from CD`,
      );
    });
  },
  300_000,
);
