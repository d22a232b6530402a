/** Checkpoints of real guests, and the way back to them: docs/checkpoints.md. */
import { spawnSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { ImageStore } from '@nyx/image';
import { Vm, type VmEvent, type VmSpecInput } from '@nyx/nyx';
import { PageMap } from '@nyx/ring/wire';
import { type TestVm, vmTest } from '@nyx/testkit';
import { describe, expect } from 'vitest';

process.env.XDG_RUNTIME_DIR = mkdtempSync(join(tmpdir(), 'nyx-checkpoint-'));
const root = fileURLToPath(new URL('..', import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), 'nyx-checkpoint-files-'));
const image = await new ImageStore().build('debian').catch((e: Error) => {
  console.warn(`tests of checkpoints with a kernel are left out, there is no image: ${e.message}`);
  return undefined;
});

const test = vmTest(
  {
    ...(image ? { kernel: image.vmlinux, initrd: image.initrd, append: `${image.cmdline} reboot=t` } : {}),
    memory: '192M',
    accel: 'soft',
  },
  { blankDisks: [32 << 20] },
);

const nyx = (...args: string[]): string => {
  const r = spawnSync(process.execPath, [join(root, 'bin/nyx'), ...args], {
    encoding: 'utf8',
    timeout: 120_000,
  });
  expect([r.stderr, r.status]).toEqual([expect.any(String), 0]);
  return r.stdout;
};

const until = async <T>(what: () => Promise<T | undefined>, seconds = 60): Promise<T> => {
  for (const end = Date.now() + seconds * 1000; ; ) {
    const found = await what();
    if (found !== undefined) return found;
    if (Date.now() > end) throw new Error(`not within ${seconds} s`);
    await sleep(50);
  }
};

const rollbacks = async (vm: Vm): Promise<number> => (await vm.checkpoints()).rollbacks;
const rolledBack = (vm: Vm, n: number) => until(async () => ((await rollbacks(vm)) >= n ? true : undefined));
const run = async (vm: TestVm, command: string): Promise<string> => {
  const r = await vm.run(command, 120);
  expect([command, r.stderr, r.status]).toEqual([command, expect.any(String), 0]);
  return r.stdout;
};
/** Runs a command that the guest does not survive; what was asked is lost with it. */
const last = async (vm: TestVm, command: string): Promise<void> =>
  expect(vm.run(command, 60)).rejects.toMatchObject({ code: 'EXEC_LOST' });

/** A file system that is as its files say, and nothing beside the image. */
const sound = (disk: string): void => {
  const r = spawnSync('e2fsck', ['-fn', disk], {
    encoding: 'utf8',
    env: { PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
  });
  expect([r.stdout, r.status]).toEqual([expect.any(String), 0]);
  expect(readdirSync(dirname(disk)).filter((f) => f.includes('.checkpoint'))).toEqual([]);
};
const fileIn = (disk: string, path: string): string =>
  spawnSync('debugfs', ['-R', `cat ${path}`, disk], {
    encoding: 'utf8',
    env: { PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
  }).stdout;

/** What a kernel says when time jumps, memory is not what it was, or a disk loses requests. */
const complaints = /BUG|WARNING|Oops|stall|lockup|hung task|unstable|I\/O error|EXT4-fs error|corrupt/i;

const events = async (vm: Vm, action: string): Promise<VmEvent[]> =>
  (await vm.history()).filter((e) => e.type === 'checkpoint' && e.action === action);

describe.runIf(image)(
  'a Debian guest',
  () => {
    test('panics and triple faults, and goes on at its checkpoint each time', async ({ boot }) => {
      const vm = await boot({
        cpus: 2,
        // Each roll-back is compared with the checkpoint, all of memory.
        checkpoint: { verify: true },
        policy: {
          guestPanic: { action: 'rollback', budget: 2, window: 3600, escalate: 'pause' },
          tripleFault: 'rollback',
        },
      });
      await run(vm, 'mke2fs -q /dev/vda && mkdir -p /mnt && mount /dev/vda /mnt && dmesg -c >/dev/null');
      await run(vm, 'head -c 5000000 /dev/urandom >/mnt/a; md5sum /mnt/a >/mnt/a.md5; sync');
      // A program that lives through it: its variable is in memory alone.
      await run(
        vm,
        '(n=0; while :; do n=$((n+1)); echo $n >/run/n; sleep 0.01; done) >/dev/null 2>&1 & echo $! >/run/pid',
      );
      expect(nyx('checkpoint', vm.vm.name)).toMatch(
        /stood still for [\d.]+ m?s; memory is saved page by page/,
      );
      const uptime = Number.parseFloat(await run(vm, 'cat /proc/uptime'));
      const before = Number(await run(vm, 'cat /run/n'));

      const check = async (): Promise<void> => {
        expect((await run(vm, 'ls -1 /mnt; md5sum -c /mnt/a.md5')).split('\n').sort().join(' ').trim()).toBe(
          '/mnt/a: OK a a.md5 lost+found',
        );
        // The program goes on from where it was.
        expect(Number(await run(vm, 'kill -0 $(cat /run/pid) && sleep 0.1; cat /run/n'))).toBeLessThan(
          before + 3000,
        );
        expect(Number(await run(vm, 'sleep 0.2; cat /run/n'))).toBeGreaterThan(1);
        expect(await run(vm, 'dmesg')).not.toMatch(complaints);
      };
      const spoil =
        'head -c 3000000 /dev/urandom >/mnt/b; rm /mnt/a.md5; dd if=/dev/urandom of=/mnt/a bs=1M count=2 conv=notrunc 2>/dev/null; sync';

      // A panic, by pvpanic.
      await run(vm, spoil);
      await last(vm, 'echo c >/proc/sysrq-trigger');
      await rolledBack(vm.vm, 1);
      await check();
      expect(Number.parseFloat(await run(vm, 'cat /proc/uptime'))).toBeLessThan(uptime + 30);
      // A triple fault; the guest's devices were killed before and after.
      await run(vm, spoil);
      await vm.kill('disk0');
      await last(vm, 'reboot -f');
      await rolledBack(vm.vm, 2);
      await vm.kill('platform');
      await vm.kill('disk0');
      await check();
      // A wish.
      await run(vm, spoil);
      expect(nyx('rollback', vm.vm.name)).toMatch(
        /is [\d.]+ m?s younger, after [\d.]+ m?s; [\d.]+ MiB of memory were put back/,
      );
      await check();
      // A reset loads the kernel anew, over what it has become; and is undone.
      await vm.vm.reset();
      await sleep(300);
      await vm.vm.rollback();
      await check();
      expect((await events(vm.vm, 'rolledBack')).length).toBe(4);

      // The next checkpoint is of what is there now; what is below its overlay is merged.
      await run(vm, 'echo two >/mnt/two; sync');
      await vm.vm.checkpoint();
      await run(vm, 'rm /mnt/two; sync');
      await vm.vm.checkpoint();
      await run(vm, 'echo three >/mnt/three; sync');
      await vm.vm.rollback();
      expect(await run(vm, 'ls -1 /mnt')).toBe('a\na.md5\nlost+found\n');
      expect(nyx('checkpoint', 'ls', vm.vm.name)).toMatch(/TAKEN.*\n.*MiB/);
      await expect(vm.vm.commitDisk('disk0')).rejects.toMatchObject({ code: 'VM_STATE' });

      // A fault that comes again and again escalates.
      await last(vm, 'echo c >/proc/sysrq-trigger');
      await rolledBack(vm.vm, 6);
      vm.run('echo c >/proc/sysrq-trigger', 60).catch(() => {});
      await until(async () => ((await vm.vm.status()).state === 'paused' ? true : undefined));
      await vm.vm.rollback();
      await run(vm, 'echo end >/mnt/end; kill $(cat /run/pid); umount /mnt');
      expect(nyx('checkpoint', 'rm', vm.vm.name)).toMatch(/has no checkpoint any more/);
      expect(await rollbacks(vm.vm)).toBe(7);
      await expect(vm.vm.rollback()).rejects.toMatchObject({ code: 'CHECKPOINT_NONE' });
      await vm.vm.stop(0);
      sound(vm.disks[0]!);
      expect(fileIn(vm.disks[0]!, '/end')).toBe('end\n');
    });

    test('writes while checkpoints are taken and gone back to; the end merges what is left', async ({
      boot,
    }) => {
      const vm = await boot({ cpus: 2, checkpoint: { every: '2s', verify: true } });
      await run(vm, 'mke2fs -q /dev/vda && mkdir -p /mnt && mount /dev/vda /mnt && dmesg -c >/dev/null');
      await run(
        vm,
        'cd /mnt; (i=0; while [ $i -lt 40 ]; do i=$((i+1)); head -c 200000 /dev/urandom >f$i; md5sum f$i >>sums; sync; done; echo all >/run/done) >/run/log 2>&1 &',
      );
      await until(async () => ((await events(vm.vm, 'taken')).length >= 2 ? true : undefined));
      for (let i = 0; i < 3; i++) {
        await vm.vm.rollback();
        await vm.kill('disk0');
      }
      await until(async () => ((await vm.run('cat /run/done')).stdout === 'all\n' ? true : undefined), 240);
      expect(
        await run(
          vm,
          'cat /run/log; cd /mnt; sync; echo 3 >/proc/sys/vm/drop_caches; md5sum -c sums | grep -vc OK || true',
        ),
      ).toBe('0\n');
      expect(await run(vm, 'dmesg')).not.toMatch(complaints);
      await run(vm, 'umount /mnt');
      await vm.vm.stop(0);
      sound(vm.disks[0]!);
      expect(fileIn(vm.disks[0]!, '/sums').split('\n').length).toBe(41);
    });
  },
  300_000,
);

/** Counts in memory, and says the low byte of each number on the debug port. */
const counter = (): string => {
  const rom = Buffer.alloc(0x10000, 0x90);
  // mov dx, 0x402; L: mov ax, [0x1000]; inc ax; mov [0x1000], ax; out dx, al; mov cx, -1; loop $; jmp L
  Buffer.from('ba0204a1001040a30010eeb9ffffe2feebf1', 'hex').copy(rom, 0);
  Buffer.from('e90d00', 'hex').copy(rom, 0xfff0);
  const path = join(scratch, 'counter.bin');
  writeFileSync(path, rom);
  return path;
};

describe('a guest that counts', () => {
  test.for([
    ['soft', 'onWrite'],
    ['soft', 'copy'],
    ['kvm', 'copy'],
  ] as const)(
    'goes on at the number of the checkpoint (%s, %s)',
    { timeout: 120_000 },
    async ([accel, memory], { skip }) => {
      if (accel === 'kvm' && !existsSync('/dev/kvm')) {
        console.warn('left out: there is no /dev/kvm');
        skip();
      }
      const vm = await Vm.start({
        name: `count-${accel}-${memory}`,
        bios: counter(),
        memory: '16M',
        accel,
        checkpoint: { memory, verify: true },
      });
      const numbers = (): number[] => [...readFileSync(join(vm.dir, 'debugcon.log'))];
      const more = async (n: number): Promise<void> => {
        const had = numbers().length;
        await until(async () => (numbers().length >= had + n ? true : undefined));
      };
      try {
        await until(async () => (existsSync(join(vm.dir, 'debugcon.log')) ? true : undefined));
        await expect(vm.rollback()).rejects.toMatchObject({ code: 'CHECKPOINT_NONE' });
        await more(20);
        const { bytes } = await vm.checkpoint();
        expect(bytes > 0).toBe(memory === 'copy');
        for (let i = 0; i < 3; i++) {
          await more(20);
          // The page with the number, and what firmware tables have been written.
          expect((await vm.checkpoints()).checkpoints[0]).toMatchObject({
            bytes: memory === 'copy' ? bytes : 4096,
            lost: false,
          });
          expect((await vm.rollback()).bytes).toBe(memory === 'copy' ? bytes : 4096);
        }
        await more(5);
        const all = numbers();
        const jumps = all.flatMap((n, i) => (i > 0 && n !== ((all[i - 1]! + 1) & 0xff) ? [n] : []));
        expect(all[0]).toBe(1);
        // Each time to the same number, and every other number is the next of the one before. One of the jumps may have led to
        // what would have come anyway.
        expect(jumps.length).toBeGreaterThanOrEqual(2);
        expect(jumps.length).toBeLessThanOrEqual(3);
        expect(new Set(jumps).size).toBe(1);
        await vm.dropCheckpoint();
        await more(5);
      } finally {
        await vm.stop(0);
        vm.close();
      }
    },
  );

  test('a checkpoint that lost a page is none any more', { timeout: 60_000 }, async () => {
    const vm = await Vm.start({ name: 'lost', bios: counter(), memory: '16M', accel: 'soft' });
    try {
      await until(async () => (existsSync(join(vm.dir, 'debugcon.log')) ? true : undefined));
      await vm.checkpoint();
      // As one whose page could not be saved: wire.PageStore.
      const { pid } = await vm.status();
      const fds = `/proc/${pid}/fd`;
      const fd = readdirSync(fds).find((f) => readlinkSync(join(fds, f)).startsWith('/memfd:nyx-pages '))!;
      const map = openSync(join(fds, fd), 'r+');
      writeSync(map, Buffer.from([0, 0, 0, 0, 1, 0, 0, 0]), 0, 8, PageMap.offsetOf('store'));
      closeSync(map);
      expect((await vm.checkpoints()).checkpoints[0]).toMatchObject({ lost: true });
      await expect(vm.rollback()).rejects.toMatchObject({ code: 'CHECKPOINT_NONE' });
      expect((await vm.status()).state).toBe('running');
      await vm.checkpoint();
      await vm.rollback();
    } finally {
      await vm.stop(0);
      vm.close();
    }
  });

  test('a machine that cannot go back says why, and goes on', async () => {
    const cases: [Partial<VmSpecInput>, RegExp][] = [
      [{ deterministic: true }, /deterministic/],
      [{ disks: [{ path: 'memory://', size: '1M' }] }, /memory:.* is no file/],
    ];
    for (const [i, [more, got]] of cases.entries()) {
      const vm = await Vm.start({
        name: `refused-${i}`,
        bios: counter(),
        memory: '16M',
        accel: 'soft',
        ...more,
        policy: { guestHang: { action: 'rollback', escalate: 'shutdown' }, hangTime: 2 },
      });
      try {
        await expect(vm.checkpoint()).rejects.toMatchObject({ code: 'CHECKPOINT_REFUSED', got });
        expect((await vm.status()).state).toBe('running');
      } finally {
        await vm.stop(0);
        vm.close();
      }
    }
  }, 60_000);

  test('without a checkpoint, what escalates is done at once', async () => {
    // cli; jmp $
    const rom = Buffer.alloc(0x10000, 0x90);
    Buffer.from([0xfa, 0xeb, 0xfe]).copy(rom, 0xfff0);
    const path = join(scratch, 'spin.bin');
    writeFileSync(path, rom);
    const vm = await Vm.start({
      name: 'without',
      bios: path,
      memory: '16M',
      accel: 'soft',
      policy: { hangTime: 1, guestHang: { action: 'rollback', escalate: 'pause' } },
    });
    await until(async () => ((await vm.status()).state === 'paused' ? true : undefined));
    const fault = (await vm.history()).find((e) => e.type === 'fault' && e.kind === 'guestHang');
    expect(fault).toMatchObject({ strategy: 'pause', escalated: true });
    await vm.stop(0);
    vm.close();
  }, 60_000);
});
