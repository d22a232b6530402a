/** Faults of a real guest, each with the strategy that was chosen: the examples of docs/recovery.md. */
import { existsSync } from 'node:fs';
import { Vm } from '@nyx/nyx';
import { find, list } from '@nyx/nyx/rundir';
import { afterAll, describe, expect } from 'vitest';
import {
  alive,
  bios,
  fault,
  faultsOf,
  generic,
  image,
  last,
  nyx,
  report,
  state,
  test,
  until,
} from './setup.ts';

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
      expect(nyx('report', vm.vm.name).trimEnd()).toBe(text.trimEnd());
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
      // fwait; fninit; cli; hlt. It may have ended before anybody could say that it runs.
      const ended = await Vm.start({
        name: 'fpu',
        bios: bios('fpu.bin', [0x9b, 0xdb, 0xe3, 0xfa, 0xf4]),
        memory: '16M',
        accel: existsSync('/dev/kvm') ? 'kvm' : 'soft',
        policy: { hangTime: 1, guestHang: 'shutdown' },
      })
        .then((vm) => vm.launched!.ended.then(() => undefined).finally(() => vm.close()))
        .catch((e) => e);
      if (ended === undefined) {
        console.warn('left out: the host executes the FPU of guests itself, or has no KVM');
        skip();
      }
      expect(ended).toMatchObject({ code: 'VCPU_ERROR', got: expect.stringMatching(/^KVM|^EngineError/) });
      expect(report(find('fpu'))).toMatch(/^emulationFailure \(critical\)/);
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
