/** A successor goes on where a killed process was; a blob that is damaged is not taken. */
import { expect, test } from 'vitest';
import { ALG, NT, NVA, RC, RH, SE } from '../spec/constants.ts';
import { Client, commandBytes, rcOf, templates } from '../testing/client.ts';
import { execute } from './dispatch.ts';
import { MemoryStore } from './store.ts';
import { Tpm } from './tpm.ts';
import { restoreVolatile, saveVolatile } from './volatile.ts';

const none = Buffer.alloc(0);
const sha256Pcr = (pcr: number) => {
  const pcrSelect = Buffer.alloc(3);
  pcrSelect[pcr >> 3] = 1 << (pcr & 7);
  return [{ hash: ALG.SHA256, pcrSelect }];
};
/** A TPM with something of everything: objects, sequences, sessions, PCRs, a measurement under way. */
function busy(store: MemoryStore, now: () => number): Client {
  const c = new Client({ store, now, crashOnly: true });
  c.tpm.hashStart();
  c.tpm.hashData(Buffer.from('firmware'));
  c.tpm.hashEnd();
  c.startup();
  c.primary(templates.signer);
  c.primary(templates.rsa);
  c.ok('HashSequenceStart', { auth: none, hashAlg: ALG.NULL });
  c.ok('SequenceUpdate', { sequenceHandle: 0x80000002, buffer: Buffer.alloc(300, 5) });
  c.ok('PCR_Extend', { pcrHandle: 3, digests: [{ hashAlg: ALG.SHA256, digest: Buffer.alloc(32, 1) }] });
  const session = (sessionType: number) =>
    c.ok('StartAuthSession', {
      tpmKey: RH.NULL,
      bind: RH.NULL,
      nonceCaller: Buffer.alloc(16),
      encryptedSalt: none,
      sessionType,
      symmetric: { algorithm: ALG.NULL, keyBits: 0, mode: ALG.NULL },
      authHash: ALG.SHA256,
    }).handle;
  session(SE.HMAC);
  c.ok('PolicyPCR', { policySession: session(SE.POLICY), pcrDigest: none, pcrs: sha256Pcr(3) });
  c.ok('HierarchyControl', { authHandle: RH.PLATFORM, enable: RH.ENDORSEMENT, state: 0 });
  c.tpm.locality = 3;
  c.tpm.hashStart();
  c.tpm.hashData(Buffer.from('launch'));
  c.tpm.commitSignal();
  return c;
}

test('what is saved and restored is saved again as the same octets', () => {
  const store = new MemoryStore();
  const c = busy(store, () => 1000);
  const blob = saveVolatile(c.tpm);
  const next = new Tpm({ store, now: () => 1000, crashOnly: true, resume: true });
  expect(saveVolatile(next).equals(blob)).toBe(true);
  // Both end the sequence and the measurement alike.
  for (const t of [c.tpm, next]) t.hashEnd();
  expect(next.pcrs.banks).toEqual(c.tpm.pcrs.banks);
});

test('time passes for a successor on the same host, and stands still for one elsewhere', () => {
  let now = 1000;
  const store = new MemoryStore();
  const c = busy(store, () => now);
  now = 5000;
  c.ok('GetRandom', { bytesRequested: 1 });
  const blob = saveVolatile(c.tpm);
  now = 8500;
  const time = (tpm: Tpm) => execute(tpm, commandBytes('ReadClock', {})).readBigUInt64BE(10);
  expect(time(new Tpm({ store, now: () => now, crashOnly: true, resume: true }))).toBe(7500n);
  const elsewhere = new Tpm({ store, now: () => 77 });
  expect(restoreVolatile(elsewhere, blob, false)).toBe(true);
  expect(time(elsewhere)).toBe(4000n);
});

test('a command that was committed is answered, not executed again', () => {
  const store = new MemoryStore();
  const c = new Client({ store, crashOnly: true }).startup();
  const nvIndex = 0x01500001;
  const attributes = NVA.OWNERREAD | NVA.OWNERWRITE | (NT.COUNTER << 4);
  const publicInfo = { nvIndex, nameAlg: ALG.SHA256, attributes, authPolicy: none, dataSize: 8 };
  c.ok('NV_DefineSpace', { authHandle: RH.OWNER, auth: none, publicInfo });
  const increment = commandBytes('NV_Increment', { authHandle: RH.OWNER, nvIndex });
  const answer = execute(c.tpm, increment, 41);
  const next = new Tpm({ store, crashOnly: true, resume: true });
  expect(next.answered(41)?.equals(answer)).toBe(true);
  expect(next.answered(42)).toBeUndefined();
  expect(next.answered(0)).toBeUndefined();
  expect(rcOf(execute(next, increment, 42))).toBe(RC.SUCCESS);
  expect(next.nv.get(nvIndex)!.data.readBigUInt64BE(0)).toBe(2n);
  // Power on: neither the response nor the state is of the new cycle.
  const cold = new Tpm({ store, crashOnly: true });
  expect([cold.answered(42), cold.started]).toEqual([undefined, false]);
  const afterCold = new Tpm({ store, crashOnly: true, resume: true });
  expect([afterCold.answered(42), afterCold.started]).toEqual([undefined, false]);
});

test('what a killed process had not committed is not there', () => {
  const store = new MemoryStore();
  const c = new Client({ store, crashOnly: true }).startup();
  c.tpm.pcrs.extend(ALG.SHA256, 0, Buffer.alloc(32, 9));
  const next = new Tpm({ store, crashOnly: true, resume: true });
  expect(next.pcrs.get(ALG.SHA256, 0)).toEqual(Buffer.alloc(32));
});

test('a damaged blob is refused and changes nothing', () => {
  const blob = saveVolatile(busy(new MemoryStore(), () => 1000).tpm);
  const tpm = new Tpm({ now: () => 1000 });
  const before = saveVolatile(tpm);
  expect(restoreVolatile(tpm, Buffer.concat([blob, Buffer.of(0)]), true)).toBe(false);
  for (let n = 0; n < blob.length; n += 1 + (n >> 5)) {
    expect(restoreVolatile(tpm, blob.subarray(0, n), true), `${n} octets`).toBe(false);
  }
  for (let at = 0; at < blob.length; at++) {
    const bad = Buffer.from(blob);
    bad[at]! ^= 1 << (at % 8);
    expect(restoreVolatile(tpm, bad, true), `octet ${at}`).toBe(false);
  }
  expect(saveVolatile(tpm).equals(before)).toBe(true);
});
