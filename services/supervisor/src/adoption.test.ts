/** The supervisor dies, at any moment, and another one takes the machine over: the guest does not notice. */
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { ImageStore } from '@nyx/image';
import { forceStop, Vm } from '@nyx/nyx';
import { list } from '@nyx/nyx/rundir';
import { afterAll, afterEach, describe, expect, test } from 'vitest';

process.env.XDG_RUNTIME_DIR = mkdtempSync(join(tmpdir(), 'nyx-adoption-'));
const root = fileURLToPath(new URL('../../..', import.meta.url));
const nyx = (...args: string[]): string => {
  const r = spawnSync(process.execPath, [join(root, 'bin/nyx'), ...args], {
    encoding: 'utf8',
    timeout: 60_000,
  });
  expect([r.stderr, r.status]).toEqual([expect.any(String), 0]);
  return r.stdout;
};

const image = await new ImageStore().build('debian').catch((e: Error) => {
  console.warn(`tests of adoption are left out, there is no image: ${e.message}`);
  return undefined;
});

/** Seeded: the same moments in every run, unless NYX_SEED says otherwise. */
const random = ((seed: number) => () => {
  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
  return seed / 2 ** 32;
})(Number(process.env.NYX_SEED ?? 1));

/** Waits until `what` gives something. @throws Error after `seconds` */
const until = async <T>(what: () => Promise<T | undefined>, seconds = 60): Promise<T> => {
  for (const end = Date.now() + seconds * 1000; ; ) {
    const found = await what().catch(() => undefined);
    if (found !== undefined) return found;
    if (Date.now() > end) throw new Error(`not within ${seconds} s`);
    await sleep(50);
  }
};

const kill = (pid: number): void => {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It was dead already.
  }
};
const pidOf = (name: string, role: string): number =>
  list()
    .find((i) => i.name === name)
    ?.pids.find((p) => p.role === role)?.pid ?? 0;
/** Kills the supervisor; the next one, when it answers. */
const killSupervisor = async (name: string): Promise<Vm> => {
  const old = pidOf(name, 'nyxd');
  kill(old);
  return next(name, old);
};
const next = (name: string, old: number): Promise<Vm> =>
  until(async () => {
    const pid = pidOf(name, 'nyxd');
    if (pid === 0 || pid === old) return undefined;
    const vm = Vm.connect(name);
    const s = await vm.status();
    if (s.pid !== old) return vm;
    vm.close();
    return undefined;
  });

const patience = { timeout: 60 };
const start = (name: string, more: object = {}): Promise<Vm> =>
  Vm.start({ name, image: 'debian', accel: 'soft', ...more });
/** What a command in the guest prints. */
const run = async (vm: Vm, command: string): Promise<string> =>
  (await vm.exec(command, patience)).stdout.toString();
const serving = (vm: Vm): Promise<true> =>
  until(async () => ((await vm.status()).processes.every((p) => p.state === 'serving') ? true : undefined));
/** What the kernel has said of the kind since it has booted. */
const complaints = 'dmesg | grep -iE "error|hung|stall|BUG|timeout|reset" || true';

afterEach(() => {
  for (const i of list()) forceStop(i);
});
afterAll(async () => {
  for (let i = 0; i < 200 && list().some((x) => x.kind === 'alive'); i++) await sleep(100);
  expect(list().filter((i) => i.kind === 'alive')).toEqual([]);
});

describe.skipIf(!image)(
  'adoption',
  () => {
    test('kill -9 of nyxd and of devices, again and again, under a guest that writes: nothing is lost', async () => {
      const first = await start('a1');
      await first.exec('true', patience);
      const { vcpuPid } = await first.status();
      const before = await run(first, complaints);
      await first.exec(
        `(i=0; while [ ! -e /tmp/stop ]; do head -c 65536 /dev/urandom >/data/f$i; sync; sha256sum /data/f$i >>/tmp/sums
          i=$((i + 1)); [ $i -ge 150 ] && break; done; touch /tmp/done) >/dev/null 2>&1 &`,
        patience,
      );
      let vm = first;
      const rounds = Number(process.env.NYX_ADOPTIONS ?? 4);
      for (let i = 0; i < rounds; i++) {
        await sleep(random() * 300);
        const old = pidOf('a1', 'nyxd');
        // Before it, with it, or while nobody is there.
        const device = pidOf('a1', random() < 0.5 ? 'platform' : 'disk0');
        const order = random();
        if (order < 0.33) kill(device);
        kill(old);
        if (order > 0.66) await sleep(random() * 100);
        if (order >= 0.33) kill(device);
        vm.close();
        vm = await next('a1', old);
        await serving(vm);
      }
      await vm.exec('touch /tmp/stop; while [ ! -e /tmp/done ]; do sleep 0.1; done', patience);
      const check = 'echo 3 >/proc/sys/vm/drop_caches; sha256sum -c /tmp/sums | grep -vc OK';
      expect(await run(vm, check)).toBe('0\n');
      expect(Number(await run(vm, 'wc -l </tmp/sums'))).toBeGreaterThan(3);
      expect(await run(vm, complaints)).toBe(before);
      const s = await vm.status();
      expect(s).toMatchObject({ state: 'running', vcpuPid, resets: 0 });
      expect(s.processes.reduce((n, p) => n + p.restarts, 0)).toBeGreaterThanOrEqual(rounds / 2);

      // Everything that a supervisor does is done by the last one.
      expect(nyx('ps')).toMatch(/a1 +running/);
      expect(nyx('adopt', 'a1')).toMatch(/^'a1' is running/);
      expect(nyx('kill', 'disk0', 'a1')).toContain('was killed');
      nyx('policy', 'set', 'guestPanic', 'pause', '--vm', 'a1');
      const [rule] = await vm.inject({
        point: 'io',
        verb: 'delay',
        device: 'disk0',
        delay: 0.001,
        probability: 0.2,
      });
      vm = await killSupervisor('a1');
      expect(await vm.policy()).toContainEqual(
        expect.objectContaining({ kind: 'guestPanic', action: 'pause' }),
      );
      expect((await vm.faults()).rules.map((r) => r.id)).toEqual([rule]);
      expect(await vm.heal()).toBe(1);
      const deaths = (await vm.history()).filter((e) => e.type === 'death');
      expect(deaths.length).toBeGreaterThanOrEqual(rounds / 2);
      const console = await vm.console();
      const text = new Promise<string>((r) => console.once('data', (b) => r(b.toString())));
      expect((await text).length).toBeGreaterThan(0);
      console.destroy();
      await vm.stop(30);
      // Whoever has started it hears of its end from the last of its supervisors.
      await first.launched!.ended;
    });

    test('kill -9 of nyxd while it takes a checkpoint: the guest goes on, the disk is whole', async () => {
      let vm = await start('a4');
      await run(vm, 'true');
      for (const [i, ms] of [5, 40, 90, 160].entries()) {
        const sum = await run(vm, `head -c 1048576 /dev/urandom >/data/f${i}; sync; sha256sum </data/f${i}`);
        const old = pidOf('a4', 'nyxd');
        vm.checkpoint().catch(() => {});
        await sleep(ms);
        kill(old);
        vm.close();
        vm = await next('a4', old);
        await serving(vm);
        expect(await run(vm, `echo 3 >/proc/sys/vm/drop_caches; sha256sum </data/f${i}`)).toBe(sum);
      }
      // A later one is whole, and is gone back to.
      await vm.checkpoint();
      await run(vm, 'echo lost >/data/lost; sync');
      await vm.rollback();
      expect(await run(vm, 'cat /data/lost 2>/dev/null; ls /data | grep -c f; ' + complaints)).toMatch(
        /^5\n/,
      );
      await vm.stop(20);
      vm.close();
    });

    test('nyxd is killed while the machine is paused, reset, or told to stop: that is what it does', async () => {
      const first = await start('a2');
      await first.exec('true', patience);
      await first.pause();
      let vm = await killSupervisor('a2');
      expect((await vm.status()).state).toBe('paused');
      await vm.resume();
      expect(await run(vm, 'echo on')).toBe('on\n');
      void vm.reset().catch(() => {});
      await until(async () => ((await vm.status()).state !== 'running' ? true : undefined), 1).catch(
        () => {},
      );
      vm = await killSupervisor('a2');
      await until(async () => ((await vm.status()).state === 'running' ? true : undefined));
      expect(await run(vm, 'echo anew')).toBe('anew\n');
      void vm.stop(60).catch(() => {});
      await sleep(30);
      kill(pidOf('a2', 'nyxd'));
      await first.launched!.ended;
      expect(list()).toEqual([]);
    });

    test('`nyx run` with a console goes on when its supervisor is killed', async () => {
      const child = spawn(
        process.execPath,
        [join(root, 'bin/nyx'), 'run', 'debian', '--name', 'a3', '--accel', 'soft'],
        {
          stdio: ['pipe', 'pipe', 'pipe'],
        },
      );
      let out = '';
      child.stdout.on('data', (b) => {
        out += b.toString();
      });
      const ended = new Promise<number | null>((r) => child.on('exit', (code) => r(code)));
      await until(async () => (/[#$] /.test(out) ? true : undefined));
      await (await killSupervisor('a3')).status();
      child.stdin.write('echo $((6 * 7))\n');
      await until(async () => {
        if (/\n42\r?\n/.test(out)) return true;
        return undefined;
      });
      Vm.connect('a3').stop(30);
      expect(await ended).toBe(0);
    });
  },
  240_000,
);
