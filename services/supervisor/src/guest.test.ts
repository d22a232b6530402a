/**
 * A real Linux guest, all processes real: what a user does with it. Needs the default image, which is built when it is missing;
 * on a host that cannot build it the tests are left out, and say why.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type Image, ImageStore } from '@nyx/image';
import { Vm } from '@nyx/nyx';
import { list } from '@nyx/nyx/rundir';
import type { VmEvent } from '@nyx/protocol/control';
import type { VmSpecInput } from '@nyx/protocol/spec';
import { afterAll, describe, expect, test } from 'vitest';

process.env.XDG_RUNTIME_DIR = mkdtempSync(join(tmpdir(), 'nyx-guest-'));
const nyx = fileURLToPath(new URL('../../../bin/nyx', import.meta.url));
const image: Image | undefined = await new ImageStore().build('debian').catch((e: Error) => {
  console.warn(`guest tests are left out, there is no image: ${e.message}`);
  return undefined;
});

const spec = (name: string): VmSpecInput => ({
  name,
  kernel: image!.vmlinux,
  initrd: image!.initrd,
  append: image!.cmdline,
  memory: '256M',
  accel: 'soft',
  agent: true,
});
const patience = { timeout: 120 };

afterAll(async () => {
  for (const vm of list()) if (vm.kind === 'alive') await Vm.connect(vm.name).stop(0);
});

describe.runIf(image)(
  'a Linux guest',
  () => {
    test('is used, loses its platform process, is paused, starts anew, powers off', async () => {
      const vm = await Vm.start(spec('g1'));
      const events: VmEvent[] = [];
      const listening = (async () => {
        for await (const e of vm.events()) events.push(e);
      })();

      const first = await vm.exec('echo out; echo err >&2; exit 7', patience);
      expect([first.status, first.stdout.toString(), first.stderr.toString()]).toEqual([7, 'out\n', 'err\n']);

      // Serial output is under way while the UART's process dies: no byte lost, none twice.
      const count = vm.exec('seq 1 20000', patience);
      await sleep(300);
      await vm.kill('com2');
      expect((await count).stdout.toString()).toBe(
        Array.from({ length: 20_000 }, (_, i) => `${i + 1}\n`).join(''),
      );
      const status = await vm.status();
      expect(status.processes[0]).toMatchObject({ name: 'platform', state: 'serving', restarts: 1 });

      await vm.pause();
      const before = (await vm.status()).guestNs;
      await sleep(200);
      expect((await vm.status()).guestNs).toBe(before);
      await vm.resume();

      await vm.exec('touch /tmp/before-reset', patience);
      await vm.reset();
      expect((await vm.exec('test -e /tmp/before-reset; echo $?', patience)).stdout.toString()).toBe('1\n');

      expect(await vm.stop(60)).toEqual({ forced: false });
      await vm.launched!.ended;
      await listening;
      const types = events.map((e) => (e.type === 'state' ? e.to : e.type === 'machine' ? e.event : e.type));
      for (const t of ['death', 'recovered', 'paused', 'resetting', 'shutdown', 'stopped'])
        expect(types).toContain(t);
      expect(list()).toEqual([]);
    });

    test.each([
      ['bzImage', () => image!.kernel, 'auto'],
      ['ELF by PVH', () => image!.vmlinux, 'pvh'],
    ] as const)('Linux as %s reaches its shell', async (_, kernel, bootProtocol) => {
      const vm = await Vm.start({
        kernel: kernel(),
        initrd: image!.initrd,
        append: image!.cmdline,
        memory: '256M',
        accel: 'soft',
        agent: true,
        bootProtocol,
      });
      try {
        expect((await vm.exec('uname -s', patience)).stdout.toString()).toBe('Linux\n');
      } finally {
        await vm.stop(0);
      }
    });

    test("one command by `nyx run --exec`: output and status are the command's", () => {
      const args = [
        '--kernel',
        image!.vmlinux,
        '--initrd',
        image!.initrd,
        '--append',
        image!.cmdline,
        '--memory',
        '256M',
        '--accel',
        'soft',
      ];
      const r = spawnSync(
        process.execPath,
        [nyx, 'run', ...args, '--exec', 'cat /proc/sys/kernel/ostype; false'],
        { encoding: 'utf8', timeout: 120_000 },
      );
      expect([r.stdout, r.stderr, r.status]).toEqual(['Linux\n', '', 1]);
      expect(list()).toEqual([]);
    });

    test('`nyx run --exec` whose reader leaves ends its machine', () => {
      const run = [process.execPath, nyx, 'run', '--kernel', image!.vmlinux, '--initrd', image!.initrd];
      const args = [...run, '--append', image!.cmdline, '--accel', 'soft', '--exec', 'seq 1000000'];
      const r = spawnSync('sh', ['-c', '{ "$@"; echo "status $?" >&2; } | head -n 2', 'sh', ...args], {
        encoding: 'utf8',
        timeout: 120_000,
      });
      expect([r.stdout, r.stderr]).toEqual(['1\n2\n', 'status 141\n']);
      expect(list()).toEqual([]);
    });

    test('`nyx demo`: writes to its disk while disk and platform are killed, and all is whole', () => {
      const r = spawnSync(process.execPath, [nyx, 'demo', '--accel', 'soft'], {
        encoding: 'utf8',
        timeout: 200_000,
        stdio: ['ignore', 'pipe', 'pipe'],
      });
      expect(r.stderr).toContain('kill -9 disk0');
      expect(r.stdout).toMatch(/SHA-256 +same: [0-9a-f]{16}/);
      expect(r.stdout).toMatch(/kill -9 disk0 +successor serves after [\d.]+ [mu]s/);
      expect(r.stdout).toMatch(/kill -9 platform +successor serves after [\d.]+ [mu]s/);
      expect(r.stdout).toMatch(/kernel log +no complaint/);
      expect(r.status).toBe(0);
      expect(list()).toEqual([]);
    });

    test('goes on when its supervisor is killed, without another one when there is no keeper', async () => {
      const vm = await Vm.start(spec('g3'));
      await vm.exec('true', patience);
      const { pid, vcpuPid } = await vm.status();
      const keeper = list()[0]!.pids.find((p) => p.role === 'nyx-keeper')!.pid;
      // First the one who would start another supervisor, at one go: it would be replaced.
      process.kill(pid, 'SIGSTOP');
      process.kill(keeper, 'SIGKILL');
      process.kill(pid, 'SIGKILL');
      await vm.launched!.ended.catch((e) => expect(e.code).toBe('SUPERVISOR_DIED'));
      // It still uses the CPU or sleeps; it is not gone.
      process.kill(vcpuPid, 0);
      // Its descriptors close a moment before it is gone.
      await expect.poll(() => list()).toMatchObject([{ name: 'g3', kind: 'orphaned' }]);
      const adopt = spawnSync(process.execPath, [nyx, 'adopt', 'g3'], { encoding: 'utf8' });
      expect(adopt.stderr).toContain('[ADOPTION_FAILED]');
      process.kill(vcpuPid, 0);
      const stop = spawnSync(process.execPath, [nyx, 'stop', 'g3', '--force'], { encoding: 'utf8' });
      expect(stop.stdout).toBe("'g3' is gone.\n");
      expect(list()).toEqual([]);
    });
  },
  240_000,
);
