import { expect, test } from 'vitest';
import { handlers } from '../commands/index.ts';
import { byCode, type CommandName, commands } from '../spec/commands.ts';
import { CAP, HT, NVA, RC, RH } from '../spec/constants.ts';
import { Client, commandBytes, rcOf, templates } from '../testing/client.ts';

const none = Buffer.alloc(0);
const nvPublic = {
  nvIndex: 0x01500001,
  nameAlg: 0xb,
  attributes: NVA.OWNERREAD | NVA.OWNERWRITE,
  authPolicy: none,
  dataSize: 8,
};
/** Some valid commands of every shape: handles, sessions, nested and listed structures. */
const corpus = (): Buffer[] => [
  commandBytes('GetRandom', { bytesRequested: 16 }),
  commandBytes('GetCapability', { capability: CAP.TPM_PROPERTIES, property: 0x100, propertyCount: 9 }),
  commandBytes('PCR_Extend', { pcrHandle: 1, digests: [{ hashAlg: 4, digest: Buffer.alloc(20) }] }),
  commandBytes('PCR_Read', { pcrSelectionIn: [{ hash: 0xb, pcrSelect: Buffer.from([1, 0, 0]) }] }),
  commandBytes('CreatePrimary', {
    primaryHandle: RH.OWNER,
    inSensitive: { userAuth: Buffer.from('a'), data: none },
    inPublic: templates.storage,
    outsideInfo: none,
    creationPCR: [],
  }),
  commandBytes('NV_DefineSpace', { authHandle: RH.OWNER, auth: none, publicInfo: nvPublic }),
  commandBytes('NV_Write', { authHandle: RH.OWNER, nvIndex: 0x01500001, data: Buffer.alloc(8), offset: 0 }),
  commandBytes('Quote', {
    signHandle: 0x80000000,
    qualifyingData: none,
    inScheme: { scheme: 0x10, hashAlg: 0x10, count: 0, kdf: 0x10 },
    PCRselect: [],
  }),
  commandBytes('StartAuthSession', {
    tpmKey: RH.NULL,
    bind: RH.NULL,
    nonceCaller: Buffer.alloc(16),
    encryptedSalt: none,
    sessionType: 1,
    symmetric: { algorithm: 6, keyBits: 128, mode: 0x43 },
    authHash: 0xb,
  }),
];

function wellFormed(client: Client, bytes: Buffer): void {
  const response = client.raw(bytes);
  expect(response.readUInt32BE(2)).toBe(response.length);
  expect(response.length).toBeLessThanOrEqual(4096);
  if (client.tpm.failed) throw new Error(`failure mode after ${bytes.toString('hex')}: ${client.failure}`);
  if (rcOf(response) !== RC.SUCCESS) expect(response.length).toBe(10);
}

const fresh = () => {
  const c = new Client().startup();
  c.primary(templates.attester);
  return c;
};

test('a command cut anywhere, with its size corrected or not, gets an answer', () => {
  const c = fresh();
  for (const bytes of corpus()) {
    for (let n = 0; n < bytes.length; n++) {
      const cut = Buffer.from(bytes.subarray(0, n));
      wellFormed(c, cut);
      if (n >= 6) cut.writeUInt32BE(n, 2);
      wellFormed(c, cut);
      if (n >= 10) expect(rcOf(c.raw(cut))).not.toBe(RC.SUCCESS);
    }
    wellFormed(c, Buffer.concat([bytes, Buffer.alloc(3)]));
  }
});

test('every octet of a command set to other values gets an answer', () => {
  const c = fresh();
  for (const bytes of corpus()) {
    for (let at = 0; at < bytes.length; at++) {
      for (const v of [0, 1, 0x7f, 0x80, 0xff, bytes[at]! ^ 1]) {
        const bad = Buffer.from(bytes);
        bad[at] = v;
        wellFormed(c, bad);
        c.tpm.objects.fill(undefined, 1);
        c.tpm.sessions.clear();
      }
    }
  }
});

test('random parameters to every command, with and without sessions', () => {
  const c = fresh();
  let seed = Number(process.env.NYX_SEED ?? 1);
  const next = () => (seed = (Math.imul(seed, 1103515245) + 12345) >>> 0) >>> 8;
  const handles = [RH.OWNER, RH.NULL, RH.PLATFORM, 0x80000000, 0x01500001, 0x02000000, 0x03000000, 5, next()];
  c.ok('NV_DefineSpace', { authHandle: RH.OWNER, auth: none, publicInfo: nvPublic });
  for (let round = 0; round < 40; round++) {
    for (const [code, [, command]] of byCode) {
      const parts: Buffer[] = [];
      const u32 = (v: number) => {
        const b = Buffer.alloc(4);
        b.writeUInt32BE(v >>> 0);
        parts.push(b);
      };
      for (const h of Object.values(command.handles)) {
        const good = handles.filter(h.accepts);
        u32(good.length && next() % 8 ? good[next() % good.length]! : next());
      }
      const needs = Object.values(command.handles).filter((h) => h.role !== 'none').length;
      if (needs) {
        u32(9 * needs);
        for (let i = 0; i < needs; i++) parts.push(Buffer.from('400000090000010000', 'hex'));
      }
      const params = Buffer.alloc(next() % 96);
      for (let i = 0; i < params.length; i++)
        params[i] = next() % 4 ? (next() % 3 ? 0 : next() % 24) : next();
      const body = Buffer.concat([...parts, params]);
      const head = Buffer.alloc(10);
      head.writeUInt16BE(needs ? 0x8002 : 0x8001, 0);
      head.writeUInt32BE(10 + body.length, 2);
      head.writeUInt32BE(code, 6);
      wellFormed(c, Buffer.concat([head, body]));
    }
  }
});

test('codes of refusals are those of the specification', () => {
  const c = new Client();
  const getRandom = commandBytes('GetRandom', { bytesRequested: 8 });
  expect(rcOf(c.raw(getRandom))).toBe(RC.INITIALIZE);
  c.startup();
  expect(c.rc('Startup', { startupType: 0 })).toBe(RC.INITIALIZE);
  const change = (at: number, value: number) => {
    const b = Buffer.from(getRandom);
    b.writeUInt8(value, at);
    return rcOf(c.raw(b));
  };
  expect(change(1, 0)).toBe(RC.BAD_TAG);
  expect(change(5, 11)).toBe(RC.COMMAND_SIZE);
  expect(change(8, 0xff)).toBe(RC.COMMAND_CODE);
  // Handle 1 of the wrong kind, not loaded; too many octets; a parameter that is out of range.
  expect(c.rc('ReadPublic', { objectHandle: RH.OWNER })).toBe(RC.VALUE + 0x100);
  expect(c.rc('ReadPublic', { objectHandle: HT.TRANSIENT * 2 ** 24 + 2 })).toBe(RC.REFERENCE_H0);
  // There is no such slot: no handle at all.
  expect(c.rc('ReadPublic', { objectHandle: HT.TRANSIENT * 2 ** 24 + 3 })).toBe(RC.VALUE + 0x100);
  expect(c.rc('ReadPublic', { objectHandle: 0x81000001 })).toBe(RC.HANDLE + 0x100);
  const long = Buffer.concat([getRandom, Buffer.of(0)]);
  long.writeUInt32BE(long.length, 2);
  expect(rcOf(c.raw(long))).toBe(RC.SIZE);
  expect(c.rc('ECC_Parameters', { curveID: 99 })).toBe(RC.CURVE + 0x140);
});

test('commands that are in the table have an action', () => {
  const missing = (Object.keys(commands) as CommandName[]).filter((n) => !handlers[n]);
  expect(missing).toEqual([]);
});
