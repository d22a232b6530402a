import { spawn } from 'node:child_process';
import { appendFileSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buildSync } from 'esbuild';
import { afterEach, expect, test } from 'vitest';
import { NT, NVA, RH } from '../spec/constants.ts';
import { Client, commandBytes, rcOf } from '../testing/client.ts';
import { FileStore } from './file.ts';

const dirs: string[] = [];
const newDir = () => {
  const d = mkdtempSync(join(tmpdir(), 'tpm-store-'));
  dirs.push(d);
  return d;
};
afterEach(() => {
  for (const d of dirs.splice(0)) rmSync(d, { recursive: true, force: true });
});

const none = Buffer.alloc(0);
const counter = {
  nvIndex: 0x01500001,
  nameAlg: 0xb,
  attributes: NVA.OWNERREAD | NVA.OWNERWRITE | NVA.NO_DA | (NT.COUNTER << 4),
  authPolicy: none,
  dataSize: 8,
};
const increment = commandBytes('NV_Increment', { authHandle: RH.OWNER, nvIndex: counter.nvIndex });

test('a journal cut at any octet is the state after some commit', () => {
  const dir = newDir();
  const path = join(dir, 'tpm.journal');
  const store = FileStore.open(dir);
  const sizes = [readFileSync(path).length];
  for (let i = 0; i < 5; i++) {
    store.commit(
      new Map([
        ['a', Buffer.from([i])],
        ['b', i % 2 ? undefined : Buffer.from([i])],
      ]),
    );
    sizes.push(readFileSync(path).length);
  }
  store.close();
  const whole = readFileSync(path);
  for (let n = whole.length; n >= 0; n--) {
    writeFileSync(path, whole);
    truncateSync(path, n);
    const s = FileStore.open(dir);
    const commits = sizes.filter((size) => size <= n).length - 1;
    const records = s.load();
    expect(records.get('a')?.[0]).toBe(commits > 0 ? commits - 1 : undefined);
    expect(records.has('b')).toBe(commits > 0 && (commits - 1) % 2 === 0);
    s.close();
  }
  // What is torn in the middle is not taken, nor is garbage after the end.
  writeFileSync(path, whole);
  appendFileSync(path, Buffer.alloc(100, 7));
  const s = FileStore.open(dir);
  expect(s.load().get('a')?.[0]).toBe(4);
  s.close();
  writeFileSync(path, 'something else altogether');
  expect(() => FileStore.open(dir)).toThrow(/not the state of a TPM/);
});

test('it is rewritten when it has grown, and says the same', () => {
  const dir = newDir();
  const store = FileStore.open(dir);
  for (let i = 0; i < 60; i++) store.commit(new Map([[`k${i % 3}`, Buffer.alloc(40_000, i)]]));
  store.close();
  expect(readFileSync(join(dir, 'tpm.journal')).length).toBeLessThan(1.2e6);
  const again = FileStore.open(dir);
  expect([...again.load()].map(([k, v]) => [k, v[0], v.length])).toEqual([
    ['k0', 57, 40_000],
    ['k1', 58, 40_000],
    ['k2', 59, 40_000],
  ]);
  again.close();
});

test('persistent things are there after the power went; PCRs come back from Shutdown(STATE) only', () => {
  const dir = newDir();
  const first = new Client({ store: FileStore.open(dir) }).startup();
  first.ok('NV_DefineSpace', { authHandle: RH.OWNER, auth: none, publicInfo: counter });
  expect(rcOf(first.raw(increment))).toBe(0);
  const sha256 = (digest: Buffer) => [{ hashAlg: 0xb, digest }];
  const pcr1 = [{ hash: 0xb, pcrSelect: Buffer.from([2, 0, 0]) }];
  first.ok('PCR_Extend', { pcrHandle: 1, digests: sha256(Buffer.alloc(32, 1)) });
  const value = first.ok('PCR_Read', { pcrSelectionIn: pcr1 }).pcrValues[0];
  first.ok('Shutdown', { shutdownType: 1 });

  const second = new Client({ store: FileStore.open(dir) }).startup(1);
  expect(second.ok('PCR_Read', { pcrSelectionIn: pcr1 }).pcrValues[0]).toEqual(value);
  const read = { authHandle: RH.OWNER, nvIndex: counter.nvIndex, size: 8, offset: 0 };
  expect(second.ok('NV_Read', read).data.readBigUInt64BE(0)).toBe(1n);

  const third = new Client({ store: FileStore.open(dir) });
  expect(third.rc('Startup', { startupType: 1 })).toBe(0x1c4);
  third.startup();
  expect(third.ok('PCR_Read', { pcrSelectionIn: pcr1 }).pcrValues[0]).toEqual(Buffer.alloc(32));
});

test('kill -9 while a counter runs: every count that was confirmed is there', async () => {
  const dir = newDir();
  const socketPath = join(dir, 'data');
  const main = join(dir, 'tpm.cjs');
  const entry = join(import.meta.dirname, '../main.ts');
  buildSync({
    entryPoints: [entry],
    outfile: main,
    bundle: true,
    platform: 'node',
    format: 'cjs',
    target: 'node20',
  });
  let confirmed = 0;
  for (let life = 0; life < 4; life++) {
    rmSync(socketPath, { force: true });
    rmSync(`${socketPath}.ctrl`, { force: true });
    const args = [main, 'serve', '--state', dir, '--swtpm', socketPath, '--not-need-init'];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    await new Promise<void>((resolve) => child.stdout.once('data', () => resolve()));
    const socket = connect(socketPath);
    let answer: ((b: Buffer | undefined) => void) | undefined;
    socket.on('data', (b: Buffer) => answer?.(b));
    socket.on('close', () => answer?.(undefined));
    socket.on('error', () => {});
    const send = (bytes: Buffer) =>
      new Promise<Buffer | undefined>((resolve) => {
        answer = resolve;
        socket.write(bytes);
      });
    await send(commandBytes('Startup', { startupType: 0 }));
    if (life === 0) {
      await send(commandBytes('NV_DefineSpace', { authHandle: RH.OWNER, auth: none, publicInfo: counter }));
    } else {
      const read = { authHandle: RH.OWNER, nvIndex: counter.nvIndex, size: 8, offset: 0 };
      const response = await send(commandBytes('NV_Read', read));
      const count = Number(response!.readBigUInt64BE(16));
      // The one under way when it was killed may have been done.
      expect([confirmed, confirmed + 1]).toContain(count);
      confirmed = count;
    }
    const end = confirmed + 20 + 13 * life;
    for (;;) {
      const sent = send(increment);
      if (confirmed === end) child.kill('SIGKILL');
      const response = await sent;
      if (!response) break;
      expect(rcOf(response)).toBe(0);
      confirmed++;
    }
    socket.destroy();
  }
  expect(confirmed).toBeGreaterThan(100);
});
