/**
 * Errors of real files and what a guest sees of them: a file system without room (a small tmpfs), a file that somebody cut or
 * removed. The policies werror and rerror decide; the images stay whole.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, truncateSync, unlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ImageStore } from '@nyx/image';
import type { VmEvent } from '@nyx/protocol/control';
import { vmTest } from '@nyx/testkit';
import { afterAll, describe, expect } from 'vitest';
import { runTool } from './disk-tool.ts';

const folder = mkdtempSync(join(tmpdir(), 'nyx-errors-'));
process.env.XDG_RUNTIME_DIR = folder;
const small = join(folder, 'small');
mkdirSync(small);
const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=3m', 'nyx-test', small]).status === 0;
if (!mounted) console.warn('a disk without room is left out: a file system cannot be mounted here');
afterAll(() => {
  if (mounted) spawnSync('umount', ['-l', small]);
  rmSync(folder, { recursive: true, force: true });
});
const qemu = spawnSync('qemu-img', ['--version']).status === 0;
if (!qemu) console.warn('skipped: disks are not checked by qemu-img, which is not installed');
const image = await new ImageStore().build('debian').catch((e: Error) => {
  console.warn(`errors of disks in a guest are left out, there is no image: ${e.message}`);
  return undefined;
});

const test = vmTest({
  ...(image ? { kernel: image.vmlinux, initrd: image.initrd, append: image.cmdline } : {}),
  memory: '128M',
  accel: 'soft',
});
const write = (disk: string, mib: number): string =>
  `dd if=/dev/urandom of=/dev/${disk} bs=64k count=${mib * 16} seek=16 oflag=direct conv=fsync`;

describe.runIf(image)('errors of the host', () => {
  test.runIf(mounted)(
    'no room: reported to one disk, waited out by another',
    { timeout: 200_000 },
    async ({ boot }) => {
      const at = (name: string): string => join(small, name);
      for (const name of ['report', 'stop'])
        await runTool({ command: 'create', path: at(name), format: 'qcow2', size: 8 << 20 });
      const vm = await boot({
        disks: [
          { path: at('report'), format: 'qcow2', werror: 'report' },
          { path: at('stop'), format: 'qcow2' },
        ],
      });
      const events: VmEvent[] = [];
      void (async () => {
        for await (const e of vm.vm.events()) events.push(e);
      })().catch(() => {});
      expect(await vm.run(write('vda', 4))).toMatchObject({
        status: 1,
        stderr: expect.stringMatching(/Input\/output error/),
      });
      expect((await vm.vm.status()).state).toBe('running');
      const held = vm.run(write('vdb', 2), 120);
      held.catch(() => {});
      for (let i = 0; i < 400 && (await vm.vm.status()).state !== 'paused'; i++) await sleep(50);
      expect((await vm.vm.status()).state).toBe('paused');
      expect(events.find((e) => e.type === 'disk')).toMatchObject({ device: 'disk1', reason: 'noSpace' });
      execFileSync('mount', ['-o', 'remount,size=32m', small]);
      await vm.vm.resume();
      expect((await held).status).toBe(0);
      // What was refused is writable again.
      expect((await vm.run(write('vda', 4))).status).toBe(0);
      await vm.close();
      if (qemu) for (const n of ['report', 'stop']) execFileSync('qemu-img', ['check', '-q', at(n)]);
    },
  );

  test('a file that is cut or removed', { timeout: 120_000 }, async ({ boot }) => {
    const [cut, removed] = [join(folder, 'cut'), join(folder, 'removed')];
    for (const path of [cut, removed]) writeFileSync(path, Buffer.alloc(4 << 20, 'a'));
    const vm = await boot({ disks: [cut, removed] });
    const read = (disk: string, block: number): string =>
      `dd if=/dev/${disk} bs=64k count=1 skip=${block} iflag=direct | tail -c 4`;
    expect((await vm.run(read('vda', 16))).stdout).toBe('aaaa');
    truncateSync(cut, 1 << 20);
    expect((await vm.run(read('vda', 15))).stdout).toBe('aaaa');
    const lost = await vm.run(read('vda', 16));
    expect([lost.stdout, lost.stderr]).toEqual(['', expect.stringMatching(/Input\/output error/)]);
    // Over the border: what is there does not make the rest good.
    truncateSync(cut, (1 << 20) - 4096);
    expect((await vm.run(read('vda', 15))).stdout).toBe('');
    // Its content is ours as long as it is open.
    unlinkSync(removed);
    expect((await vm.run(`${write('vdb', 1)} && sync && ${read('vdb', 40)}`)).stdout).toBe('aaaa');
    expect(existsSync(removed)).toBe(false);
    expect((await vm.vm.status()).state).toBe('running');
  });
});
