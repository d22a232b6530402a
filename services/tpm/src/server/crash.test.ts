/** The socket server killed at random moments: what it confirmed is there, and the clocks and counts of part 1, 36 and 37, hold. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, expect, test } from 'vitest';
import { MemoryStore, type Store } from '../core/store.ts';
import type { CommandName, In, Out } from '../spec/commands.ts';
import { ALG, CAP, LIMIT, NT, NVA, OA, RC, RC_S, RH, SU } from '../spec/constants.ts';
import { bundle } from '../testing/bundle.ts';
import { commandBytes, parseResponse, rcOf, templates } from '../testing/client.ts';
import { seeded } from '../testing/wrong.ts';
import { TpmHost } from './host.ts';

const program = bundle();
const dir = mkdtempSync(join(tmpdir(), 'tpm-crash-'));
const children: ChildProcess[] = [];
afterAll(() => {
  for (const c of children) c.kill('SIGKILL');
  rmSync(dir, { recursive: true, force: true });
  rmSync(program.folder, { recursive: true, force: true });
});

const none = Buffer.alloc(0);

/** One life of the server, and a connection to it. */
class Life {
  readonly child: ChildProcess;
  said = '';
  private socket!: Socket;
  private got = Buffer.alloc(0);
  private answer: ((b: Buffer | undefined) => void) | undefined;
  private readonly path: string;
  constructor(state: string, ...more: string[]) {
    mkdirSync(state, { recursive: true });
    this.path = join(state, 'data');
    for (const socket of [this.path, `${this.path}.ctrl`]) rmSync(socket, { force: true });
    const args = [program.file, 'serve', '--state', state, '--swtpm', this.path, '--not-need-init', ...more];
    this.child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    children.push(this.child);
    for (const out of [this.child.stdout!, this.child.stderr!]) out.on('data', (b) => (this.said += b));
  }
  async start(): Promise<this> {
    while (!this.said.includes('serving')) {
      if (this.child.exitCode !== null) throw new Error(this.said);
      await sleep(10);
    }
    this.socket = connect(this.path);
    this.socket.on('error', () => {});
    this.socket.on('close', () => this.answer?.(undefined));
    this.socket.on('data', (b: Buffer) => {
      this.got = Buffer.concat([this.got, b]);
      if (this.got.length < 10 || this.got.length < this.got.readUInt32BE(2)) return;
      const response = this.got;
      this.got = Buffer.alloc(0);
      this.answer?.(response);
    });
    return this;
  }
  /** Undefined: killed before it answered. */
  send(bytes: Buffer): Promise<Buffer | undefined> {
    return new Promise((resolve) => {
      this.answer = resolve;
      if (this.socket.destroyed) resolve(undefined);
      else this.socket.write(bytes);
    });
  }
  async rc<N extends CommandName>(
    name: N,
    input: In<N>,
    ...passwords: string[]
  ): Promise<number | undefined> {
    const response = await this.send(commandBytes(name, input, ...passwords));
    return response && rcOf(response);
  }
  async ok<N extends CommandName>(name: N, input: In<N>, ...passwords: string[]): Promise<Out<N>> {
    const response = await this.send(commandBytes(name, input, ...passwords));
    if (!response || rcOf(response) !== 0)
      throw new Error(`${name}: ${response?.toString('hex')} ${this.said}`);
    return parseResponse(name, response);
  }
  async property(property: number): Promise<number> {
    const input = { capability: CAP.TPM_PROPERTIES, property, propertyCount: 1 };
    const list = (await this.ok('GetCapability', input)).capabilityData.data.list as { value: number }[];
    return list[0]!.value;
  }
  ended(): Promise<unknown> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return Promise.resolve();
    return new Promise((done) => this.child.once('exit', done));
  }
}

const counter = 0x01500001;
const increment = commandBytes('NV_Increment', { authHandle: RH.OWNER, nvIndex: counter });
const [lockoutCounter, orderlyBit] = [0x20e, 0x80000000];
const clockOf = async (life: Life) => (await life.ok('ReadClock', {})).currentTime.clockInfo;

test('killed at random moments: counter, lockout, clock and counts', async () => {
  const rand = seeded(Number(process.env.NYX_SEED ?? 3));
  const state = join(dir, 'lives');
  let life = await new Life(state).start();
  await life.ok('Startup', { startupType: SU.CLEAR });
  await life.ok('NV_DefineSpace', {
    authHandle: RH.OWNER,
    auth: none,
    publicInfo: {
      nvIndex: counter,
      nameAlg: ALG.SHA256,
      attributes: NVA.OWNERREAD | NVA.OWNERWRITE | NVA.NO_DA | (NT.COUNTER << 4),
      authPolicy: none,
      dataSize: 8,
    },
  });
  // A key that counts for lockout, with more tries than this test makes in a life.
  await life.ok('DictionaryAttackParameters', {
    lockHandle: RH.LOCKOUT,
    newMaxTries: 8,
    newRecoveryTime: 100_000,
    lockoutRecovery: 1000,
  });
  const made = await life.ok('CreatePrimary', {
    primaryHandle: RH.OWNER,
    inSensitive: { userAuth: Buffer.from('right'), data: none },
    inPublic: { ...templates.signer, objectAttributes: templates.signer.objectAttributes & ~OA.noDA },
    outsideInfo: none,
    creationPCR: [],
  });
  const keyHandle = 0x81000001;
  await life.ok('EvictControl', { auth: RH.OWNER, objectHandle: made.handle, persistentHandle: keyHandle });
  const sign = (password: string) =>
    commandBytes(
      'Sign',
      {
        keyHandle,
        digest: Buffer.alloc(32),
        inScheme: { scheme: ALG.ECDSA, hashAlg: ALG.SHA256, count: 0, kdf: ALG.NULL },
        validation: { tag: 0x8024, hierarchy: RH.NULL, digest: none },
      },
      password,
    );
  let count = 0;
  let tries = 0;
  let clock = await clockOf(life);
  for (let n = 0; n < 12; n++) {
    // After so many commands: while the next one is on its way, carried out, or answered.
    const last = 5 + rand(60);
    for (let i = 0; ; i++) {
      if (i === last) setTimeout(() => life.child.kill('SIGKILL'), rand(4));
      const wrong = i % 7 === 6 && rand(4) === 0;
      const response = await life.send(
        i % 5 === 4 ? commandBytes('ReadClock', {}) : wrong ? sign('wrong') : increment,
      );
      if (!response) break;
      if (i % 5 === 4) clock = parseResponse('ReadClock', response).currentTime.clockInfo;
      else if (wrong) {
        const expected = tries >= 8 ? RC.LOCKOUT : RC.AUTH_FAIL + RC_S + 0x100;
        expect(rcOf(response)).toBe(expected);
        if (tries < 8) tries++;
      } else {
        expect(rcOf(response)).toBe(RC.SUCCESS);
        count++;
      }
    }
    await life.ended();
    life = await new Life(state).start();
    // Nothing was said of the end: an orderly state is not there, and the clock may have lost what was not written.
    expect(await life.rc('Startup', { startupType: SU.STATE })).toBe(RC.VALUE + 0x40 + 0x100);
    await life.ok('Startup', { startupType: SU.CLEAR });
    expect((await life.property(0x201)) & orderlyBit).toBe(0);
    const now = await clockOf(life);
    expect(now.resetCount).toBe(clock.resetCount + 1);
    expect([now.restartCount, now.safe]).toEqual([0, 0]);
    expect(now.clock).toBeGreaterThanOrEqual(clock.clock - BigInt(LIMIT.clockUpdateMs));
    clock = now;
    const data = (await life.ok('NV_Read', { authHandle: RH.OWNER, nvIndex: counter, size: 8, offset: 0 }))
      .data;
    // The one under way when it was killed may have been done.
    expect([count, count + 1]).toContain(Number(data.readBigUInt64BE(0)));
    count = Number(data.readBigUInt64BE(0));
    const failed = await life.property(lockoutCounter);
    expect([tries, tries + 1]).toContain(failed);
    tries = failed;
  }
  // Three of five commands, and more, were increments.
  expect(count).toBeGreaterThan(12 * 3);

  // Locked, killed, still locked: the right password does not help.
  while (tries < 8) {
    await life.send(sign('wrong'));
    tries = await life.property(lockoutCounter);
  }
  life.child.kill('SIGKILL');
  await life.ended();
  life = await new Life(state).start();
  await life.ok('Startup', { startupType: SU.CLEAR });
  expect(rcOf((await life.send(sign('right')))!)).toBe(RC.LOCKOUT);
  await life.ok('DictionaryAttackLockReset', { lockHandle: RH.LOCKOUT });
  expect(rcOf((await life.send(sign('right')))!)).toBe(RC.SUCCESS);

  // An orderly end: the clock is safe and goes on, a Restart and a Resume are counted.
  const before = await clockOf(life);
  for (const [type, restarts] of [
    [SU.CLEAR, 1],
    [SU.STATE, 2],
  ] as const) {
    life.child.kill('SIGTERM');
    await life.ended();
    life = await new Life(state).start();
    await life.ok('Startup', { startupType: type });
    const now = await clockOf(life);
    expect([now.resetCount, now.restartCount]).toEqual([before.resetCount, restarts]);
    expect(now.clock).toBeGreaterThanOrEqual(before.clock);
    expect((await life.property(0x201)) & orderlyBit).not.toBe(0);
  }
  life.child.kill('SIGKILL');
  await life.ended();
}, 300_000);

/** What must not be seen: passwords, sealed data, the keys of the state. */
const secrets = ['correct horse battery', 'the sealed secret of this test'];
async function useSecrets(send: (bytes: Buffer) => Promise<Buffer | undefined>): Promise<void> {
  const auth = Buffer.from(secrets[0]!);
  await send(commandBytes('Startup', { startupType: SU.CLEAR }));
  await send(commandBytes('HierarchyChangeAuth', { authHandle: RH.OWNER, newAuth: auth }));
  const inPublic = {
    ...templates.signer,
    type: ALG.KEYEDHASH,
    objectAttributes: OA.fixedTPM | OA.fixedParent | OA.userWithAuth,
    unique: { x: none, y: none },
  };
  const inSensitive = { userAuth: auth, data: Buffer.from(secrets[1]!) };
  const input = { primaryHandle: RH.OWNER, inSensitive, inPublic, outsideInfo: none, creationPCR: [] };
  const response = await send(commandBytes('CreatePrimary', input, secrets[0]!));
  expect(rcOf(response!)).toBe(RC.SUCCESS);
  const evict = { auth: RH.OWNER, objectHandle: 0x80000000, persistentHandle: 0x81000001 };
  expect(rcOf((await send(commandBytes('EvictControl', evict, secrets[0]!)))!)).toBe(RC.SUCCESS);
}
const forms = (secret: Buffer) =>
  [secret, ...(['hex', 'base64'] as const).map((f) => Buffer.from(secret.toString(f)))].map((b) =>
    b.toString('latin1'),
  );
function expectNone(text: string, all: Buffer[]): void {
  for (const secret of all) for (const form of forms(secret)) expect(text.includes(form), form).toBe(false);
}

test('secrets are not in what a server says, nor in its files, nor in core dumps', async () => {
  const state = join(dir, 'secrets');
  const key = Buffer.alloc(32, 'k');
  writeFileSync(join(dir, 'key'), key);
  const life = await new Life(state, '--key', join(dir, 'key')).start();
  await useSecrets((bytes) => life.send(bytes));
  expect(readFileSync(`/proc/${life.child.pid}/limits`, 'latin1')).toMatch(/Max core file size +0 +0 /);
  life.child.kill('SIGABRT');
  await life.ended();
  const files = readdirSync(state, { withFileTypes: true }).filter((f) => f.isFile());
  expect(files.map((f) => f.name)).toEqual(['tpm.state']);
  const text = files.map((f) => readFileSync(join(state, f.name), 'latin1')).join() + life.said;
  expectNone(text, [...secrets.map((s) => Buffer.from(s)), key]);
  // The same without a key: then they are there, and this test would see them.
  const open = join(dir, 'open');
  const other = await new Life(open).start();
  await useSecrets((bytes) => other.send(bytes));
  other.child.kill('SIGKILL');
  await other.ended();
  expect(readFileSync(join(open, 'tpm.state'), 'latin1')).toContain(secrets[1]);
}, 60_000);

test('failure mode tells what broke, and no secret', async () => {
  const inner = new MemoryStore();
  let broken = false;
  const store: Store = {
    load: () => inner.load(),
    commit(changes) {
      if (broken) throw new Error('the disk is full');
      inner.commit(changes);
    },
  };
  let said = '';
  const host = new TpmHost({
    store,
    onFailure: (e) => (said += e instanceof Error ? `${e.stack} ${JSON.stringify(e)}` : e),
  });
  host.powerOn();
  await useSecrets((bytes) => Promise.resolve(host.command(bytes, 0)));
  broken = true;
  const change = { authHandle: RH.OWNER, newAuth: Buffer.from(secrets[1]!) };
  expect(rcOf(host.command(commandBytes('HierarchyChangeAuth', change, secrets[0]!), 0)!)).toBe(RC.FAILURE);
  expect(host.tpm!.failed).toBe(true);
  expect(said).toMatch(/the disk is full/);
  const { eps, ehProof } = host.tpm!.persistent;
  expectNone(said, [...secrets.map((s) => Buffer.from(s)), eps, ehProof]);
});
