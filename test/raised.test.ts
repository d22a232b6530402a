/** Faults that a real guest or a real process raises, and strategies that act on a guest that lives. */
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ImageStore } from '@nyx/image';
import { Vm } from '@nyx/nyx';
import { list } from '@nyx/nyx/rundir';
import { vmTest } from '@nyx/testkit';
import { afterAll, describe, expect, test } from 'vitest';

process.env.XDG_RUNTIME_DIR = mkdtempSync(join(tmpdir(), 'nyx-raised-'));
const image = await new ImageStore().build('debian').catch((e: Error) => {
  console.warn(`tests of strategies with a guest are left out, there is no image: ${e.message}`);
  return undefined;
});
const guestTest = vmTest({
  ...(image ? { kernel: image.vmlinux, initrd: image.initrd, append: image.cmdline } : {}),
  memory: '192M',
  accel: 'soft',
});
/** jmp $, at the reset vector. */
const spin = join(mkdtempSync(join(tmpdir(), 'nyx-raised-files-')), 'spin.bin');
const rom = Buffer.alloc(0x10000, 0x90);
rom.set([0xeb, 0xfe], 0xfff0);
writeFileSync(spin, rom);

afterAll(async () => {
  const left = (): unknown[] => list().filter((i) => i.kind !== 'ended');
  for (let i = 0; i < 200 && left().length > 0; i++) await new Promise((r) => setTimeout(r, 100));
  expect(left()).toEqual([]);
});

test.each([
  ['fail', { state: 'failed', error: { code: 'VCPU_DIED' } }],
  ['shutdown', { state: 'stopped', fault: expect.stringMatching(/^vcpuCrash: .*SIGKILL/) }],
] as const)(
  'the process of the vCPUs is killed: %s, and a report',
  async (strategy, result) => {
    const vm = await Vm.start({ bios: spin, memory: '16M', accel: 'soft', policy: { vcpuCrash: strategy } });
    process.kill((await vm.status()).vcpuPid, 'SIGKILL');
    const ended = vm.launched!.ended.then(() => 'stopped');
    await expect(ended.catch((e) => e)).resolves.toEqual(
      strategy === 'fail' ? expect.objectContaining({ code: 'VCPU_DIED' }) : 'stopped',
    );
    expect(list().find((i) => i.name === vm.name)?.result).toMatchObject(result);
    const report = readFileSync(join(vm.dir, 'report.txt'), 'utf8');
    expect(report).toMatch(/^vcpuCrash \(critical\)/);
    expect(report).toMatch(new RegExp(`done +${strategy}`));
    vm.close();
  },
  60_000,
);

describe.runIf(image)(
  'strategies that a guest answers',
  () => {
    guestTest('nmi: Linux counts it and goes on; poweroff: it powers itself off', async ({ boot }) => {
      const vm = await boot({ policy: { guestPanic: 'nmi' } });
      // As the driver of pvpanic does it, though nothing is wrong with this guest.
      const panic = "printf '\\001' | dd of=/dev/port bs=1 seek=1285 2>&1";
      const count = "awk '/NMI:/ { print $2 }' /proc/interrupts";
      expect((await vm.run(count)).stdout).toBe('0\n');
      expect((await vm.run(panic)).status).toBe(0);
      await expect.poll(async () => (await vm.run(count)).stdout, { timeout: 60_000 }).toBe('1\n');
      expect((await vm.run('dmesg')).stdout).toMatch(/NMI received for unknown reason/);
      await vm.vm.setPolicy('guestPanic', 'poweroff');
      void vm.run(panic).catch(() => {});
      await vm.vm.launched!.ended;
    });
  },
  180_000,
);
