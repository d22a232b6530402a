/** Device processes that do not answer, lie, or write garbage; descriptions that are wrong. nyx-vcpu outlives them. */
import { setTimeout as sleep } from 'node:timers/promises';
import { Memory, view } from '@nyx/layout';
import { MachineHeader, VcpuError } from '@nyx/protocol';
import { describeMachine } from '@nyx/protocol/describe';
import { BlockHeader, ExitKind, MachineEvent, ProcessControl, StatusFlag, wire } from '@nyx/ring';
import { describe, expect, onTestFinished, test } from 'vitest';
import * as a from './asm.ts';
import { booter, type Exit, event, hasSoft, Machine, Vcpu } from './rig.ts';

const accel = hasSoft ? 'soft' : 'kvm';
const done = a.code(a.out16(0x504, 1), a.jmpSelf);
/** Reads port 0x508, tells it to the end with 0x504. */
const ask = a.code(a.movDx(0x508), a.inAxDx, a.movDx(0x504), a.outDxAx, a.jmpSelf);

const boot = booter();

/** Deterministic noise (xorshift32). */
const noise = (seed: number) => () => {
  seed ^= seed << 13;
  seed ^= seed >>> 17;
  seed ^= seed << 5;
  return seed >>> 0;
};

describe('a device process that does not answer', () => {
  test('is reported after a second; once isolated, the guest reads ones and goes on', async () => {
    const m = new Machine({ accel, rom: ask });
    const v = await boot(m);
    const waiting = await v.event('waiting');
    expect(waiting.a).toBe(0);
    expect(waiting.b).toBeGreaterThan(1e9);
    expect(m.vmPage.vcpu.at(0).state).toBe(3);
    v.send('isolate', 0);
    await v.event('answered');
    expect(view(ProcessControl, new Memory(m.ring), 0).isolated).toBe(1);
    await expect.poll(() => m.vmPage.vcpu.at(0).state).toBe(1);
    expect(v.events.filter((e) => e.name === 'waiting').length).toBe(1);
  });

  test('does not keep a paused machine from being reported as paused, reset or ended', async () => {
    const m = new Machine({ accel, rom: ask });
    const v = await boot(m);
    await expect.poll(() => m.vmPage.vcpu.at(0).state).toBe(3);
    v.send('pause');
    await v.event('paused');
    v.send('resume');
    await v.event('resumed');
    await expect.poll(() => m.vmPage.vcpu.at(0).state).toBe(3);
    const before = performance.now();
    expect(await v.quit()).toBe(0);
    expect(performance.now() - before).toBeLessThan(1500);
  });

  test('may be replaced: the request is still there, and is executed once', async () => {
    const m = new Machine({ accel, rom: ask });
    const v = await boot(m);
    await expect.poll(() => m.vmPage.vcpu.at(0).state).toBe(3);
    const seen: Exit[] = [];
    m.serve((x) => {
      seen.push(x);
      return x.offset === 4 ? [0, event(MachineEvent.shutdown)] : 0x4321;
    });
    v.send('replaced', 0);
    await v.event('machineEvent');
    expect(seen.map((x) => [x.kind, x.offset, x.data])).toEqual([
      [ExitKind.read, 8, 0],
      [ExitKind.write, 4, 0x4321],
    ]);
  });

  test('a reset waits for it, and ends when it is isolated', async () => {
    const m = new Machine({ accel, rom: a.code(a.jmpSelf) });
    const v = await boot(m);
    await v.event('started');
    v.send('reset');
    await v.event('waiting');
    v.send('isolate', 0);
    await v.event('resetDone');
  });
});

describe('a device process that breaks the protocol', () => {
  test('a status with undefined bits isolates it', async () => {
    const m = new Machine({ accel, rom: ask });
    m.serve(() => [0, 0x8000]);
    const v = await boot(m);
    const e = await v.event('violation');
    expect([e.a, e.b]).toEqual([0, VcpuError.badStatus]);
    expect(view(ProcessControl, new Memory(m.ring), 0).violations).toBe(1);
  });

  test('a state block that contradicts itself isolates it', async () => {
    const m = new Machine({ accel, rom: a.code(a.out16(0x50c, 1), ask as unknown as number[]) });
    const header = view(BlockHeader, new Memory(m.block.buffer), 0);
    m.serve((x) => {
      if (x.offset !== 12) return 0;
      header.classes = 65;
      return [0, StatusFlag.mapChanged];
    });
    m.server!.commitEvent(m.block);
    const v = await boot(m);
    const e = await v.event('violation');
    expect([e.a, e.b]).toEqual([0, VcpuError.badBlock]);
  });

  // Every word of rings, state block and interrupt page, over and over, while the guest accesses the device.
  test.each([1, 2, 3])('garbage everywhere: nyx-vcpu goes on and ends when told (seed %i)', async (seed) => {
    const body = [...a.movDx(0x500), ...a.outDxAx, ...a.inAxDx, ...a.movDi(0x1000), ...a.repInsw];
    const rom = a.code(a.loop(body), a.movCx(0), [0xe9, ...[-(body.length + 2 + 3 + 3) & 0xff, 0xff]]);
    const m = new Machine({ accel, rom });
    m.server?.close();
    m.block.state.total = 1;
    const header = view(BlockHeader, new Memory(m.block.buffer), 0);
    header.initialized = 1;
    const random = noise(seed * 7919);
    const words = [new Uint32Array(m.ring), new Uint32Array(m.block.buffer, 0, 4096)];
    const v = await boot(m);
    await v.event('started');
    const until = performance.now() + 700;
    while (performance.now() < until) {
      for (const w of words) {
        for (let i = 0; i < w.length; i++) {
          // Mostly plausible: small numbers and what is already there, so that it gets past the first check.
          const r = random();
          w[i] = r & 1 ? r >>> 28 : r & 2 ? w[i]! + (r & 4 ? 1 : 0) : r;
        }
      }
      v.send('replaced', 0);
      await sleep(5);
    }
    expect(v.child.exitCode).toBe(null);
    expect(v.signal).toBe(null);
    v.send('pause');
    await v.event('paused');
    expect(await v.quit()).toBe(0);
  });
});

describe('a wrong description', () => {
  const attempt = async (bytes: Uint8Array, fds: number[]): Promise<string> => {
    const v = new Vcpu();
    v.send('machine', 0, bytes, fds);
    const e = await Promise.race([v.event('rejected'), v.event('ready')]);
    const code = await v.quit();
    expect(code).toBe(e.name === 'ready' ? 0 : 2);
    return e.name === 'ready' ? 'ready' : e.text;
  };

  test('says what was expected and what came', async () => {
    const m = new Machine({ accel, rom: done });
    onTestFinished(() => m.close());
    const good = describeMachine(m.description);
    const change = (write: (h: ReturnType<typeof view<typeof MachineHeader>>) => void) => {
      const copy = new Uint8Array(good.bytes);
      write(view(MachineHeader, new Memory(copy.buffer), 0));
      return copy;
    };
    expect(await attempt(good.bytes, good.fds)).toBe('ready');
    expect(
      await attempt(
        change((h) => {
          h.cpus = 65;
        }),
        good.fds,
      ),
    ).toBe('cpus is 65, must be 1..64');
    expect(
      await attempt(
        change((h) => {
          h.devices = 2;
        }),
        good.fds,
      ),
    ).toMatch(/its tables need/);
    expect(
      await attempt(
        change((h) => {
          h.accel = 9;
        }),
        good.fds,
      ),
    ).toMatch(/accel is 9/);
    expect(
      await attempt(
        change((h) => {
          h.vmPageFd = 77;
        }),
        good.fds,
      ),
    ).toMatch(/descriptor 77/);
    expect(await attempt(good.bytes, good.fds.slice(1))).toMatch(/descriptors/);
    expect(await attempt(good.bytes.subarray(0, 100), good.fds)).toMatch(/100 bytes/);
    const twice = describeMachine({
      ...m.description,
      memories: [...m.description.memories, { gpa: 0x80000, size: 4096, fd: m.fds.ram, fdOffset: 0 }],
    });
    expect(await attempt(twice.bytes, twice.fds)).toBe('memory 0 overlaps memory 2');
    const swapped = [...good.fds];
    [swapped[0], swapped[1]] = [m.fds.kick, m.fds.kick];
    expect(await attempt(good.bytes, swapped)).toMatch(/memfd/);
  });

  test('random damage: rejected or working, never a crash', async () => {
    const m = new Machine({
      accel,
      rom: done,
      description: {
        functions: [{ bdf: 8, device: 'dev', region: 0 }],
        routes: [{ device: 'dev', entry: 0, kind: 'msi' }],
      },
    });
    onTestFinished(() => m.close());
    const good = describeMachine(m.description);
    const random = noise(12345);
    let ready = 0;
    for (let n = 0; n < 60; n++) {
      const copy = new Uint8Array(good.bytes);
      for (let k = 1 + (random() % 3); k > 0; k--) {
        // After magic and version, which reject everything.
        const at = 8 + (random() % (copy.length - 8));
        copy[at] = random() & 1 ? random() : copy[at]! ^ (1 << (random() & 7));
      }
      if ((await attempt(copy, good.fds)) === 'ready') ready++;
    }
    expect(ready).toBeGreaterThan(0);
    expect(ready).toBeLessThan(60);
  });
});

test('without a control socket it says so', async () => {
  const { spawnSync } = await import('node:child_process');
  const { program } = await import('./rig.ts');
  const r = spawnSync(program, [], { encoding: 'utf8' });
  expect([r.status, r.stderr]).toEqual([
    1,
    'nyx-vcpu is started by nyxd: descriptor 3 must be its control socket\n',
  ]);
  expect(wire.version).toBe(1);
});
