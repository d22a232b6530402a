import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { afterEach, describe, expect, test } from 'vitest';
import { NT, NVA, RH } from '../spec/constants.ts';
import { Client, commandBytes, rcOf } from '../testing/client.ts';
import { FileStore, readKeyFile } from './file.ts';

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

const keys = { plain: undefined, 'with a key': Buffer.alloc(32, 3) };
const records = (store: FileStore) =>
  Object.fromEntries([...store.load()].map(([k, v]) => [k, v.toString('hex')]).sort());

describe.each(Object.entries(keys))('%s', (_, key) => {
  const options = { areaBytes: 1024, ...(key && { key }) };

  test('a commit cut at any octet is there whole or not at all', () => {
    const dir = newDir();
    const path = join(dir, 'tpm.state');
    let store = FileStore.open(dir, options);
    let before = readFileSync(path);
    let old = records(store);
    let rewrites = 0;
    for (let i = 0; i < 60; i++) {
      const run = Buffer.alloc(20, i);
      if (i % 3) store.commit(new Map([['run', run]]), false);
      else {
        const b = i % 2 ? undefined : Buffer.alloc(200, i);
        store.commit(
          new Map([
            ['run', run],
            ['a', Buffer.from([i])],
            ['b', b],
          ]),
        );
      }
      const after = readFileSync(path);
      const now = records(store);
      // What was written, in the order in which it was: a header comes last.
      const length = Math.max(before.length, after.length);
      const at = (x: Buffer, n: number) => (n < x.length ? x[n]! : 0);
      const octets = Array.from({ length }, (_x, n) => n).filter((n) => at(before, n) !== at(after, n));
      const order = [...octets.filter((n) => n >= 8192), ...octets.filter((n) => n < 8192)];
      if (octets.some((n) => n < 8192)) rewrites++;
      const torn = Buffer.alloc(length);
      store.close();
      before.copy(torn);
      for (let n = 0; n < order.length; n++) {
        if (n % 23 === i % 23 || n > order.length - 12) {
          writeFileSync(path, torn);
          const s = FileStore.open(dir, options);
          expect([old, now], `commit ${i} cut after ${n} octets`).toContainEqual(records(s));
          s.close();
        }
        torn[order[n]!] = after[order[n]!]!;
      }
      writeFileSync(path, after);
      const s = FileStore.open(dir, options);
      expect(records(s)).toEqual(now);
      store = s;
      before = after;
      old = now;
    }
    store.close();
    expect(rewrites).toBeGreaterThan(2);
  });

  test('killed while it is made, it is made', () => {
    const dir = newDir();
    const path = join(dir, 'tpm.state');
    FileStore.open(dir, options).close();
    const whole = readFileSync(path);
    for (let n = 0; n < 8192; n += n < 200 ? 1 : 501) {
      // Header 1 is written first.
      const torn = Buffer.alloc(8192);
      whole.copy(torn, 4096, 4096, 4096 + Math.min(n, 4096));
      if (n > 4096) whole.copy(torn, 0, 0, n - 4096);
      writeFileSync(path, Buffer.concat([torn, whole.subarray(8192)]));
      const s = FileStore.open(dir, options);
      s.commit(new Map([['a', Buffer.of(1)]]));
      s.close();
      const again = FileStore.open(dir, options);
      expect(records(again)).toEqual({ a: '01' });
      again.close();
    }
  });

  test('damage in the middle is an error, not an older state', () => {
    const dir = newDir();
    const path = join(dir, 'tpm.state');
    const store = FileStore.open(dir, { ...options, areaBytes: 65536 });
    for (let i = 0; i < 9; i++) store.commit(new Map([['a', Buffer.alloc(40, i)]]));
    store.close();
    const whole = readFileSync(path);
    // Into the data of a frame in the middle.
    // Area 1 is the one in use; it begins behind headers, run slots and area 0.
    const area = 8192 + 2 * 65536 + 65536;
    const at = area + Math.floor((whole.length - area) / 2);
    const bad = Buffer.from(whole);
    bad[at]! ^= 1;
    writeFileSync(path, bad);
    expect(() => FileStore.open(dir, options)).toThrow(
      expect.objectContaining({ code: 'TPM_STATE_CORRUPT' }),
    );
  });
});

test('keys: a wrong one, none, one too many, a bad file; what is forged', () => {
  const dir = newDir();
  const path = join(dir, 'tpm.state');
  const key = Buffer.alloc(32, 3);
  const store = FileStore.open(dir, { key });
  store.commit(new Map([['a', Buffer.from('a secret that nobody may read')]]));
  store.close();
  const codes = (code: string) => expect.objectContaining({ code });
  expect(readFileSync(path).includes('a secret')).toBe(false);
  expect(() => FileStore.open(dir)).toThrow(codes('TPM_STATE_KEY'));
  expect(() => FileStore.open(dir, { key: Buffer.alloc(32, 4) })).toThrow(/another key/);
  expect(() => FileStore.open(dir, { key: Buffer.alloc(5) })).toThrow(codes('TPM_STATE_KEY'));
  const plain = newDir();
  FileStore.open(plain).close();
  expect(() => FileStore.open(plain, { key })).toThrow(/not encrypted/);
  const keyFile = join(dir, 'key');
  writeFileSync(keyFile, `${key.toString('hex')}\n`);
  expect(readKeyFile(keyFile)).toEqual(key);
  writeFileSync(keyFile, 'short');
  expect(() => readKeyFile(keyFile)).toThrow(codes('TPM_STATE_KEY'));
  expect(() => readKeyFile(join(dir, 'absent'))).toThrow(codes('TPM_STATE_KEY'));
  // Octets changed and the checksum made right again.
  const bad = readFileSync(path);
  const frame = 8192 + 2 * 65536 + (1 << 20);
  const last = frame + 24 + bad.readUInt32BE(frame);
  const end = last + 24 + bad.readUInt32BE(last);
  bad[end - 1]! ^= 1;
  bad.writeUInt32BE(crc32(bad.subarray(last + 8, end)), last + 4);
  writeFileSync(path, bad);
  expect(() => FileStore.open(dir, { key })).toThrow(/without the key/);
  writeFileSync(path, 'something else altogether');
  expect(() => FileStore.open(dir)).toThrow(/not the state of a TPM/);
});

test('persistent things are there after the power went; PCRs come back from Shutdown(STATE) only', () => {
  const dir = newDir();
  const power = () => {
    const store = FileStore.open(dir);
    return { store, client: new Client({ store }) };
  };
  let { store, client } = power();
  client.startup();
  expect(() => FileStore.open(dir)).toThrow(/another process/);
  client.ok('NV_DefineSpace', { authHandle: RH.OWNER, auth: none, publicInfo: counter });
  expect(rcOf(client.raw(increment))).toBe(0);
  const pcr1 = [{ hash: 0xb, pcrSelect: Buffer.from([2, 0, 0]) }];
  client.ok('PCR_Extend', { pcrHandle: 1, digests: [{ hashAlg: 0xb, digest: Buffer.alloc(32, 1) }] });
  const value = client.ok('PCR_Read', { pcrSelectionIn: pcr1 }).pcrValues[0];
  client.ok('Shutdown', { shutdownType: 1 });
  store.close();

  ({ store, client } = power());
  client.startup(1);
  expect(client.ok('PCR_Read', { pcrSelectionIn: pcr1 }).pcrValues[0]).toEqual(value);
  const read = { authHandle: RH.OWNER, nvIndex: counter.nvIndex, size: 8, offset: 0 };
  expect(client.ok('NV_Read', read).data.readBigUInt64BE(0)).toBe(1n);
  store.close();

  ({ store, client } = power());
  expect(client.rc('Startup', { startupType: 1 })).toBe(0x1c4);
  client.startup();
  expect(client.ok('PCR_Read', { pcrSelectionIn: pcr1 }).pcrValues[0]).toEqual(Buffer.alloc(32));
  store.close();
});
