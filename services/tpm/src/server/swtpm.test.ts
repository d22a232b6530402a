/** The control channel: state blobs, padding, garbage; and swtpm's own client where it is installed. */
import { execFile, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { ALG } from '../spec/constants.ts';
import { TpmHost } from './host.ts';
import { SwtpmServer } from './swtpm.ts';
import { listenControl } from './unix.ts';

const dir = mkdtempSync(join(tmpdir(), 'tpm-swtpm-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const words = (...values: number[]) => {
  const b = Buffer.alloc(4 * values.length);
  values.forEach((v, i) => void b.writeUInt32BE(v, 4 * i));
  return b;
};
const rc = (b: Buffer) => b.readUInt32BE(0);
const key = Buffer.alloc(32, 9);
const [INIT, GET, SET, STOP] = [2, 12, 13, 14];

/** A TPM with something in its PCR 16, and that value. */
function running(options: { blobKey?: Buffer } = {}) {
  const host = new TpmHost(options);
  const server = new SwtpmServer(host, { startupClear: true });
  expect(rc(server.control(words(INIT, 0)))).toBe(0);
  host.tpm!.pcrs.extend(ALG.SHA256, 16, Buffer.alloc(32, 1));
  const get = (type: number, flags = 0, offset = 0) => server.control(words(GET, flags, type, offset));
  const set = (type: number, blob: Buffer) =>
    rc(server.control(Buffer.concat([words(SET, 0, type, blob.length), blob])));
  const pcr = () => host.tpm?.pcrs.get(ALG.SHA256, 16)?.toString('hex');
  return { host, server, get, set, pcr };
}

test('blobs go from one TPM to another, in pieces, sealed or not', () => {
  for (const blobKey of [undefined, key]) {
    const a = running(blobKey && { blobKey });
    const blobs = [1, 2, 3].map((type) => {
      const whole = a.get(type);
      expect([rc(whole), whole.readUInt32BE(4)]).toEqual([0, blobKey && type < 3 ? 2 : 0]);
      const blob = whole.subarray(16);
      expect(whole.readUInt32BE(8)).toBe(blob.length);
      if (!blobKey && blob.length) expect(a.get(type, 0, 100).subarray(16)).toEqual(blob.subarray(100));
      return blob;
    });
    // Asked for in the clear.
    expect(a.get(1, 1).readUInt32BE(4)).toBe(0);
    const b = running(blobKey && { blobKey });
    const other = b.pcr();
    expect(b.set(2, blobs[1]!)).toBe(10);
    b.host.tpm!.pcrs.extend(ALG.SHA256, 16, Buffer.alloc(32, 2));
    expect(rc(b.server.control(words(STOP)))).toBe(0);
    expect(rc(b.get(1))).toBe(10);
    for (const [i, blob] of blobs.entries()) expect(b.set(i + 1, blob)).toBe(0);
    expect(rc(b.server.control(words(INIT, 1)))).toBe(0);
    expect(b.pcr()).toBe(a.pcr());
    expect(b.pcr()).toBe(other);
    expect(b.host.tpm!.persistent.eps).toEqual(a.host.tpm!.persistent.eps);
    // It was forgotten: the next one is power on.
    expect(rc(b.server.control(words(INIT, 1)))).toBe(0);
    expect(b.pcr()).toBe('00'.repeat(32));
  }
});

test('a blob that is damaged, of another kind or sealed for somebody else changes nothing', () => {
  const a = running({ blobKey: key });
  const [permanent, state] = [a.get(1, 1).subarray(16), a.get(2, 1).subarray(16)];
  const sealed = a.get(1).subarray(16);
  const b = running();
  const eps = Buffer.from(b.host.tpm!.persistent.eps);
  b.server.control(words(STOP));
  expect(b.set(1, sealed)).toBe(0x21);
  expect(b.set(1, state)).toBe(3);
  expect(b.set(2, permanent)).toBe(3);
  expect(b.set(3, permanent)).toBe(3);
  expect(b.set(7, permanent)).toBe(3);
  for (let n = 1; n < permanent.length; n += 7) expect(b.set(1, permanent.subarray(0, n))).toBe(3);
  for (let at = 0; at < state.length; at += 41) {
    const bad = Buffer.from(state);
    bad[at]! ^= 4;
    expect([3, 0x21]).toContain(b.set(2, bad));
  }
  expect(rc(b.server.control(words(INIT, 0)))).toBe(0);
  expect(b.host.tpm!.persistent.eps).toEqual(eps);
});

test('messages cut, joined, padded as QEMU pads them; what is too large ends the connection', () => {
  const { server } = running();
  const talk = (...chunks: Buffer[]) => {
    const out: Buffer[] = [];
    let open = true;
    const reader = server.controlReader({ write: (b) => out.push(b), close: () => (open = false) });
    for (const c of chunks) reader.data(c);
    reader.end();
    return { codes: out.map(rc), open };
  };
  const locality = Buffer.concat([words(5), Buffer.of(3, 0, 0, 0)]);
  const established = words(4);
  expect(talk(locality, established)).toEqual({ codes: [0, 0], open: true });
  expect(talk(Buffer.concat([locality.subarray(0, 5), established]))).toEqual({ codes: [0, 0], open: true });
  expect(talk(...[...Buffer.concat([locality, established])].map((o) => Buffer.of(o))).codes).toEqual([0, 0]);
  expect(talk(words(0x13370000))).toEqual({ codes: [10], open: true });
  expect(talk(words(SET, 0, 1, 0xffffffff)).open).toBe(false);
  expect(talk(words(7, 0xfffffff0)).open).toBe(false);
  expect(talk(Buffer.concat([words(5), Buffer.of(9)])).codes).toEqual([0x3d]);
});

const ioctl = spawnSync('which', ['swtpm_ioctl']).status === 0;
if (!ioctl) process.stdout.write('swtpm_ioctl is not installed (apt: swtpm-tools): not tested with it\n');
test.skipIf(!ioctl)('swtpm_ioctl: every command of it', async () => {
  const path = join(dir, 'ctrl');
  let ended = false;
  const host = new TpmHost({});
  const stop = listenControl(new SwtpmServer(host, { onShutdown: () => (ended = true) }), path);
  const run = (...args: string[]) =>
    new Promise<string>((resolve) => {
      execFile('swtpm_ioctl', ['--unix', path, ...args], (e, out, err) =>
        resolve(`${e ? `${e.code} ` : ''}${out}${err}`.trim()),
      );
    });
  expect(await run('-c')).toMatch(/0x7fff/);
  expect(await run('-e')).toMatch(/0xa/);
  expect(await run('-b', '4096')).toMatch(/4096/);
  expect(await run('-i')).toBe('');
  expect(await run('-b', '4096')).toMatch(/0xa/);
  expect(await run('--info', '1')).toContain('"family":"2.0"');
  expect(await run('-h', 'measured')).toBe('');
  expect(await run('-e')).toBe('tpmEstablished is 1');
  expect(await run('-r', '0')).toMatch(/0x3d/);
  expect(await run('-r', '4')).toBe('');
  expect(await run('-e')).toBe('tpmEstablished is 0');
  expect(await run('-l', '4')).toBe('');
  expect(await run('-C')).toBe('');
  expect(await run('-g')).toMatch(/0x0/);
  expect(await run('-v')).toBe('');
  const blob = join(dir, 'blob');
  const pcr0 = host.tpm!.pcrs.get(ALG.SHA256, 0)!.toString('hex');
  for (const type of ['permanent', 'volatile', 'savestate'])
    expect(await run('--save', type, `${blob}.${type}`)).toBe('');
  expect(readFileSync(`${blob}.savestate`).length).toBe(0);
  expect(await run('--load', 'permanent', `${blob}.permanent`)).toMatch(/0xa/);
  expect(await run('--stop')).toBe('');
  for (const type of ['permanent', 'volatile']) expect(await run('--load', type, `${blob}.${type}`)).toBe('');
  writeFileSync(`${blob}.bad`, readFileSync(`${blob}.volatile`).subarray(1));
  expect(await run('--load', 'volatile', `${blob}.bad`)).toMatch(/0x3/);
  expect(await run('-i')).toBe('');
  expect(host.tpm!.pcrs.get(ALG.SHA256, 0)!.toString('hex')).toBe(pcr0);
  expect(await run('-s')).toBe('');
  expect([ended, host.running]).toEqual([true, false]);
  stop();
});
