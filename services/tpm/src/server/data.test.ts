/** The data socket: commands in pieces and in one go, peers that keep to no rule. */
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, expect, test } from 'vitest';
import { commandBytes } from '../testing/client.ts';
import { listenData } from './data.ts';
import { TpmHost } from './host.ts';
import { SwtpmServer } from './swtpm.ts';

const dir = mkdtempSync(join(tmpdir(), 'tpm-data-'));
const path = join(dir, 'data');
const host = new TpmHost({});
host.powerOn();
host.startupClear();
const stop = listenData(path, new SwtpmServer(host).execute);
afterAll(() => {
  stop();
  rmSync(dir, { recursive: true, force: true });
});

const random = commandBytes('GetRandom', { bytesRequested: 8 });
const answerBytes = 10 + 2 + 8;

/** What comes back, until there are `bytes`, or until the end. */
function talk(send: (s: Socket) => void, bytes = Number.POSITIVE_INFINITY): Promise<Buffer> {
  return new Promise((resolve) => {
    let got = Buffer.alloc(0);
    const s = connect(path, () => send(s));
    const done = () => {
      s.destroy();
      resolve(got);
    };
    s.on('data', (b) => {
      got = Buffer.concat([got, b]);
      if (got.length >= bytes) done();
    });
    s.on('close', done).on('error', () => {});
  });
}

test('a command octet by octet; several at once; several connections', async () => {
  const slow = talk(async (s) => {
    s.setNoDelay(true);
    for (const octet of random) {
      s.write(Buffer.of(octet));
      await sleep(1);
    }
  }, answerBytes);
  const many = talk(
    (s) => s.write(Buffer.concat(Array.from({ length: 200 }, () => random))),
    200 * answerBytes,
  );
  const [a, b] = await Promise.all([slow, many]);
  expect(a.readUInt32BE(6)).toBe(0);
  expect(b.length).toBe(200 * answerBytes);
  for (let at = 0; at < b.length; at += answerBytes) expect(b.readUInt32BE(at + 2)).toBe(answerBytes);
});

test('what is too large ends the connection; a header of a wrong size is answered', async () => {
  const large = Buffer.from(random);
  large.writeUInt32BE(0xffffffff, 2);
  expect((await talk((s) => s.write(large))).length).toBe(0);
  const small = Buffer.from(random.subarray(0, 10));
  small.writeUInt32BE(3, 2);
  expect((await talk((s) => s.write(small), 10)).readUInt32BE(6)).toBe(0x142);
});

test('a peer that leaves in a command, or does not read its answers, disturbs nobody', async () => {
  await talk((s) => s.end(random.subarray(0, 7)));
  // Never read: dropped when the socket is full.
  const deaf = connect(path);
  deaf.on('error', () => {});
  await new Promise<void>((done) => {
    deaf.on('close', () => done());
    deaf.pause();
    const flood = Buffer.concat(Array.from({ length: 2000 }, () => random));
    const push = () => {
      while (!deaf.destroyed && deaf.write(flood));
      if (!deaf.destroyed) deaf.once('drain', push);
    };
    push();
  });
  expect((await talk((s) => s.write(random), answerBytes)).readUInt32BE(6)).toBe(0);
});
