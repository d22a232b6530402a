/** Faults of the devices of a real guest, each with the strategy that was chosen. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { FaultKind } from '@nyx/protocol';
import type { TestVm } from '@nyx/testkit';
import { describe, expect } from 'vitest';
import {
  alive,
  crash,
  damage,
  fault,
  faultsOf,
  image,
  last,
  nyx,
  process_,
  report,
  scratch,
  state,
  test,
  until,
} from './setup.ts';

describe.runIf(image)(
  'what goes wrong in a device',
  () => {
    const read = 'dd if=/dev/vda of=/dev/null bs=4k count=16 iflag=direct 2>&1';

    /** A signal to the process of the disk, and then another process that serves. */
    const signalled = async (vm: TestVm, signal: NodeJS.Signals): Promise<void> => {
      const { pid, restarts } = await process_(vm, 'disk0');
      process.kill(pid, signal);
      await until(async () => {
        const p = await process_(vm, 'disk0');
        return p.restarts > restarts && p.state === 'serving' ? true : undefined;
      });
    };

    test('each thing that can go wrong is told by its name', async ({ boot }) => {
      const vm = await boot({ policy: { stormLimit: 100, deviceCrash: { budget: 50 } } });
      const data = async (kind: FaultKind) => {
        const f = await until(async () =>
          (await faultsOf(vm.vm, kind)).findLast((x) => x.source === 'disk0'),
        );
        return { source: f.source, strategy: f.strategy, ...f.data };
      };
      const disk = { source: 'disk0', strategy: 'ignore' };
      await vm.inject({ point: 'io', verb: 'error', device: 'disk0', type: 'read', count: 1 });
      await vm.run(read);
      expect(await data('backendError')).toMatchObject({
        ...disk,
        device: 'disk0',
        what: expect.stringContaining('read of'),
      });
      await vm.inject({ point: 'io', verb: 'error', device: 'disk0', type: 'read', count: 1, mask: 19 });
      await vm.run(read);
      expect(await data('backendGone')).toMatchObject(disk);
      await vm.inject({ point: 'io', verb: 'error', device: 'disk0', type: 'write', count: 1, mask: 28 });
      // No room: the machine stops, as werror=enospc says, and tries again when it goes on.
      const write = vm.run('dd if=/dev/zero of=/dev/vda bs=4k count=1 oflag=direct 2>&1');
      expect(await data('resourceExhausted')).toMatchObject(disk);
      await state(vm.vm, 'paused');
      await vm.vm.resume();
      expect((await write).status).toBe(0);
      await vm.heal();

      await vm.run(
        'for i in 1 2 3 4 5 6 7 8; do dd if=/dev/zero of=/dev/vda bs=4k count=250 oflag=direct 2>/dev/null; done',
      );
      expect(await data('interruptStorm')).toMatchObject({ ...disk, perSecond: expect.any(Number) });

      await vm.inject({ point: 'process', verb: 'delay', device: 'disk0', delay: 1.4, count: 1 });
      await vm.run('cat /sys/bus/virtio/devices/virtio0/status');
      expect(await data('deviceSlow')).toMatchObject(disk);

      await signalled(vm, 'SIGKILL');
      expect(await data('deviceCrash')).toMatchObject({ strategy: 'restart', what: 'killed by SIGKILL' });
      await signalled(vm, 'SIGSTOP');
      expect(await data('deviceHang')).toMatchObject({ strategy: 'restart', what: 'hangs: no heartbeat' });

      await damage(vm, 'disk0', 'active');
      await vm.kill('disk0');
      expect(await data('stateRepaired')).toMatchObject({ ...disk, device: 'disk0' });
      expect((await vm.run(read)).status).toBe(0);

      // The last: a driver whose request cannot be read has lost its device.
      await vm.inject({ point: 'dma', verb: 'error', device: 'disk0', count: 1 });
      last(vm, read);
      expect(await data('dmaFault')).toMatchObject({ ...disk, address: expect.stringMatching(/^0x/) });
      expect(await data('queueError')).toMatchObject(disk);
      expect((await vm.vm.status()).faults.length).toBeGreaterThanOrEqual(10);
    });

    test('isolated, a virtio device says that it needs a reset; healed, it goes on as if nothing had been', async ({
      boot,
    }) => {
      const vm = await boot();
      await vm.run('dd if=/dev/urandom of=/dev/vda bs=64k count=4 conv=fsync 2>/dev/null');
      const sum = (await vm.run('sha256sum </dev/vda')).stdout;
      await vm.vm.setPolicy('deviceCrash', 'isolate', 'disk0');
      await crash(vm, 'disk0');
      await until(async () => {
        const p = await process_(vm, 'disk0');
        return p.state === 'isolated' && p.pid !== 0 ? true : undefined;
      });
      // ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, DEVICE_NEEDS_RESET.
      const status = 'cat /sys/bus/virtio/devices/virtio0/status';
      await until(async () => ((await vm.run(status)).stdout === '0x0000004f\n' ? true : undefined));
      // A read waits; it is answered when the device is back.
      const waiting = vm.run('echo 3 >/proc/sys/vm/drop_caches; sha256sum </dev/vda', 60);
      await sleep(500);
      expect(nyx('heal', 'disk0', '--vm', vm.vm.name)).toBe("'disk0' gets another process.\n");
      expect((await waiting).stdout).toBe(sum);
      expect((await vm.run(status)).stdout).toBe('0x0000000f\n');
      expect(nyx('heal', 'disk0', '--vm', vm.vm.name)).toBe("'disk0' is served already.\n");
    });

    test('isolated, it can be removed by the guest, and comes back in the same slot', async ({ boot }) => {
      const vm = await boot();
      await vm.run('dd if=/dev/urandom of=/dev/vda bs=64k count=4 conv=fsync 2>/dev/null');
      const sum = (await vm.run('sha256sum </dev/vda')).stdout;
      await vm.vm.setPolicy('deviceCrash', 'isolate', 'disk0');
      await crash(vm, 'disk0');
      await until(async () => ((await process_(vm, 'disk0')).state === 'isolated' ? true : undefined));
      const slot = '/sys/bus/pci/devices/0000:00:02.0';
      await vm.run(`echo 1 >${slot}/remove`);
      expect((await vm.run('ls /dev | grep -c "^vd"')).stdout).toBe('0\n');
      expect(await vm.vm.healDevice('disk0')).toBe(true);
      await until(async () => ((await process_(vm, 'disk0')).state === 'serving' ? true : undefined));
      await vm.run('echo 1 >/sys/bus/pci/rescan');
      const disk = await until(async () => (await vm.run('ls /dev | grep "^vd"')).stdout.trim() || undefined);
      expect((await vm.run(`ls -d ${slot}; sha256sum </dev/${disk}`)).stdout).toBe(`${slot}\n${sum}`);
    });

    test('state that is damaged in both halves is saved; a reset of the machine begins with a fresh one', async ({
      boot,
    }) => {
      const vm = await boot();
      await damage(vm, 'disk0', 'both');
      await crash(vm, 'disk0');
      const f = await fault(vm.vm, 'stateCorruption');
      expect(f).toMatchObject({ source: 'disk0', strategy: 'isolate' });
      expect(existsSync(String(f.data.saved))).toBe(true);
      await until(async () => ((await process_(vm, 'disk0')).state === 'isolated' ? true : undefined));
      expect(report(vm.vm)).toMatch(/^stateCorruption \(critical\) of disk0/);
      expect(report(vm.vm)).toMatch(/Log of disk0\n.*serves, process 1 of this place/);
      await vm.vm.reset();
      await alive(vm);
      expect((await vm.run(read)).status).toBe(0);
    });

    test('with a standby, the guest does not see that the first backend is gone', async ({ boot }) => {
      const [first, standby] = ['first.img', 'standby.img'].map((n) => join(scratch, n)) as [string, string];
      for (const [path, byte] of [
        [first, 0x11],
        [standby, 0x11],
      ] as const)
        writeFileSync(path, Buffer.alloc(1 << 20, byte));
      const vm = await boot({ disks: [{ path: first, standby }] }, {});
      await vm.inject({ point: 'io', verb: 'error', device: 'disk0', mask: 19, count: 1 });
      const r = await vm.run(
        'dd if=/dev/urandom of=/dev/vda bs=4k count=8 oflag=direct 2>&1; sha256sum </dev/vda',
      );
      expect(r.stdout).not.toMatch(/error/i);
      expect(await fault(vm.vm, 'backendGone')).toMatchObject({ strategy: 'failover' });
      // What was written after that is in the other file.
      expect(readFileSync(first).equals(Buffer.alloc(1 << 20, 0x11))).toBe(true);
      expect(readFileSync(standby).subarray(0, 32768).equals(Buffer.alloc(32768, 0x11))).toBe(false);
      expect((await vm.run('dmesg | grep -c "I/O error"')).stdout).toBe('0\n');
    });

    test('its budget spent, a crash pauses the machine; the place is filled when it goes on', async ({
      boot,
    }) => {
      const vm = await boot({
        policy: { devices: { disk0: { deviceCrash: { budget: 1, escalate: 'pause' } } } },
      });
      await crash(vm, 'disk0');
      await until(async () => ((await process_(vm, 'disk0')).restarts === 1 ? true : undefined));
      await until(async () => ((await process_(vm, 'disk0')).state === 'serving' ? true : undefined));
      await crash(vm, 'disk0');
      await state(vm.vm, 'paused');
      expect((await process_(vm, 'disk0')).state).toBe('dead');
      await vm.vm.resume();
      expect((await vm.run(read)).status).toBe(0);
      expect(nyx('policy', 'get', 'deviceCrash', '--device', 'disk0', '--vm', vm.vm.name)).toMatch(
        /deviceCrash +disk0 +restart +1 in 30 s, then pause +1/,
      );
    });
  },
  120_000,
);
