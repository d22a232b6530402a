/**
 * What is done to the disk of a guest that writes all the time, with SIGKILL to the process of the disk at random moments of
 * each change: no write that was acknowledged is lost or comes back, and the guest sees no error. Needs the default image,
 * as guest.test.ts.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type Image, ImageStore } from '@nyx/image';
import type { VmEvent } from '@nyx/protocol/control';
import { TestVm } from '@nyx/testkit';
import { afterAll, describe, expect, test } from 'vitest';
import { runTool } from './disk-tool.ts';

const runtime = mkdtempSync(join(tmpdir(), 'nyx-hot-'));
process.env.XDG_RUNTIME_DIR = runtime;
const folder = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'nyx-hot-'));
const at = (name: string): string => join(folder, name);
const project = fileURLToPath(new URL('../../..', import.meta.url));
const dist = join(project, 'services/storage/dist');
const image: Image | undefined = await new ImageStore().build('debian').catch((e: Error) => {
  console.warn(`tests of running disks are left out, there is no image: ${e.message}`);
  return undefined;
});
const generic: Image | undefined = await new ImageStore().build('debian-generic').catch((e: Error) => {
  console.warn(`tests of running disks at AHCI are left out, there is no image: ${e.message}`);
  return undefined;
});
const qemu = spawnSync('qemu-img', ['--version']).status === 0;
if (!qemu) console.warn('skipped: disks are not checked by qemu-img, which is not installed');
afterAll(() => {
  for (const f of [folder, runtime]) rmSync(f, { recursive: true, force: true });
});

const boot = (disks: object[], i = image!): Promise<TestVm> =>
  TestVm.boot({
    kernel: i.vmlinux,
    initrd: i.initrd,
    append: i.cmdline,
    memory: '256M',
    accel: 'soft',
    disks: disks as never,
    ...(i === image ? {} : { cdroms: [{}] }),
  });

/** Writes blocks that say which they are, flushed, until /tmp/stop; what was acknowledged is in /tmp/log. */
const LOAD = (disk = 'vda'): string => `
rm -f /tmp/stop /tmp/err; : > /tmp/log
yes 'the quick brown fox' | head -c 32000 > /tmp/pad
( i=0; while [ ! -e /tmp/stop ]; do
    i=$((i+1)); s=$((i*7%61))
    { echo "block $i of slot $s"; cat /tmp/pad; } | dd of=/dev/${disk} bs=64k seek=$s conv=notrunc,fsync 2>/dev/null || echo "write $i" >> /tmp/err
    echo "$s $i" >> /tmp/log
  done; echo done > /tmp/ended ) > /dev/null 2>&1 &
`;
/** Reads all slots past the page cache. Says nothing when all is as the log says. */
const VERIFY = (disk = 'vda'): string => `
touch /tmp/stop; while [ ! -e /tmp/ended ]; do sleep 0.1; done; rm -f /tmp/ended
echo 3 > /proc/sys/vm/drop_caches
awk '{last[$1]=$2} END {for (s in last) print s, last[s]}' /tmp/log | while read s i; do
  { echo "block $i of slot $s"; cat /tmp/pad; } > /tmp/want
  dd if=/dev/${disk} bs=64k skip=$s count=1 2>/dev/null | head -c $(wc -c < /tmp/want) | cmp -s - /tmp/want || echo "slot $s: not block $i but $(dd if=/dev/${disk} bs=64k skip=$s count=1 2>/dev/null | head -n 1)"
done
cat /tmp/err 2>/dev/null; dmesg | grep -i 'i/o error'; wc -l < /tmp/log
`;

/** Processes that a process started, whose command line has this. */
const childrenOf = (pid: number, text: string): number[] =>
  readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
    .trim()
    .split(' ')
    .filter((c) => {
      try {
        return c !== '' && readFileSync(`/proc/${c}/cmdline`, 'utf8').includes(text);
      } catch {
        return false;
      }
    })
    .map(Number);

/** Does things to `disk` under load, and kills its process now and then meanwhile; then all must be as it was acknowledged. */
const struck = (vm: TestVm, disk = 'vda', device = 'disk0') => {
  let writes = 0;
  const during = async (what: string, work: () => Promise<unknown>, deadly = true): Promise<void> => {
    await vm.run(LOAD(disk));
    await sleep(300);
    let over = false;
    let kills = 0;
    const killer = (async () => {
      for (let n = 1; deadly && !over; n++) {
        await sleep(40 + ((n * 137) % 300));
        // Nobody may be there just now.
        if (!over)
          await vm.vm.kill(device).then(
            () => kills++,
            () => {},
          );
      }
    })();
    try {
      await work();
      // The successor dies as well.
      await sleep(400);
    } finally {
      over = true;
      await killer;
    }
    const { stdout } = await vm.run(VERIFY(disk), 120);
    const lines = stdout.trim().split('\n');
    expect(lines.slice(0, -1), what).toEqual([]);
    writes += Number(lines.at(-1));
    if (deadly) expect(kills, what).toBeGreaterThan(0);
  };
  return { during, writes: () => writes };
};

describe.runIf(image)('the disk of a guest that writes', () => {
  test('every change, with deaths in the middle', { timeout: 400_000 }, async () => {
    await runTool({ command: 'create', path: at('a.qcow2'), format: 'qcow2', size: 16 << 20 });
    const vm = await boot([{ path: at('a.qcow2'), format: 'qcow2' }]);
    try {
      const { during, writes } = struck(vm);
      const now = async () => (await vm.vm.disks())[0]!;

      await during('swap', async () => {
        await vm.vm.swapBackend('disk0', {});
        await sleep(500);
      });
      // Another program: a copy of ours, below the project, where it finds the addon.
      const other = mkdtempSync(join(project, 'libs/native/build/swap-'));
      try {
        for (const f of readdirSync(dist))
          if (f.startsWith('storage.')) copyFileSync(join(dist, f), join(other, f));
        // A program that dies while it is tried is refused: here it dies when it serves.
        const to = async (folder: string): Promise<void> => {
          await vm.vm.swapBackend('disk0', { service: join(folder, 'storage.cjs') });
          await vm.kill('disk0');
        };
        await during('another program', () => to(other), false);
        const { pid } = (await vm.vm.status()).processes.find((p) => p.name === 'disk0')!;
        expect(readFileSync(`/proc/${pid}/cmdline`, 'utf8')).toContain(other);
        const bad = join(other, 'bad.cjs');
        writeFileSync(bad, 'process.exit(3)');
        await expect(vm.vm.swapBackend('disk0', { service: bad })).rejects.toMatchObject({
          code: 'UPGRADE_REFUSED',
        });
        await during('our program', () => to(dist), false);
      } finally {
        rmSync(other, { recursive: true });
      }
      await during('overlay', () => vm.vm.snapshotDisk('disk0', { path: at('b.qcow2') }));
      expect((await now()).chain).toEqual([at('b.qcow2'), at('a.qcow2')]);
      await during('snapshot', async () => {
        await vm.vm.snapshotDisk('disk0', { create: 'one' });
        await vm.vm.snapshotDisk('disk0', { create: 'two' });
        await vm.vm.snapshotDisk('disk0', { remove: 'one' });
      });
      await during('resize', () => vm.vm.resizeDisk('disk0', 8 << 20, true));
      expect((await vm.run('cat /sys/block/vda/size')).stdout.trim()).toBe(String((24 << 20) / 512));
      await during('mirror to vhdx', () => vm.vm.mirrorDisk('disk0', at('c.vhdx'), 'vhdx'));
      expect(await now()).toMatchObject({ format: 'vhdx', chain: [at('c.vhdx')] });
      await during('overlay on vhdx', () => vm.vm.snapshotDisk('disk0', { path: at('d.qcow2') }));
      await during('mirror to raw', () => vm.vm.mirrorDisk('disk0', at('e.raw'), 'raw'));
      await during('overlay on raw', () => vm.vm.snapshotDisk('disk0', { path: at('f.qcow2') }));
      // What is behind the end of the file below comes along.
      await during('resize of an overlay', () => vm.vm.resizeDisk('disk0', 4 << 20, true));
      await vm.run('echo behind | dd of=/dev/vda bs=1M seek=26 conv=sync,fsync');
      await during('commit', () => vm.vm.commitDisk('disk0'));
      expect(await now()).toMatchObject({ format: 'raw', chain: [at('e.raw')] });
      expect((await vm.run('cat /sys/block/vda/size')).stdout.trim()).toBe(String((28 << 20) / 512));
      expect((await vm.run('dd if=/dev/vda bs=1M skip=26 count=1 | head -c 6')).stdout).toBe('behind');
      await during('resize of a raw file', () => vm.vm.resizeDisk('disk0', 32 << 20));
      expect((await vm.run('cat /sys/block/vda/size')).stdout.trim()).toBe(String((32 << 20) / 512));
      await during('mirror to qcow2', async () => {
        await vm.vm.mirrorDisk('disk0', at('g.qcow2'), 'qcow2');
      });
      expect(writes()).toBeGreaterThan(40);
      console.log(`${writes()} acknowledged writes verified`);
      // Overlays of jobs do not stay.
      expect(readdirSync(folder).filter((f) => /mirror|commit/.test(f))).toEqual([]);
    } finally {
      await vm.close();
    }
    expect(statSync(at('e.raw')).size).toBe(32 << 20);
    if (!qemu) return;
    for (const f of ['a.qcow2', 'b.qcow2', 'd.qcow2', 'g.qcow2'])
      execFileSync('qemu-img', ['check', '-q', at(f)]);
    execFileSync('qemu-img', ['check', '-q', '-f', 'vhdx', at('c.vhdx')]);
  });

  test.runIf(generic)('at AHCI: every change, with deaths in the middle', { timeout: 400_000 }, async () => {
    await runTool({ command: 'create', path: at('s.raw'), format: 'raw', size: 16 << 20 });
    await runTool({ command: 'create', path: at('t.qcow2'), format: 'qcow2', size: 1 << 20 });
    writeFileSync(at('cd.iso'), Buffer.alloc(1 << 20));
    const vm = await boot(
      [
        { path: at('s.raw'), format: 'raw', bus: 'ahci' },
        { path: at('t.qcow2'), format: 'qcow2', bus: 'ahci' },
      ],
      generic,
    );
    try {
      // Which of the two Linux finds first is not said.
      const found =
        'for d in sda sdb; do [ "$(cat /sys/block/$d/size)" = 32768 ] && ln -s $d /dev/first; done';
      await vm.run(
        `for i in $(seq 100); do [ -b /dev/sda ] && [ -b /dev/sdb ] && break; sleep 0.1; done; ${found}`,
      );
      const { during, writes } = struck(vm, 'first', 'ahci');
      const chain = async (i = 0) => (await vm.vm.disks())[i]!.chain.map((f) => basename(f));
      await during('swap', () => vm.vm.swapBackend('disk0', {}));
      // What is at another port of the same process changes at the same time.
      await during('overlay', () =>
        Promise.all([
          vm.vm.snapshotDisk('disk0', { path: at('s1.qcow2') }),
          vm.vm.snapshotDisk('disk1', { create: 'one' }),
          vm.vm.insertCd(at('cd.iso'), 'cd0', true),
        ]),
      );
      expect(await chain()).toEqual(['s1.qcow2', 's.raw']);
      await during('snapshot', async () => {
        await vm.vm.snapshotDisk('disk0', { create: 'one' });
        await vm.vm.snapshotDisk('disk0', { create: 'two' });
        await vm.vm.snapshotDisk('disk0', { remove: 'one' });
      });
      await during('commit', () => vm.vm.commitDisk('disk0'));
      expect(await chain()).toEqual(['s.raw']);
      await during('mirror', () => vm.vm.mirrorDisk('disk0', at('u.vhdx'), 'vhdx'));
      expect(await chain()).toEqual(['u.vhdx']);
      expect(await chain(1)).toEqual(['t.qcow2']);
      const resized = vm.vm.resizeDisk('disk0', 1 << 20, true);
      await expect(resized).rejects.toMatchObject({ code: 'VM_STATE' });
      expect(writes()).toBeGreaterThan(20);
      console.log(`${writes()} acknowledged writes verified`);
    } finally {
      await vm.close();
    }
    if (!qemu) return;
    for (const f of ['s1.qcow2', 't.qcow2', 'u.vhdx']) execFileSync('qemu-img', ['check', '-q', at(f)]);
  });

  test('a copy that is killed: the guest goes on over the overlay, which a commit takes away', {
    timeout: 300_000,
  }, async () => {
    await runTool({ command: 'create', path: at('k.qcow2'), format: 'qcow2', size: 32 << 20 });
    const vm = await boot([{ path: at('k.qcow2'), format: 'qcow2' }]);
    try {
      // Something to copy that takes a while.
      await vm.run('dd if=/dev/urandom of=/dev/vda bs=1M seek=8 count=24 conv=fsync 2>/dev/null; sync', 60);
      const { pid } = await vm.vm.status();
      let struck = 0;
      for (let tries = 0; tries < 8 && struck < 2; tries++) {
        await vm.run(LOAD());
        let over = false;
        const killer = (async () => {
          while (!over) {
            for (const child of childrenOf(pid, '"command":"copy"')) {
              try {
                process.kill(child, 'SIGKILL');
              } catch {}
            }
            await sleep(5);
          }
        })();
        const failed = await vm.vm.mirrorDisk('disk0', at(`k${tries}.raw`), 'raw').then(
          () => false,
          () => true,
        );
        over = true;
        await killer;
        if (failed) struck++;
        const { chain } = (await vm.vm.disks())[0]!;
        const lines = (await vm.run(VERIFY(), 120)).stdout.trim().split('\n');
        expect(lines.slice(0, -1)).toEqual([]);
        if (!failed) continue;
        expect(chain.length).toBeGreaterThan(1);
        while ((await vm.vm.disks())[0]!.chain.length > 1) await vm.vm.commitDisk('disk0');
      }
      expect(struck).toBeGreaterThan(0);
      const refused = vm.vm.snapshotDisk('disk0', { path: at('k.qcow2') });
      await expect(refused).rejects.toMatchObject({ code: 'DISK_INVALID' });
    } finally {
      await vm.close();
    }
    if (qemu) execFileSync('qemu-img', ['check', '-q', at('k.qcow2')]);
  });

  test.runIf(qemu)(
    'a disk that an NBD server has: process and server die',
    { timeout: 120_000 },
    async () => {
      await runTool({ command: 'create', path: at('n.raw'), format: 'raw', size: 16 << 20 });
      const serve = () =>
        spawn('qemu-nbd', ['-t', '-f', 'raw', '-x', 'd', '-k', at('nbd'), at('n.raw')], { stdio: 'ignore' });
      let server = serve();
      for (let i = 0; i < 100 && !existsSync(at('nbd')); i++) await sleep(20);
      const vm = await boot([{ path: `nbd+unix:///d?socket=${at('nbd')}` }]);
      try {
        await vm.run(LOAD());
        for (let i = 0; i < 6; i++) {
          await sleep(400);
          if (i % 2) await vm.kill('disk0');
          else {
            server.kill('SIGKILL');
            await sleep(300);
            server = serve();
          }
        }
        const lines = (await vm.run(VERIFY(), 60)).stdout.trim().split('\n');
        expect(lines.slice(0, -1)).toEqual([]);
        expect(Number(lines.at(-1))).toBeGreaterThan(10);
      } finally {
        await vm.close();
        server.kill('SIGKILL');
      }
    },
  );

  test('a machine that is ended at once leaves whole images, with all that was acknowledged', {
    timeout: 120_000,
  }, async () => {
    await runTool({ command: 'create', path: at('q.qcow2'), format: 'qcow2', size: 8 << 20 });
    await runTool({ command: 'create', path: at('v.vhdx'), format: 'vhdx', size: 8 << 20 });
    const vm = await boot([
      { path: at('q.qcow2'), format: 'qcow2' },
      { path: at('v.vhdx'), format: 'vhdx' },
    ]);
    try {
      // Past the guest's cache, and not flushed.
      const write = (disk: string) =>
        `yes ended | head -c 1048576 | dd of=/dev/${disk} bs=64k iflag=fullblock oflag=direct`;
      expect((await vm.run(`${write('vda')} && ${write('vdb')}`)).status).toBe(0);
    } finally {
      await vm.close();
    }
    for (const [file, format] of [
      ['q.qcow2', 'qcow2'],
      ['v.vhdx', 'vhdx'],
    ] as const) {
      await runTool({ command: 'convert', from: at(file), format, to: { path: at('flat'), format: 'raw' } });
      expect(
        readFileSync(at('flat'))
          .subarray(0, 1 << 20)
          .toString()
          .startsWith('ended\n'.repeat(1000)),
      ).toBe(true);
      expect(readFileSync(at('flat'))[(1 << 20) - 1]).not.toBe(0);
      if (qemu) execFileSync('qemu-img', ['check', '-q', '-f', format, at(file)]);
    }
  });

  test('no room: the machine stands still, and resume tries again', { timeout: 120_000 }, async () => {
    await runTool({ command: 'create', path: at('w.raw'), format: 'raw', size: 4 << 20 });
    const vm = await boot([{ path: at('w.raw'), format: 'raw' }]);
    try {
      const events: VmEvent[] = [];
      void (async () => {
        for await (const e of vm.vm.events()) events.push(e);
      })().catch(() => {});
      await vm.inject({ point: 'io', verb: 'error', device: 'disk0', mask: 28, type: 'write', count: 1 });
      const write = vm.run('echo written | dd of=/dev/vda bs=512 conv=sync,fsync && echo good', 60);
      write.catch(() => {});
      for (let i = 0; i < 100 && (await vm.vm.status()).state !== 'paused'; i++) await sleep(50);
      expect((await vm.vm.status()).state).toBe('paused');
      await vm.vm.resume();
      expect((await write).stdout).toMatch(/good/);
      expect(events.filter((e) => e.type === 'disk')).toMatchObject([
        { device: 'disk0', op: 'write', reason: 'noSpace' },
      ]);
      expect((await vm.run('head -c 7 /dev/vda')).stdout).toBe('written');
      // An error that is no lack of room is the guest's.
      await vm.inject({ point: 'io', verb: 'error', device: 'disk0', type: 'write', count: 1 });
      expect((await vm.run('echo x | dd of=/dev/vda bs=512 conv=sync,fsync')).status).not.toBe(0);
    } finally {
      await vm.close();
    }
  });
});
