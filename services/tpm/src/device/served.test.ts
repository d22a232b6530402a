/** The process of a TPM, killed at every moment of a command: each command is executed once and answered once. */
import { mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Served } from '@nyx/device/served';
import { close, eventfd, memfdCreate } from '@nyx/native';
import { ExitKind } from '@nyx/ring';
import { afterAll, afterEach, expect, test } from 'vitest';
import { NT, NVA, RC, RH } from '../spec/constants.ts';
import { bundle } from '../testing/bundle.ts';
import { commandBytes, rcOf } from '../testing/client.ts';
import { Driver } from '../testing/ring-driver.ts';
import { bulkBytes } from './requests.ts';

const { folder, file } = bundle();
const scratch = mkdtempSync(join(tmpdir(), 'tpm-served-'));
const open: Served[] = [];
const descriptors: number[] = [];
afterEach(async () => {
  for (const s of open.splice(0))
    if (s.child.exitCode === null && s.child.signalCode === null) await s.kill();
  for (const fd of descriptors.splice(0)) close(fd);
});
afterAll(() => {
  for (const d of [folder, scratch]) rmSync(d, { recursive: true, force: true });
});

const SECOND = 1_000_000_000;
const stateBytes = 4 << 20;
const mine = (fd: number): number => {
  descriptors.push(fd);
  return fd;
};
const make = (model: 'tis' | 'crb', state = mine(memfdCreate('state', stateBytes))): Served => {
  const fds = { buffer: mine(memfdCreate('buffer', bulkBytes)), state };
  const config = { backend: 'own', first: 1000 };
  const irqs = model === 'tis' ? 16 : 0;
  const s = new Served([process.execPath, file], [{ name: 'tpm', kind: `tpm-${model}`, irqs, config, fds }]);
  open.push(s);
  return s;
};

const none = Buffer.alloc(0);
const nvIndex = 0x01500001;
const startup = commandBytes('Startup', { startupType: 0 });
const define = commandBytes('NV_DefineSpace', {
  authHandle: RH.OWNER,
  auth: none,
  publicInfo: {
    nvIndex,
    nameAlg: 0xb,
    attributes: NVA.OWNERREAD | NVA.OWNERWRITE | NVA.NO_DA | (NT.COUNTER << 4),
    authPolicy: none,
    dataSize: 8,
  },
});
const increment = commandBytes('NV_Increment', { authHandle: RH.OWNER, nvIndex });
const readCounter = commandBytes('NV_Read', { authHandle: RH.OWNER, nvIndex, size: 8, offset: 0 });
const countOf = (response: Buffer): number => Number(response.readBigUInt64BE(16));
const extend = commandBytes('PCR_Extend', {
  pcrHandle: 10,
  digests: [{ hashAlg: 0xb, digest: Buffer.alloc(32, 7) }],
});
const readPcr = commandBytes('PCR_Read', {
  pcrSelectionIn: [{ hash: 0xb, pcrSelect: Buffer.from([0, 4, 0]) }],
});

test.each(['tis', 'crb'] as const)(
  '%s: killed at random moments of a counter: every count once, every response there',
  async (model) => {
    const s = make(model);
    await s.start();
    const d = new Driver(s, model);
    await d.open();
    for (const c of [startup, define, increment, extend]) expect(rcOf(await d.transact(c))).toBe(0);
    const pcr = (await d.transact(readPcr)).subarray(14);
    let count = countOf(await d.transact(readCounter));
    for (let life = 0; life < 12; life++) {
      d.send(increment);
      // From before it is begun until long after it is done.
      await new Promise((r) => (life % 4 === 0 ? setImmediate(r) : setTimeout(r, (life % 4) * (life % 3))));
      await s.kill();
      await s.start();
      await d.until(() => d.ready());
      expect(rcOf(d.receive())).toBe(0);
      count++;
      expect(countOf(await d.transact(readCounter))).toBe(count);
    }
    // What is volatile has lived through all of it.
    expect((await d.transact(readPcr)).subarray(14)).toEqual(pcr);
    await s.kill();
  },
  300_000,
);

/** In the NULL hierarchy, so that each machine has others. */
const createRsa = (keyBits: number): Buffer =>
  commandBytes('CreatePrimary', {
    primaryHandle: RH.NULL,
    inSensitive: { userAuth: none, data: none },
    inPublic: {
      type: 1,
      nameAlg: 0xb,
      objectAttributes: 0x00040072,
      authPolicy: none,
      parameters: {
        symmetric: { algorithm: 0x10, keyBits: 0, mode: 0x10 },
        scheme: { scheme: 0x10, hashAlg: 0x10, count: 0, kdf: 0x10 },
        keyBits,
        exponent: 0,
        curveID: 0,
        kdf: { scheme: 0x10, hashAlg: 0x10, count: 0, kdf: 0x10 },
      },
      unique: { x: none, y: none },
    },
    outsideInfo: none,
    creationPCR: [],
  });

test('a key that takes long is made while the registers answer, and by the successor of a killed process', async () => {
  const s = make('tis');
  await s.start();
  const d = new Driver(s, 'tis');
  await d.open();
  await d.transact(startup);
  const create = createRsa(3072);
  // A register answers before the key is there: a device that waits for it never does that. A key can be there at once by
  // luck, or because nobody let this process run.
  let early = false;
  for (let i = 0; i < 10 && !early; i++) {
    d.send(create);
    early = !d.ready();
    if (early) break;
    expect(rcOf(d.receive())).toBe(0);
    await d.transact(commandBytes('FlushContext', { flushHandle: 0x80000000 }));
  }
  expect(early).toBe(true);
  await s.kill();
  await s.start();
  await d.until(() => d.ready());
  expect(rcOf(d.receive())).toBe(0);
}, 180_000);

test.each(['tis', 'crb'] as const)(
  '%s: a key that takes long can be cancelled',
  async (model) => {
    const s = make(model);
    await s.start();
    const d = new Driver(s, model);
    await d.open();
    await d.transact(startup);
    // A key may be there before the cancel is, by luck.
    let rc = 0;
    for (let i = 0; i < 10 && rc === 0; i++) {
      d.send(createRsa(4096));
      if (model === 'tis') d.write(0x1b, 1, 1);
      else d.write(0x48, 4, 1);
      await d.until(() => d.ready());
      rc = rcOf(d.receive());
      if (rc === 0) await d.transact(commandBytes('FlushContext', { flushHandle: 0x80000000 }));
      if (model === 'crb') d.write(0x48, 4, 0);
    }
    expect(rc).toBe(RC.CANCELED);
    // The next command is another one.
    expect(rcOf(await d.transact(createRsa(1024)))).toBe(0);
  },
  180_000,
);

test('a machine reset is a power cycle: volatile things are gone, a state file stays', async () => {
  const path = join(scratch, 'state');
  const s = make('crb', mine(openSync(path, 'w+')));
  await s.start();
  const d = new Driver(s, 'crb');
  await d.open();
  for (const c of [startup, define, increment, extend]) expect(rcOf(await d.transact(c))).toBe(0);
  const count = countOf(await d.transact(readCounter));
  s.cpu.sync(ExitKind.reset, 0, 0, 0, 0, 0, 0, 1, SECOND);
  await d.open();
  expect(rcOf(await d.transact(extend))).toBe(0x100);
  expect(rcOf(await d.transact(startup))).toBe(0);
  expect((await d.transact(readPcr)).subarray(-32)).toEqual(Buffer.alloc(32));
  expect(countOf(await d.transact(readCounter))).toBe(count);
  await s.kill();
  // Another machine, the same file.
  const next = make('tis', mine(openSync(path, 'r+')));
  await next.start();
  const e = new Driver(next, 'tis');
  await e.open();
  expect(rcOf(await e.transact(startup))).toBe(0);
  expect(countOf(await e.transact(readCounter))).toBe(count);
}, 180_000);

test('a state that cannot be used is told when the process gets its role', async () => {
  const path = join(scratch, 'other');
  const fd = mine(openSync(path, 'w+'));
  const { writeSync } = await import('node:fs');
  writeSync(fd, 'something else altogether'.repeat(400));
  const s = make('tis', fd);
  await expect(s.start()).rejects.toMatchObject({ code: 'CONFIG_TPM_STATE' });
});

test('commands for power on wait until they are there, and the guest waits for them', async () => {
  const bootMemory = mine(memfdCreate('boot', 16384));
  const bootEvent = mine(eventfd());
  const { mmap, eventfdWrite } = await import('@nyx/native');
  const { packScript } = await import('@nyx/protocol');
  const state = mine(memfdCreate('state', stateBytes));
  const s = new Served(
    [process.execPath, file],
    [
      {
        name: 'tpm',
        kind: 'tpm-tis',
        irqs: 16,
        config: { backend: 'own', first: 7 },
        fds: { buffer: mine(memfdCreate('buffer', bulkBytes)), state, boot: bootMemory, bootEvent },
      },
    ],
  );
  open.push(s);
  await s.start();
  const d = new Driver(s, 'tis');
  await sleep(100);
  expect(d.read(0, 1) & 0x80).toBe(0);
  const memory = mmap(bootMemory, 16384);
  const script = packScript([startup, extend]);
  new Uint8Array(memory).set(script, 8);
  new DataView(memory).setUint32(4, script.length, true);
  new DataView(memory).setUint32(0, 1, true);
  eventfdWrite(bootEvent);
  await d.open();
  const value = (await d.transact(readPcr)).subarray(-32);
  expect(value).not.toEqual(Buffer.alloc(32));
  // Again at the next reset, when it is there again.
  s.cpu.sync(ExitKind.reset, 0, 0, 0, 0, 0, 0, 1, SECOND);
  await sleep(50);
  expect(d.read(0, 1) & 0x80).toBe(0);
  new DataView(memory).setUint32(0, 2, true);
  eventfdWrite(bootEvent);
  await d.open();
  expect((await d.transact(readPcr)).subarray(-32)).toEqual(value);
}, 180_000);
