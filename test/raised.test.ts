/** Faults that a real process raises. */
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Vm } from '@nyx/nyx';
import { list } from '@nyx/nyx/rundir';
import { afterAll, expect, test } from 'vitest';

process.env.XDG_RUNTIME_DIR = mkdtempSync(join(tmpdir(), 'nyx-raised-'));
/** jmp $, at the reset vector. */
const spin = join(mkdtempSync(join(tmpdir(), 'nyx-raised-files-')), 'spin.bin');
const rom = Buffer.alloc(0x10000, 0x90);
rom.set([0xeb, 0xfe], 0xfff0);
writeFileSync(spin, rom);

afterAll(async () => {
  const left = (): unknown[] => list().filter((i) => i.kind !== 'ended');
  for (let i = 0; i < 200 && left().length > 0; i++) await sleep(100);
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
