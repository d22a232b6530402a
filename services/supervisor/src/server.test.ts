import { spawn } from 'node:child_process';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ControlClient } from '@nyx/nyx/client';
import { execIn } from '@nyx/nyx/exec';
import { identify, writeJson } from '@nyx/nyx/rundir';
import { agentScript } from '@nyx/protocol';
import { decodeReply, type Status, sockets, type VmEvent } from '@nyx/protocol/control';
import { NyxError } from '@nyx/protocol/errors';
import { pack } from 'msgpackr';
import { afterAll, describe, expect, test } from 'vitest';
import { Dealer } from 'zeromq';
import { ExecChannel, serveExec } from './exec.ts';
import { ControlServer } from './server.ts';

const dir = mkdtempSync(join(tmpdir(), 'nyx-server-'));
const status: Status = {
  name: 'x',
  state: 'running',
  since: 1,
  pid: 2,
  vcpuPid: 3,
  accel: 'soft',
  cpus: 1,
  memory: 2 ** 29,
  guestNs: 5,
  resets: 0,
  agent: false,
  milestones: { a: 1 },
  vcpus: [],
  processes: [],
  faults: [],
};

describe('the control plane over its sockets', async () => {
  const server = new ControlServer(dir, {
    status: () => status,
    pause: () => Promise.reject(new NyxError('VM_STATE', { expected: 'running', got: 'paused' })),
    resume: () => ({}),
    reset: () => new Promise(() => {}),
    stop: async () => {
      await sleep(100);
      return { forced: false };
    },
    kill: ({ target }) => ({ process: target, pid: 7 }),
    upgrade: ({ target }) => ({ process: target, migrated: [], ns: 1 }),
    diskList: () => ({ disks: [] }),
    diskSwap: ({ name }) => ({ name, downNs: 1 }),
    diskSnapshot: ({ name }) => ({ name, downNs: 1 }),
    diskResize: ({ name, size }) => ({ name, downNs: 1, size }),
    diskCommit: ({ name }) => ({ name, downNs: 1 }),
    diskMirror: ({ name }) => ({ name, downNs: 1 }),
    cdList: () => ({ drives: [] }),
    cdEject: () => ({ name: 'cd0', ejected: true }),
    cdInsert: () => ({ name: 'cd0' }),
    checkpoint: () => ({ guestNs: 1, pauseNs: 1, copyNs: 1, bytes: 1 }),
    checkpointList: () => ({ rollbacks: 0, checkpoints: [] }),
    checkpointRemove: () => ({}),
    rollback: () => ({ guestNs: 1, ns: 1, lostNs: 1, bytes: 1 }),
    faultAdd: () => ({ ids: [1] }),
    faultRemove: () => ({ removed: 1 }),
    heal: ({ target }) => ({ process: target, healed: true }),
    history: () => ({ events: [] }),
    policyGet: () => ({ rules: [] }),
    policySet: () => ({}),
    policyReset: () => ({}),
    faultList: () => ({ rules: [], happened: [] }),
  });
  await server.open();
  const here = JSON.stringify([identify('nyxd', process.pid)]);
  writeFileSync(join(dir, 'pids.json'), here);
  const client = new ControlClient(dir);
  afterAll(async () => {
    client.close();
    await server.close();
  });

  test('answers, errors with their code, long requests beside short ones', async () => {
    const stop = client.request('stop', { timeout: 0 });
    expect(await client.request('status', {})).toEqual(status);
    expect(await client.request('kill', { target: 'disk0' })).toEqual({ process: 'disk0', pid: 7 });
    await expect(client.request('pause', {})).rejects.toMatchObject({
      code: 'VM_STATE',
      expected: 'running',
      got: 'paused',
    });
    expect(await stop).toEqual({ forced: false });
  });

  test('no answer is a timeout', async () => {
    await expect(client.request('reset', {}, 0.1)).rejects.toMatchObject({ code: 'SUPERVISOR_TIMEOUT' });
    await expect(client.request('reset', {}, 1)).rejects.toMatchObject({ code: 'SUPERVISOR_TIMEOUT' });
  });

  test('nobody waits for a machine that has ended', async () => {
    const waits = client.request('reset', {}, 600);
    writeFileSync(join(dir, 'pids.json'), '[]');
    await expect(waits).rejects.toMatchObject({ code: 'VM_STATE', got: 'it has ended' });
    writeJson(join(dir, 'result.json'), { state: 'failed', at: 1, error: { code: 'VCPU_DIED' } });
    await expect(client.request('reset', {}, 600)).rejects.toMatchObject({ code: 'VCPU_DIED' });
    writeFileSync(join(dir, 'pids.json'), here);
  });

  test('what cannot be understood is refused, and the next one served', async () => {
    const dealer = new Dealer({ linger: 0 });
    dealer.connect(`ipc://${join(dir, sockets.control)}`);
    const ask = async (frames: (Buffer | string)[]) => {
      await dealer.send(frames);
      return decodeReply((await dealer.receive()).at(-1) as Buffer);
    };
    expect(await ask([Buffer.from([0xc1, 0xff])])).toMatchObject({
      id: 0,
      error: { code: 'PROTOCOL_INVALID' },
    });
    expect(await ask([Buffer.alloc(0)])).toMatchObject({ error: { code: 'PROTOCOL_INVALID' } });
    expect(await ask([pack({ v: 99, id: 5, op: 'status', args: {} })])).toMatchObject({
      id: 5,
      error: { code: 'PROTOCOL_VERSION' },
    });
    expect(await ask([pack({ v: 1, id: 6, op: 'status', args: {} })])).toMatchObject({
      id: 6,
      result: { name: 'x' },
    });
    dealer.close();
  });

  test('events reach who listens', async () => {
    const sent: VmEvent = { type: 'death', at: 1, process: 'disk0', pid: 9, reason: 'exited 1' };
    // A subscriber needs a moment until it is known.
    const timer = setInterval(() => server.publish(sent), 20);
    for await (const e of client.events()) {
      expect(e).toEqual(sent);
      break;
    }
    clearInterval(timer);
  });
});

/** The guest's agent on a terminal of this host stands for the guest. */
describe('commands in the guest', () => {
  const file = join(dir, 'agent');
  writeFileSync(file, agentScript);
  const start = () => {
    const guest = spawn('script', ['-qec', `sh ${file} /dev/tty ${dir}`, '/dev/null'], {
      stdio: ['pipe', 'pipe', 'ignore'],
    });
    const channel = new ExecChannel(
      (b) => guest.stdin.write(b),
      () => {},
    );
    guest.stdout.on('data', (b: Buffer) => channel.feed(b, 0));
    return { guest, channel };
  };
  const { guest, channel } = start();
  const server = serveExec(join(dir, sockets.exec), channel);
  afterAll(() => {
    guest.kill();
    server.close();
  });

  test('output, status; side by side they take turns', async () => {
    const results = await Promise.all(
      ['echo one; exit 1', 'echo two >&2; exit 2', 'printf three'].map((c) => execIn(dir, c)),
    );
    expect(results.map((r) => [r.status, r.stdout.toString(), r.stderr.toString()])).toEqual([
      [1, 'one\n', ''],
      [2, '', 'two\n'],
      [0, 'three', ''],
    ]);
  });

  test('much output comes whole', async () => {
    const r = await execIn(dir, 'seq 1 50000');
    expect(r.stdout.toString()).toBe(Array.from({ length: 50_000 }, (_, i) => `${i + 1}\n`).join(''));
  });

  test('one that takes too long is given up; the next one waits for it', async () => {
    await expect(execIn(dir, 'sleep 0.5; echo late', { timeout: 0.1 })).rejects.toMatchObject({
      code: 'EXEC_TIMEOUT',
    });
    expect((await execIn(dir, 'echo next')).stdout.toString()).toBe('next\n');
  });

  test('too long a command, a guest without agent, a reset, lost bytes', async () => {
    await expect(execIn(dir, 'x'.repeat(20_000))).rejects.toMatchObject({ code: 'COMMAND_TOO_LONG' });
    const deaf = new ExecChannel(
      () => {},
      () => {},
    );
    const outcome = (c: ExecChannel, timeout: number) =>
      new Promise<NyxError>((resolve) =>
        c.run('true', timeout, { stdout() {}, stderr() {}, end() {}, error: resolve }),
      );
    expect((await outcome(deaf, 0.05)).code).toBe('EXEC_NO_AGENT');
    deaf.feed(Buffer.from('\x1eNYX-RE'), 0);
    const first = outcome(deaf, 5);
    deaf.feed(Buffer.from('ADY\n'), 0);
    deaf.reset('the machine was reset');
    expect((await first).code).toBe('EXEC_LOST');
    deaf.feed(Buffer.from('\x1eNYX-READY\n'), 0);
    const second = outcome(deaf, 5);
    deaf.feed(Buffer.from('x'), 100);
    expect((await second).code).toBe('EXEC_LOST');
  });
});
