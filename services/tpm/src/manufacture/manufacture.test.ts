/** Keys and certificates of a new TPM, checked with OpenSSL and, where they are installed, tpm2-tools. */

import { execFile, execFileSync, spawnSync } from 'node:child_process';
import { createPublicKey, X509Certificate } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, expect, test } from 'vitest';
import { MemoryStore } from '../core/store.ts';
import { publicKeyInfo } from '../core/x509.ts';
import { TpmHost } from '../server/host.ts';
import { SwtpmServer } from '../server/swtpm.ts';
import { RC, RH } from '../spec/constants.ts';
import { Client } from '../testing/client.ts';
import { LocalCa } from './ca.ts';
import { eks, manufacture } from './manufacture.ts';

const dir = mkdtempSync(join(tmpdir(), 'tpm-make-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const store = new MemoryStore();
const ca = LocalCa.open(join(dir, 'ca'));
manufacture(store, ca, 'a machine');
const client = new Client({ store }).startup();
function readNv(nvIndex: number): Buffer {
  const { dataSize } = client.ok('NV_ReadPublic', { nvIndex }).nvPublic;
  const parts: Buffer[] = [];
  for (let offset = 0; offset < dataSize; offset += 1024) {
    const size = Math.min(1024, dataSize - offset);
    parts.push(client.ok('NV_Read', { authHandle: RH.OWNER, nvIndex, size, offset }).data);
  }
  return Buffer.concat(parts);
}
const installed = (program: string) => spawnSync('which', [program]).status === 0;

test.each(eks.map((e) => [e.nvIndex.toString(16), e] as const))(
  'EK certificate in %s',
  (_, { handle, nvIndex, template }) => {
    const certificate = new X509Certificate(readNv(nvIndex));
    expect(certificate.verify(ca.certificate.publicKey)).toBe(true);
    expect(certificate.checkIssued(ca.certificate)).toBe(true);
    expect(certificate.subject).toBe('CN=a machine');
    expect(certificate.ca).toBe(false);
    expect(certificate.keyUsage).toEqual(['2.23.133.8.1']);
    // The certified key is the persistent one, and what the template gives again.
    const { outPublic } = client.ok('ReadPublic', { objectHandle: handle });
    const key = createPublicKey({ key: publicKeyInfo(outPublic)!, format: 'der', type: 'spki' });
    expect(certificate.publicKey.equals(key)).toBe(true);
    const again = client.ok('CreatePrimary', {
      primaryHandle: RH.ENDORSEMENT,
      inSensitive: { userAuth: Buffer.alloc(0), data: Buffer.alloc(0) },
      inPublic: template,
      outsideInfo: Buffer.alloc(0),
      creationPCR: [],
    });
    client.ok('FlushContext', { flushHandle: again.handle });
    expect(again.outPublic.unique).toEqual(outPublic.unique);
  },
);

test('nobody changes them, and they outlive TPM2_Clear', () => {
  const nvIndex = eks[0]!.nvIndex;
  const before = readNv(nvIndex);
  const data = Buffer.alloc(4);
  expect(client.rc('NV_Write', { authHandle: RH.PLATFORM, nvIndex, data, offset: 0 })).toBe(RC.NV_LOCKED);
  const other = new Client({
    store: (() => {
      const s = new MemoryStore();
      s.commit(store.records);
      return s;
    })(),
  }).startup();
  other.ok('Clear', { authHandle: RH.LOCKOUT });
  expect(other.ok('NV_ReadPublic', { nvIndex }).nvPublic.dataSize).toBe(before.length);
});

test.skipIf(!installed('openssl'))('openssl verifies the chain and reads the attributes', () => {
  for (const nvIndex of [...eks.map((e) => e.nvIndex), 0x01c08000]) {
    const file = join(dir, 'cert.der');
    writeFileSync(file, readNv(nvIndex));
    const pem = execFileSync('openssl', ['x509', '-inform', 'der', '-in', file], { encoding: 'utf8' });
    writeFileSync(join(dir, 'cert.pem'), pem);
    const verify = [
      'verify',
      '-x509_strict',
      '-ignore_critical',
      '-CAfile',
      join(dir, 'ca/ca.pem'),
      join(dir, 'cert.pem'),
    ];
    expect(execFileSync('openssl', verify, { encoding: 'utf8' })).toMatch(/OK/);
    const text = execFileSync('openssl', ['x509', '-noout', '-text', '-in', join(dir, 'cert.pem')], {
      encoding: 'utf8',
    });
    expect(text).toMatch(nvIndex === 0x01c08000 ? /2\.23\.133\.5\.1\.1=Nyx/ : /2\.23\.133\.2\.1=id:4E595800/);
    expect(text).toMatch(/9999/);
  }
});

test('a CA is made once; one that is damaged is not used', () => {
  const at = join(dir, 'other-ca');
  const first = LocalCa.open(at).certificate;
  expect(LocalCa.open(at).certificate.raw).toEqual(first.raw);
  expect(readFileSync(join(at, 'ca-key.pem'), 'utf8')).toMatch(/PRIVATE KEY/);
  writeFileSync(join(at, 'ca-key.pem'), 'nonsense');
  expect(() => LocalCa.open(at)).toThrow(/not a certificate authority/);
});

const tools = installed('tpm2_createek');
if (!tools)
  process.stdout.write('tpm2-tools are not installed (apt: tpm2-tools): EKs are not compared with theirs\n');
test.skipIf(!tools)('tpm2_createek makes the certified keys', async () => {
  const host = new TpmHost({ store });
  host.powerOn();
  host.startupClear();
  const server = new SwtpmServer(host);
  const data = server.listen('data');
  const control = server.listen('control');
  for (;;) {
    await new Promise<void>((done) => data.listen(0, '127.0.0.1', done));
    const next = (data.address() as AddressInfo).port + 1;
    const free = await new Promise((done) =>
      control.once('error', () => done(false)).listen(next, '127.0.0.1', () => done(true)),
    );
    if (free) break;
    await new Promise((done) => data.close(done));
  }
  const env = { ...process.env, TPM2TOOLS_TCTI: `swtpm:port=${(data.address() as AddressInfo).port}` };
  try {
    for (const [algorithm, ek] of [
      ['rsa', eks[0]!],
      ['ecc', eks[1]!],
    ] as const) {
      const pub = join(dir, `${algorithm}.pem`);
      const args = ['-c', join(dir, `${algorithm}.ctx`), '-G', algorithm, '-f', 'pem', '-u', pub];
      await promisify(execFile)('tpm2_createek', args, { env });
      await promisify(execFile)('tpm2_flushcontext', ['-t'], { env });
      expect(
        createPublicKey(readFileSync(pub)).equals(new X509Certificate(readNv(ek.nvIndex)).publicKey),
      ).toBe(true);
    }
  } finally {
    data.close();
    control.close();
  }
});
