/** Faults of a real guest and of its devices, each with the strategy that was chosen: the examples of docs/recovery.md. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ImageStore } from '@nyx/image';
import { fileSize, mmap, munmap } from '@nyx/native';
import { Vm, type VmEvent } from '@nyx/nyx';
import { list } from '@nyx/nyx/rundir';
import type { FaultKind } from '@nyx/protocol';
import type { FaultRecord } from '@nyx/protocol/control';
import { type TestVm, vmTest } from '@nyx/testkit';
import { afterAll, describe, expect } from 'vitest';

process.env.XDG_RUNTIME_DIR = mkdtempSync(join(tmpdir(), 'nyx-recovery-'));
const root = fileURLToPath(new URL('..', import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), 'nyx-recovery-files-'));

const imageOf = (name: string) =>
  new ImageStore().build(name).catch((e: Error) => {
    console.warn(`tests of recovery with ${name} are left out, there is no image: ${e.message}`);
    return undefined;
  });
const image = await imageOf('debian');
/** Its kernel knows the watchdog. */
const generic = image && (await imageOf('debian-generic'));

const test = vmTest(
  {
    ...(image ? { kernel: image.vmlinux, initrd: image.initrd, append: `${image.cmdline} reboot=t` } : {}),
    memory: '192M',
    accel: 'soft',
  },
  { blankDisks: [4 << 20] },
);

/** A BIOS that is these bytes at the reset vector. */
const bios = (name: string, code: number[]): string => {
  const rom = Buffer.alloc(0x10000, 0x90);
  Buffer.from(code).copy(rom, 0xfff0);
  const path = join(scratch, name);
  writeFileSync(path, rom);
  return path;
};

const nyx = (...args: string[]): string => {
  const r = spawnSync(process.execPath, [join(root, 'bin/nyx'), ...args], {
    encoding: 'utf8',
    timeout: 240_000,
  });
  expect([r.stderr, r.status]).toEqual([expect.any(String), 0]);
  return r.stdout;
};

/** Waits until `what` gives something. @throws Error after `seconds` */
const until = async <T>(what: () => Promise<T | undefined>, seconds = 30): Promise<T> => {
  for (const end = Date.now() + seconds * 1000; ; ) {
    const found = await what();
    if (found !== undefined) return found;
    if (Date.now() > end) throw new Error(`not within ${seconds} s`);
    await new Promise((r) => setTimeout(r, 50));
  }
};

type Faulty = Pick<Vm, 'history'>;
const isFault = (e: VmEvent): e is VmEvent & FaultRecord => e.type === 'fault';
const faultsOf = async (vm: Faulty, kind: FaultKind): Promise<FaultRecord[]> =>
  (await vm.history()).filter(isFault).filter((f) => f.kind === kind);
const fault = (vm: Faulty, kind: FaultKind): Promise<FaultRecord> =>
  until(async () => (await faultsOf(vm, kind)).at(-1));
const state = (vm: Vm, wanted: string) =>
  until(async () => ((await vm.status()).state === wanted ? true : undefined));
/** Runs a command that the guest does not survive. */
const last = (vm: TestVm, command: string): void => void vm.run(command, 20).catch(() => {});
const report = (vm: Vm): string => readFileSync(join(vm.dir, 'report.txt'), 'utf8');
const alive = async (vm: TestVm): Promise<void> =>
  expect((await vm.run('echo yes', 60)).stdout).toBe('yes\n');

/** The process that serves a device, and the place's state. */
const process_ = async (vm: TestVm, name: string) =>
  (await vm.vm.status()).processes.find((p) => p.name === name)!;

/** Damages a state block, as a stray write would: `halves` of it. */
const damage = async (vm: TestVm, device: string, halves: 'both' | 'active'): Promise<void> => {
  const { pid } = await vm.vm.status();
  const folder = `/proc/${pid}/fd`;
  const found = readdirSync(folder).find((fd) => {
    try {
      return readlinkSync(join(folder, fd)).startsWith(`/memfd:nyx-state-${device} `);
    } catch {
      return false;
    }
  });
  const { openSync, closeSync } = await import('node:fs');
  const fd = openSync(join(folder, found!), 'r+');
  const memory = mmap(fd, fileSize(fd));
  const bytes = new Uint8Array(memory);
  const words = new Uint32Array(memory);
  // BlockHeader (libs/ring/src/wire.ts): halfBytes is word 5, generation word 16.
  const [half, generation] = [words[5]!, words[16]!];
  for (const n of halves === 'both' ? [0, 1] : [generation & 1]) bytes[0x1000 + n * half + 80]! ^= 0xff;
  munmap(memory);
  closeSync(fd);
};

/** SIGKILL by somebody, not by a wish of ours. */
const crash = async (vm: TestVm, name: string): Promise<void> => {
  process.kill((await process_(vm, name)).pid, 'SIGKILL');
};

describe.runIf(image)(
  'what goes wrong in a guest',
  () => {
    afterAll(() => expect(list().filter((i) => i.kind !== 'ended')).toEqual([]));

    test('a panic pauses the machine, and a report tells what happened', async ({ boot }) => {
      const vm = await boot({ policy: { guestPanic: 'pause' } });
      last(vm, 'echo c >/proc/sysrq-trigger');
      expect(await fault(vm.vm, 'guestPanic')).toMatchObject({ severity: 'critical', strategy: 'pause' });
      await state(vm.vm, 'paused');
      const text = report(vm.vm);
      expect(text).toMatch(/^guestPanic \(critical\)/);
      expect(text).toMatch(/guest time +\d+\.\d{3} s/);
      expect(text).toMatch(/done +pause: Guest time stands still/);
      expect(text).toMatch(/rip [0-9a-f]{16} {2}rflags/);
      expect(text).toMatch(/Kernel panic|sysrq: Trigger a crash|RIP: 0010/);
      expect(nyx('report', vm.vm.name)).toBe(text);
      expect(nyx('status', vm.vm.name)).toMatch(/last +\S+ guestPanic/);
      expect(nyx('events', vm.vm.name, '--faults')).toMatch(/guestPanic: vcpu 0 -> pause/);
    });

    test('a panic ends the machine, by default with an error; the report stays', async ({ boot }) => {
      const vm = await boot();
      last(vm, 'echo c >/proc/sysrq-trigger');
      await expect(vm.vm.launched!.ended).rejects.toMatchObject({ code: 'GUEST_FAILED' });
      expect(list().find((i) => i.name === vm.vm.name)?.kind).toBe('ended');
      expect(nyx('report', vm.vm.name)).toMatch(/done +fail/);
    });

    test('a triple fault: registers, and the strategy that was chosen while the guest ran', async ({
      boot,
    }) => {
      const vm = await boot();
      expect(
        nyx('policy', 'set', 'tripleFault', 'reset', 'budget=1', 'escalate=pause', '--vm', vm.vm.name),
      ).toBe('tripleFault: reset, 1 in 60 s, then pause\n');
      last(vm, 'reboot -f');
      expect(await fault(vm.vm, 'tripleFault')).toMatchObject({ strategy: 'reset', escalated: false });
      await until(async () => ((await vm.vm.status()).resets === 1 ? true : undefined));
      await alive(vm);
      last(vm, 'reboot -f');
      await state(vm.vm, 'paused');
      expect((await faultsOf(vm.vm, 'tripleFault')).at(-1)).toMatchObject({
        strategy: 'pause',
        escalated: true,
      });
      expect(report(vm.vm)).toMatch(/idtr base \w+ limit 0000\n.*cpl 0, shut down/);
      expect(report(vm.vm)).toMatch(/the budget of what is usually done was spent/);
      expect(nyx('report', vm.vm.name, '--back', '1')).toMatch(/done +reset: The machine is reset/);
      expect(nyx('policy', 'set', 'guestPanic', 'pause', '--vm', vm.vm.name)).toMatch(/^guestPanic: pause/);
      expect(nyx('policy', 'get', '--vm', vm.vm.name)).toMatch(
        /tripleFault +- +reset +1 in 60 s, then pause +1/,
      );
      expect(nyx('policy', 'reset', '--vm', vm.vm.name)).toBe('As it was.\n');
      expect(nyx('policy', 'get', '--vm', vm.vm.name)).toMatch(/guestPanic +- +fail/);
    });

    test('cli; hlt in the kernel is a hang, and the machine boots anew', async ({ boot }) => {
      const vm = await boot({ policy: { hangTime: 2, guestHang: 'reset' }, cpus: 2 });
      last(vm, 'halt -f');
      const f = await fault(vm.vm, 'guestHang');
      expect(f).toMatchObject({ strategy: 'reset', data: { what: 'halted with interrupts off' } });
      await alive(vm);
      expect((await vm.vm.status()).resets).toBe(1);
    });

    test.for(['soft', 'kvm'] as const)(
      'a CPU that spins with interrupts off is a hang (%s)',
      async (accel, { skip }) => {
        if (accel === 'kvm' && !existsSync('/dev/kvm')) {
          console.warn('left out: there is no /dev/kvm');
          skip();
        }
        // cli; jmp $
        const vm = await Vm.start({
          bios: bios('spin.bin', [0xfa, 0xeb, 0xfe]),
          memory: '16M',
          accel,
          policy: { hangTime: 1, guestHang: 'shutdown' },
        });
        await vm.launched!.ended;
        // It did not fail, but there is something to look at.
        const { result } = list().find((i) => i.name === vm.name)!;
        expect(result).toMatchObject({
          state: 'stopped',
          fault: expect.stringMatching(/^guestHang: .*spins with/),
        });
        expect(nyx('ps')).toMatch(new RegExp(`${vm.name} +stopped +guestHang`));
        expect(report(vm)).toMatch(/rip 0{12}fff1 {2}rflags \w+ \(interrupts off\)/);
        vm.close();
      },
    );

    test('what KVM would have to emulate, and cannot, ends the machine with the instruction', async ({
      skip,
    }) => {
      // fwait; fninit; cli; hlt
      const vm = await Vm.start({
        bios: bios('fpu.bin', [0x9b, 0xdb, 0xe3, 0xfa, 0xf4]),
        memory: '16M',
        accel: existsSync('/dev/kvm') ? 'kvm' : 'soft',
        policy: { hangTime: 1, guestHang: 'shutdown' },
      });
      const ended = await vm.launched!.ended.catch((e) => e);
      vm.close();
      if (ended === undefined) {
        console.warn('left out: the host executes the FPU of guests itself, or has no KVM');
        skip();
      }
      expect(ended).toMatchObject({ code: 'VCPU_ERROR', got: expect.stringMatching(/^KVM|^EngineError/) });
      expect(report(vm)).toMatch(/^emulationFailure \(critical\)/);
    });

    test('pvpanic tells more than panics: a crash kernel is let run, and may power off', async () => {
      // mov al, 2; mov dx, 0x505; out dx, al; mov al, 4; out dx, al; cli; hlt
      const code = [0xb0, 2, 0xba, 5, 5, 0xee, 0xb0, 4, 0xee, 0xfa, 0xf4];
      const small = ['--memory', '16M', '--accel', 'soft', '--detach'];
      const name = nyx(
        'run',
        '--bios',
        bios('pvpanic.bin', code),
        ...small,
        '--action',
        'shutdown=pause',
      ).trim();
      const vm = Vm.connect(name);
      await state(vm, 'paused');
      expect(await fault(vm, 'guestCrashLoaded')).toMatchObject({ strategy: 'ignore' });
      expect(await fault(vm, 'guestShutdown')).toMatchObject({ strategy: 'pause', severity: 'info' });
      await vm.stop(0);
      vm.close();
      await until(async () => (list().some((i) => i.name === name) ? undefined : true));
    });

    test('a reset has a policy as well; accesses to nowhere are told', async ({ boot }) => {
      const vm = await boot({ policy: { guestReset: 'shutdown' }, append: image!.cmdline });
      await vm.run('devmem 0xfd000000 32');
      // Linux looks for a serial port that is not there.
      expect((await fault(vm.vm, 'unmappedPort')).data).toMatchObject({ port: expect.stringMatching(/^0x/) });
      expect((await fault(vm.vm, 'unmappedMmio')).data).toMatchObject({ address: '0xfd000000', count: 1 });
      last(vm, 'reboot -f');
      await vm.vm.launched!.ended;
    });
  },
  120_000,
);

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
      await new Promise((r) => setTimeout(r, 500));
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

describe.runIf(generic)(
  'a watchdog',
  () => {
    test("Linux's i6300esb feeds it; when nobody does, the machine is reset, and the guest can see why", async ({
      boot,
    }) => {
      const vm = await boot({
        kernel: generic!.vmlinux,
        initrd: generic!.initrd,
        append: generic!.cmdline,
        watchdog: 'i6300esb',
      });
      const sys = '/sys/class/watchdog/watchdog0';
      expect((await vm.run(`cat ${sys}/identity ${sys}/bootstatus`)).stdout).toBe('i6300ESB timer\n0\n');
      expect((await vm.run(`watchdog -T 3 /dev/watchdog; sleep 5; cat ${sys}/state`)).stdout).toBe(
        'active\n',
      );
      // The device outlives its process, as every device does.
      await vm.kill('watchdog');
      await vm.run('sleep 4');
      expect(await faultsOf(vm.vm, 'watchdogExpired')).toEqual([]);
      await vm.run('killall -9 watchdog');
      expect(await fault(vm.vm, 'watchdogExpired')).toMatchObject({ strategy: 'reset', data: { count: 1 } });
      await until(async () => ((await vm.vm.status()).resets === 1 ? true : undefined));
      // WDIOF_CARDRESET
      expect((await vm.run(`cat ${sys}/bootstatus`, 60)).stdout).toBe('32\n');
    });
  },
  120_000,
);
