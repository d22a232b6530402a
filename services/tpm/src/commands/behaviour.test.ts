/** What the tools do not reach: lockout and its recovery, PIN indices, derived objects, contexts over a reset. */
import { expect, test } from 'vitest';
import { MemoryStore } from '../core/store.ts';
import { encode } from '../spec/codec.ts';
import { ALG, NT, NVA, OA, RC, RC_P, RC_S, RH } from '../spec/constants.ts';
import { nullScheme, publicArea } from '../spec/types.ts';
import { Client, templates } from '../testing/client.ts';

const none = Buffer.alloc(0);
const authFail = RC.AUTH_FAIL + RC_S + 0x100;
const badAuth = RC.BAD_AUTH + RC_S + 0x100;

/** A sealed secret that counts for lockout. */
function sealed(c: Client): number {
  const parent = c.primary(templates.storage);
  const pub = {
    ...templates.signer,
    type: ALG.KEYEDHASH,
    objectAttributes: OA.fixedTPM | OA.fixedParent | OA.userWithAuth,
    unique: { x: none, y: none },
  };
  const made = c.ok('Create', {
    parentHandle: parent,
    inSensitive: { userAuth: Buffer.from('pin'), data: Buffer.from('secret') },
    inPublic: pub,
    outsideInfo: none,
    creationPCR: [],
  });
  const { handle } = c.ok('Load', {
    parentHandle: parent,
    inPrivate: made.outPrivate,
    inPublic: made.outPublic,
  });
  c.ok('FlushContext', { flushHandle: parent });
  return handle;
}

test('three wrong authorizations lock; time forgives; lockoutAuth resets', () => {
  let now = 0;
  const c = new Client({ now: () => now }).startup();
  const itemHandle = sealed(c);
  for (let i = 0; i < 3; i++) expect(c.rc('Unseal', { itemHandle }, 'wrong')).toBe(authFail);
  expect(c.rc('Unseal', { itemHandle }, 'pin')).toBe(RC.LOCKOUT);
  now += 999_000;
  expect(c.rc('Unseal', { itemHandle }, 'pin')).toBe(RC.LOCKOUT);
  now += 2_000;
  expect(c.ok('Unseal', { itemHandle }, 'pin').outData.toString()).toBe('secret');
  expect(c.rc('Unseal', { itemHandle }, 'wrong')).toBe(authFail);
  expect(c.rc('Unseal', { itemHandle }, 'pin')).toBe(RC.LOCKOUT);
  c.ok('DictionaryAttackLockReset', { lockHandle: RH.LOCKOUT });
  expect(c.ok('Unseal', { itemHandle }, 'pin').outData.toString()).toBe('secret');
  // One wrong use of lockoutAuth and it is disabled itself, until its own time has passed.
  expect(c.rc('DictionaryAttackLockReset', { lockHandle: RH.LOCKOUT }, 'no')).toBe(authFail);
  expect(c.rc('DictionaryAttackLockReset', { lockHandle: RH.LOCKOUT })).toBe(RC.LOCKOUT);
  now += 1_000_000;
  c.ok('DictionaryAttackLockReset', { lockHandle: RH.LOCKOUT });
});

test('failures are remembered when the power goes', () => {
  const store = new MemoryStore();
  const c = new Client({ store }).startup();
  const itemHandle = sealed(c);
  for (let i = 0; i < 3; i++) c.rc('Unseal', { itemHandle }, 'wrong');
  expect(new Client({ store }).startup().tpm.persistent.failedTries).toBe(3);
});

test('a PIN Fail index counts failures and closes; PIN Pass counts uses', () => {
  const c = new Client().startup();
  const define = (nvIndex: number, kind: number) => {
    const attributes = NVA.OWNERWRITE | NVA.AUTHREAD | NVA.OWNERREAD | NVA.NO_DA | (kind << 4);
    const publicInfo = { nvIndex, nameAlg: ALG.SHA256, attributes, authPolicy: none, dataSize: 8 };
    c.ok('NV_DefineSpace', { authHandle: RH.OWNER, auth: Buffer.from('pin'), publicInfo });
    const data = Buffer.from('0000000000000002', 'hex');
    c.ok('NV_Write', { authHandle: RH.OWNER, nvIndex, data, offset: 0 });
  };
  const count = (nvIndex: number) =>
    c.ok('NV_Read', { authHandle: RH.OWNER, nvIndex, size: 4, offset: 0 }).data.readUInt32BE(0);
  const use = (nvIndex: number, pin: string) =>
    c.rc('NV_Read', { authHandle: nvIndex, nvIndex, size: 8, offset: 0 }, pin);

  define(0x01500001, NT.PIN_FAIL);
  expect(use(0x01500001, 'no')).toBe(badAuth);
  expect(count(0x01500001)).toBe(1);
  expect(use(0x01500001, 'pin')).toBe(0);
  expect(count(0x01500001)).toBe(0);
  use(0x01500001, 'no');
  use(0x01500001, 'no');
  expect(use(0x01500001, 'pin')).toBe(RC.AUTH_UNAVAILABLE);

  define(0x01500002, NT.PIN_PASS);
  expect(use(0x01500002, 'pin')).toBe(0);
  expect(use(0x01500002, 'no')).toBe(badAuth);
  expect(use(0x01500002, 'pin')).toBe(0);
  expect(count(0x01500002)).toBe(2);
  expect(use(0x01500002, 'pin')).toBe(RC.AUTH_UNAVAILABLE);
});

test('a derived object is a function of its parent, label and context', () => {
  const c = new Client().startup();
  const parent = c.primary({
    ...templates.signer,
    type: ALG.KEYEDHASH,
    objectAttributes:
      OA.fixedTPM | OA.fixedParent | OA.sensitiveDataOrigin | OA.userWithAuth | OA.restricted | OA.decrypt,
    parameters: {
      ...templates.signer.parameters,
      scheme: { ...nullScheme, scheme: ALG.XOR, hashAlg: ALG.SHA256, kdf: ALG.KDF1_SP800_108 },
    },
  });
  const template = {
    ...templates.signer,
    objectAttributes: OA.fixedTPM | OA.fixedParent | OA.userWithAuth | OA.sign,
  };
  // Without its unique field (x and y of zero octets), then label and context.
  const head = encode(publicArea, template).subarray(0, -4);
  const derive = (label: string, context: string) => {
    const field = (s: string) => Buffer.concat([Buffer.from([0, s.length]), Buffer.from(s)]);
    const inPublic = Buffer.concat([head, field(label), field(context)]);
    const inSensitive = { userAuth: none, data: none };
    const out = c.ok('CreateLoaded', { parentHandle: parent, inSensitive, inPublic });
    c.ok('FlushContext', { flushHandle: out.handle });
    return out.name.toString('hex');
  };
  const name = derive('label', 'context');
  expect(derive('label', 'context')).toBe(name);
  expect(derive('label', 'contexu')).not.toBe(name);
  expect(derive('lebal', 'context')).not.toBe(name);
});

test('contexts load in the power cycle they were saved in, as often as one likes', () => {
  const store = new MemoryStore();
  const c = new Client({ store }).startup();
  const handle = c.primary(templates.signer);
  const { context } = c.ok('ContextSave', { saveHandle: handle });
  c.ok('ContextLoad', { context });
  c.ok('ContextLoad', { context });
  const bad = { ...context, contextBlob: Buffer.from(context.contextBlob) };
  bad.contextBlob[80]! ^= 1;
  const integrity = RC.INTEGRITY + RC_P + 0x100;
  expect(c.rc('ContextLoad', { context })).toBe(RC.OBJECT_MEMORY);
  expect(c.rc('ContextLoad', { context: bad })).toBe(integrity);
  expect(new Client({ store }).startup().rc('ContextLoad', { context })).toBe(integrity);
});

test('a sequence survives its context; a hash of what the TPM could have made has no ticket', () => {
  const c = new Client().startup();
  const start = () => c.ok('HashSequenceStart', { auth: none, hashAlg: ALG.SHA512 }).handle;
  const one = start();
  c.ok('SequenceUpdate', { sequenceHandle: one, buffer: Buffer.alloc(1000, 7) });
  const { context } = c.ok('ContextSave', { saveHandle: one });
  c.ok('FlushContext', { flushHandle: one });
  const two = c.ok('ContextLoad', { context }).handle;
  const done = c.ok('SequenceComplete', {
    sequenceHandle: two,
    buffer: Buffer.from('end'),
    hierarchy: RH.OWNER,
  });
  const whole = c.ok('Hash', {
    data: Buffer.concat([Buffer.alloc(1000, 7), Buffer.from('end')]),
    hashAlg: ALG.SHA512,
    hierarchy: RH.OWNER,
  });
  expect([done.result, done.validation]).toEqual([whole.outHash, whole.validation]);
  const ours = Buffer.from('ff544347', 'hex');
  const hashed = c.ok('Hash', { data: ours, hashAlg: ALG.SHA256, hierarchy: RH.OWNER });
  expect(hashed.validation.digest.length).toBe(0);
  const s = start();
  const { validation } = c.ok('SequenceComplete', { sequenceHandle: s, buffer: ours, hierarchy: RH.OWNER });
  expect(validation.digest.length).toBe(0);
});

test('localities: PCR 17 is for locality 2 to 4, reset by 4 alone', () => {
  const c = new Client().startup();
  const extend = () =>
    c.rc('PCR_Extend', { pcrHandle: 17, digests: [{ hashAlg: ALG.SHA256, digest: Buffer.alloc(32) }] });
  const codes = [0, 1, 2, 3, 4].map((l) => {
    c.tpm.locality = l;
    return [extend(), c.rc('PCR_Reset', { pcrHandle: 17 })];
  });
  const no = RC.LOCALITY;
  expect(codes).toEqual([
    [no, no],
    [no, no],
    [0, no],
    [0, no],
    [0, 0],
  ]);
});
