import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { decodeLog, digestsOf, digestsOfBytes, EventType, encodeLog, hashes, replay } from './event-log.ts';
import { logArea, logImage, measurements, measuringCommands } from './measured.ts';

const kernel = Buffer.from('a kernel');
const events = measurements({
  kernel: digestsOfBytes(kernel),
  initrd: digestsOfBytes(Buffer.from('an initrd')),
  cmdline: 'quiet',
});

test('digests do not depend on the pieces', () => {
  const bytes = Buffer.alloc(3_000_001, 'octets');
  const digests = digestsOf(bytes.length, (at, into) => into.set(bytes.subarray(at, at + into.length)));
  expect(digests.map((d) => Buffer.from(d).toString('hex'))).toEqual(
    hashes.map(({ name }) => createHash(name).update(bytes).digest('hex')),
  );
});

test('what is written is read again, and ends where it ends', () => {
  const image = logImage(events);
  expect(image.length).toBe(logArea.bytes);
  const log = decodeLog(image);
  expect(log.broken).toBeUndefined();
  expect(log.rest).toBe(image.length - encodeLog(events).length);
  expect([...log.digestBytes]).toEqual(hashes.map((h) => [h.alg, h.bytes]));
  expect(log.events.map((e) => [e.pcr, e.type, Buffer.from(e.data).toString()])).toEqual(
    events.map((e) => [e.pcr, e.type, Buffer.from(e.data).toString()]),
  );
  expect(log.events.at(-1)).toMatchObject({ pcr: 8, type: EventType.EV_IPL });
});

test('PCRs are the digests one after the other', () => {
  const sha256 = (...b: Uint8Array[]): Buffer =>
    b.reduce((h, x) => h.update(x), createHash('sha256')).digest();
  const zero = Buffer.alloc(32);
  const bank = replay(decodeLog(logImage(events))).get(0x0b)!;
  expect(bank.get(8)).toEqual(sha256(zero, sha256(Buffer.from('quiet'))));
  expect(bank.get(9)).toEqual(sha256(sha256(zero, sha256(kernel)), sha256(Buffer.from('an initrd'))));
  expect(bank.get(7)).toEqual(sha256(zero, sha256(Buffer.alloc(4))));
  expect([...bank.keys()].sort((a, b) => a - b)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
});

test('there is a command for each event, and Startup before them', () => {
  const commands = measuringCommands(events);
  expect(commands).toHaveLength(events.length + 1);
  for (const c of commands) expect(Buffer.from(c).readUInt32BE(2)).toBe(c.length);
  expect(Buffer.from(commands[1]!).readUInt32BE(6)).toBe(0x182);
});

test('a log that somebody else has damaged is read as far as it goes', () => {
  const image = Buffer.from(encodeLog(events));
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(image.length - 1), fc.nat(255)), { minLength: 1, maxLength: 8 }),
      fc.nat(image.length),
      (changes, length) => {
        const bad = Buffer.from(image.subarray(0, length));
        for (const [at, value] of changes) if (at < length) bad[at] = value;
        const log = decodeLog(bad);
        expect(log.events.length).toBeLessThanOrEqual(4096);
        replay(log);
      },
    ),
    { numRuns: 500 },
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (b) => void replay(decodeLog(b))),
    { numRuns: 500 },
  );
});

const tool = spawnSync('tpm2_eventlog', ['--version']).error === undefined;
if (!tool) console.warn('skipped: tpm2_eventlog (package tpm2-tools) is not installed');
test.skipIf(!tool)('tpm2_eventlog replays it to the same PCRs', () => {
  const folder = mkdtempSync(join(tmpdir(), 'nyx-eventlog-'));
  try {
    writeFileSync(join(folder, 'log'), encodeLog(events));
    const r = spawnSync('tpm2_eventlog', [join(folder, 'log')], { encoding: 'utf8' });
    expect(r.status, r.stderr).toBe(0);
    expect(r.stdout).toContain('EV_S_CRTM_VERSION');
    for (const { name, alg } of hashes) {
      const section = new RegExp(`^  ${name}:\\n((?:    \\d+.*\\n)+)`, 'm').exec(`${r.stdout}\n`);
      const theirs = [...section![1]!.matchAll(/(\d+) *: 0x([0-9a-f]+)/g)].map((m) => [Number(m[1]), m[2]]);
      const ours = [...replay({ events }).get(alg)!].map(([pcr, v]) => [pcr, v.toString('hex')]);
      expect(theirs).toEqual(ours.sort((a, b) => Number(a[0]) - Number(b[0])));
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
