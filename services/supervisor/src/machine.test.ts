import {
  chmodSync,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { VmEvent } from '@nyx/protocol/control';
import type { NyxError } from '@nyx/protocol/errors';
import { parseSpec, type VmSpecInput } from '@nyx/protocol/spec';
import { afterEach, describe, expect, test } from 'vitest';
import { Machine } from './machine.ts';
import { Spares } from './spares.ts';

const dir = mkdtempSync(join(tmpdir(), 'nyx-machine-'));
const double = fileURLToPath(new URL('testing/double.cjs', import.meta.url));
const behaviours = [
  'good',
  'silent',
  'crash',
  'refuse',
  'garbage',
  'hang',
  'loop',
  'vcpu',
  'vcpu-reject',
  'vcpu-dies',
  'vcpu-shutdown',
  'vcpu-error',
  'vcpu-emulation',
  'vcpu-entry',
  'vcpu-exit',
  'vcpu-violation',
  'stumble',
];
for (const b of behaviours) symlinkSync(double, join(dir, `${b}.cjs`));
// nyx-vcpu is a program of its own.
for (const b of behaviours.filter((x) => x.startsWith('vcpu'))) {
  writeFileSync(
    join(dir, b),
    `#!/bin/sh\nexec ${process.execPath} --preserve-symlinks-main ${join(dir, `${b}.cjs`)}\n`,
  );
  chmodSync(join(dir, b), 0o755);
}
writeFileSync(join(dir, 'bios'), Buffer.alloc(0x10000));

interface Rig {
  machine: Machine;
  events: VmEvent[];
  ended: Promise<{ state: string; error: NyxError | undefined }>;
  pids: Map<string, number>;
  until(f: (e: VmEvent) => boolean): Promise<VmEvent>;
  dir: string;
}
const rigs: Rig[] = [];
afterEach(async () => {
  for (const r of rigs.splice(0)) await r.machine.stop(0);
});

const rig = (device: string, vcpu = 'vcpu', spec: VmSpecInput = {}): Rig => {
  const run = mkdtempSync(join(dir, 'run-'));
  const events: VmEvent[] = [];
  const waiting: { f(e: VmEvent): boolean; resolve(e: VmEvent): void }[] = [];
  const pids = new Map<string, number>();
  let end: (r: { state: string; error: NyxError | undefined }) => void;
  const ended = new Promise<{ state: string; error: NyxError | undefined }>((resolve) => {
    end = resolve;
  });
  const log = openSync(join(run, 'log'), 'a');
  const machine = new Machine({
    name: 'test',
    dir: run,
    spec: parseSpec({ bios: join(dir, 'bios'), memory: '16M', ...spec }),
    spares: new Spares({
      log,
      bundle: () => join(dir, `${device}.cjs`),
      nodeOptions: ['--preserve-symlinks-main'],
      jail: false,
    }),
    vcpuProgram: join(dir, vcpu),
    vcpuLog: log,
    consoleLog: join(run, 'console.log'),
    log: () => {},
    onEvent: (e) => {
      events.push(e);
      for (const w of [...waiting]) if (w.f(e)) w.resolve(e);
    },
    onPids: (list) => {
      for (const p of list) pids.set(p.role, p.pid);
    },
    onEnd: (state, error) => end({ state, error }),
  });
  const until = (f: (e: VmEvent) => boolean): Promise<VmEvent> => {
    const seen = events.find(f);
    return seen ? Promise.resolve(seen) : new Promise((resolve) => waiting.push({ f, resolve }));
  };
  const r = { machine, events, ended, pids, until, dir: run };
  rigs.push(r);
  return r;
};

const quick = { startTimeout: 0.5, hangTimeout: 0.6, backoff: 0.01, maxBackoff: 0.02 };

describe('a machine', () => {
  test('starts, pauses, goes on, is reset, stops', async () => {
    const { machine, events, ended, pids } = rig('good');
    await machine.start();
    expect(machine.state).toBe('running');
    await expect(machine.resume()).rejects.toMatchObject({ code: 'VM_STATE' });
    await machine.pause();
    await machine.resume();
    await machine.reset();
    expect(machine.status()).toMatchObject({ state: 'running', resets: 1, memory: 16 * 2 ** 20 });
    expect(await machine.stop(0)).toBe(true);
    expect((await ended).state).toBe('stopped');
    expect(events.flatMap((e) => (e.type === 'state' ? [e.to] : []))).toEqual([
      'starting',
      'running',
      'paused',
      'running',
      'resetting',
      'running',
      'stopping',
      'stopped',
    ]);
    // Nobody is left behind.
    for (const pid of pids.values())
      await expect.poll(() => existsSync(`/proc/${pid}/fd`), { timeout: 20_000 }).toBe(false);
  });

  test('a killed device process is replaced, with the same role', async () => {
    const { machine, until, pids } = rig('good');
    await machine.start();
    const before = pids.get('platform');
    const { process: name, pid } = machine.kill('com1');
    expect([name, pid]).toEqual(['platform', before]);
    const e = await until((x) => x.type === 'recovered');
    expect(e).toMatchObject({ recovery: { process: 'platform', reason: 'killed by SIGKILL', restarts: 1 } });
    expect(machine.status().processes[0]).toMatchObject({ state: 'serving', restarts: 1 });
    expect(pids.get('platform')).not.toBe(before);
    expect(() => machine.kill('floppy')).toThrowError(expect.objectContaining({ code: 'DEVICE_UNKNOWN' }));
  });

  test('one that the host could not give memory is another kind of fault, and replaced too', async () => {
    const { machine, until, pids } = rig('good');
    await machine.start();
    process.kill(pids.get('platform')!, 'SIGBUS');
    await until((x) => x.type === 'recovered');
    expect(await until((x) => x.type === 'fault')).toMatchObject({
      kind: 'memoryFault',
      source: 'platform',
      strategy: 'restart',
      data: { what: 'killed by SIGBUS' },
    });
  });

  test('one that breaks the protocol is killed; what it broke has a name', async () => {
    const { machine, until, events } = rig('good', 'vcpu-violation');
    await machine.start();
    await until((x) => x.type === 'fault' && x.kind === 'ringCorruption');
    expect(events.flatMap((e) => (e.type === 'fault' ? [[e.kind, e.source, e.data.what]] : []))).toEqual([
      ['protocolViolation', 'platform', 'a reply has a status that does not exist'],
      ['ringCorruption', 'platform', expect.stringContaining('tail of an exit ring')],
    ]);
  });

  test('a successor that does not come to serve is followed by another', async () => {
    const { machine, until, events } = rig('stumble', 'vcpu', { recovery: { ...quick, standby: false } });
    await machine.start();
    await until((x) => x.type === 'recovered');
    expect(events.flatMap((e) => (e.type === 'fault' ? [e.kind] : []))).toEqual([
      'deviceCrash',
      'deviceStart',
    ]);
    expect(machine.status().processes[0]).toMatchObject({ state: 'serving', restarts: 2 });
  });

  test('one that hangs is killed and replaced', async () => {
    const { machine, until } = rig('hang', 'vcpu', { recovery: { ...quick, startTimeout: 10 } });
    await machine.start();
    const e = await until((x) => x.type === 'recovered');
    expect(e).toMatchObject({ recovery: { reason: 'hangs: no heartbeat' } });
  });

  test('one that keeps dying is isolated; the machine runs on; a reset gives another chance', async () => {
    const { machine, until } = rig('loop', 'vcpu', { recovery: { ...quick, startTimeout: 10, budget: 4 } });
    await machine.start();
    const e = await until((x) => x.type === 'isolated');
    expect(e).toMatchObject({ process: 'platform', error: { code: 'DEVICE_CRASH_LOOP' } });
    expect(machine.state).toBe('running');
    expect(machine.status().processes[0]).toMatchObject({ state: 'isolated', restarts: 4 });
    await machine.reset();
    await until((x) => x.type === 'recovered' && x.recovery.reason === 'reset');
  });

  test.each([
    ['silent', 'DEVICE_SILENT', /within 0.5 s/],
    ['crash', 'DEVICE_FAILED', /exited 3/],
    ['refuse', 'DEVICE_FAILED', /CONFIG_INVALID: no such model/],
    ['garbage', 'DEVICE_FAILED', /killed by SIGKILL/],
  ])('a device process that is %s from the start: %s', async (behaviour, code, text) => {
    const { machine, ended } = rig(behaviour, 'vcpu', { recovery: quick });
    await machine.start();
    const { state, error } = await ended;
    expect([state, error?.code]).toEqual(['failed', code]);
    expect(`${error?.expected} ${error?.got}`).toMatch(text);
  });

  test.each([
    ['vcpu-reject', 'VCPU_REJECTED', /devices overlap/, undefined],
    ['vcpu-dies', 'VCPU_DIED', /exited 9/, 'vcpuCrash'],
    ['vcpu-error', 'VCPU_ERROR', /0f ff/, 'engineFailure'],
    ['vcpu-emulation', 'VCPU_ERROR', /0f ff/, 'emulationFailure'],
    ['vcpu-entry', 'VCPU_ERROR', /0f ff/, 'entryFailure'],
    ['vcpu-exit', 'VCPU_ERROR', /0f ff/, 'unhandledExit'],
  ])('%s: %s', async (vcpu, code, text, fault) => {
    const { machine, ended, events } = rig('good', vcpu);
    await machine.start();
    const { error } = await ended;
    const kind = events.flatMap((e) => (e.type === 'fault' ? [e.kind] : [])).at(-1);
    expect(kind).toBe(fault);
    expect(error?.code).toBe(code);
    expect(error?.got).toMatch(text);
  });

  test('a guest that powers off ends the machine', async () => {
    const { machine, ended } = rig('good', 'vcpu-shutdown');
    await machine.start();
    expect(await ended).toEqual({ state: 'stopped', error: undefined });
  });

  test('the console carries bytes both ways, and keeps them', async () => {
    const { machine, dir: run } = rig('good');
    await machine.start();
    const socket = connect(join(run, 'console.sock'));
    // Longer than the input ring.
    const sent = Buffer.from(Array.from({ length: 10_000 }, (_, i) => i & 255));
    const got: Buffer[] = [];
    const all = new Promise<void>((resolve) => {
      socket.on('data', (b) => {
        got.push(b);
        if (Buffer.concat(got).length >= sent.length) resolve();
      });
    });
    socket.write(sent);
    await all;
    expect(Buffer.concat(got).equals(sent)).toBe(true);
    socket.destroy();
    await machine.stop(0);
    expect(readFileSync(join(run, 'console.log')).equals(sent)).toBe(true);
  });
});
