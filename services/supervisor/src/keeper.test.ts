/** nyx-keeper and what is made of what it holds; also when that is nonsense. */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  close,
  connectSeq,
  eventfd,
  eventfdRead,
  eventfdWrite,
  openSeqSocket,
  type SeqSocket,
} from '@nyx/native';
import { files } from '@nyx/nyx/files';
import { afterEach, expect, test } from 'vitest';
import { heritageOf } from './adoption.ts';
import { Estate } from './estate.ts';
import { Keeper } from './keeper.ts';
import { inheritDisks, keepDisk } from './kept-disks.ts';
import { hashOf, layouts } from './layouts.ts';

const made: Keeper[] = [];
const dirs: string[] = [];
afterEach(() => {
  for (const k of made.splice(0)) {
    k.end();
    // One that nobody is connected with.
    const args = existsSync(`/proc/${k.pid}/cmdline`) ? readFileSync(`/proc/${k.pid}/cmdline`, 'utf8') : '';
    if (args.includes(k.dir)) process.kill(k.pid, 'SIGKILL');
  }
  for (const d of dirs.splice(0)) rmSync(d, { recursive: true, force: true });
});

const folder = (): string => {
  const dir = mkdtempSync(join(tmpdir(), 'nyx-keeper-'));
  dirs.push(dir);
  return dir;
};
/** One whose successor does nothing: tests come themselves. */
const keeper = (dir: string, warnings: string[] = []): Keeper => {
  const k = new Keeper(dir, ['/bin/true'], (what) => warnings.push(what));
  made.push(k);
  return k;
};
/** A connection that may say anything. */
const raw = (dir: string): { socket: SeqSocket; said: string[] } => {
  const said: string[] = [];
  const socket = openSeqSocket(connectSeq(join(dir, files.keeper)), {
    onMessage: (b, fds) => {
      said.push(Buffer.from(b).toString('latin1'));
      for (const fd of fds) close(fd);
    },
  });
  return { socket, said };
};
const put = (key: string, value: string): Buffer =>
  Buffer.concat([Buffer.from('p'), Buffer.from([key.length]), Buffer.from(key + value)]);
/** Takes over as soon as it is noticed that the one before has died. */
const inherit = async (dir: string): Promise<Estate> => {
  for (const end = Date.now() + 20_000; ; await sleep(20))
    try {
      return await keeper(dir).takeOver();
    } catch (e) {
      if ((e as { code?: string }).code !== 'VM_STATE' || Date.now() > end) throw e;
    }
};
const until = async <T>(what: () => Promise<T | undefined>): Promise<T> => {
  for (const end = Date.now() + 20_000; ; ) {
    const found = await what();
    if (found !== undefined) return found;
    if (Date.now() > end) throw new Error('not within 20 s');
  }
};
const listens = (dir: string) =>
  expect
    .poll(
      () => {
        try {
          close(connectSeq(join(dir, files.keeper)));
          return true;
        } catch {
          return false;
        }
      },
      { timeout: 20_000 },
    )
    .toBe(true);

test('what is kept is found by one who comes later: the newest of each key, with its descriptors', async () => {
  const dir = folder();
  const k = keeper(dir).start();
  const fd = eventfd();
  k.put('a', { n: 1 });
  k.put('a', { n: 2 }, [fd]);
  k.put('b', 'gone');
  k.drop('b');
  // A second connection while there is one.
  await listens(dir);
  await expect(keeper(dir).takeOver()).rejects.toMatchObject({ code: 'VM_STATE' });
  k.abandon();
  const estate = await inherit(dir);
  expect(estate.keys('')).toEqual(['a']);
  const a = estate.take<{ n: number }>('a', (_, fds) => fds.length === 1);
  expect(a.value).toEqual({ n: 2 });
  eventfdWrite(a.fds[0]!);
  expect(eventfdRead(fd)).toBe(1);
});

test('a keeper that is killed is followed by another, which has everything', async () => {
  const dir = folder();
  const warnings: string[] = [];
  const k = keeper(dir, warnings).start();
  k.put('a', 1, [eventfd()]);
  const { pid } = k;
  process.kill(pid, 'SIGKILL');
  await expect.poll(() => k.pid !== pid, { timeout: 20_000 }).toBe(true);
  expect(warnings).toEqual(['nyx-keeper died and was started again']);
  await listens(dir);
  k.abandon();
  expect((await inherit(dir)).keys('')).toEqual(['a']);
});

test('nobody keeps anything: ADOPTION_FAILED', async () => {
  await expect(keeper(folder()).takeOver()).rejects.toMatchObject({ code: 'ADOPTION_FAILED' });
});

test('peers that keep to no rule lose their connection, and what they put is refused by who reads it', async () => {
  const dir = folder();
  const k = keeper(dir).start();
  k.put('a', 1);
  await listens(dir);
  k.abandon();
  for (const bad of ['?', 'p', 'p\xff', 'd\x05ab', 'p\x00', 'q\x01ab', 'z', 'e\x01a1']) {
    const { socket, said } = raw(dir);
    const closed = new Promise<void>((r) => {
      const other = setInterval(() => {
        try {
          socket.send(Buffer.from(bad, 'latin1'));
        } catch {
          clearInterval(other);
          r();
        }
      }, 5);
    });
    await closed;
    expect(said.filter((s) => s !== 'x' && s !== 'z' && s !== 'e\x01a1')).toEqual([]);
  }
  const socket = await until(() => {
    const { socket: s, said } = raw(dir);
    return new Promise<SeqSocket | undefined>((r) =>
      setTimeout(() => r(said.includes('z') ? s : undefined), 50),
    );
  });
  socket.send(put('b', '{"half'));
  socket.close();
  await expect(inherit(dir)).rejects.toMatchObject({ code: 'ADOPTION_FAILED' });
  // Everybody has left: this one, too.
  const { socket: last } = raw(dir);
  await expect
    .poll(() => {
      try {
        last.send(Buffer.from('b'));
        return false;
      } catch {
        return true;
      }
    })
    .toBe(true);
});

test('a machine that was kept half, or by a stranger, is not taken over', () => {
  const kept = (entries: Record<string, unknown>): Estate =>
    new Estate(new Map(Object.entries(entries).map(([key, value]) => [key, { value, fds: [] }])));
  const how = { state: 'running', since: 1, resets: 0, corrupt: 0, milestones: {}, agent: true };
  const what = { layouts, spec: {}, lines: [], wallClock: 1 };
  for (const entries of [
    {},
    { spec: what },
    { spec: what, machine: how },
    { spec: null, machine: how },
    { spec: 7, machine: how },
    { spec: { ...what, lines: 'none' }, machine: how },
    { spec: what, machine: { ...how, state: 'happy' } },
    { spec: what, machine: { ...how, resets: -1 } },
    { spec: what, machine: how, vcpu: { pid: 7 } },
    { spec: what, machine: how, vcpu: { pid: 'x' } },
  ])
    expect(() => heritageOf(kept(entries))).toThrow(expect.objectContaining({ code: 'ADOPTION_FAILED' }));
  // Nobody could say what is in its memory.
  expect(() => heritageOf(kept({ spec: what, machine: { ...how, state: 'starting' } }))).toThrow(
    expect.objectContaining({ code: 'SUPERVISOR_DIED' }),
  );
});

test('memory of another build, where something else may be at each place, is not looked into', () => {
  expect(hashOf([1, 'a'])).not.toBe(hashOf([2, 'a']));
  for (const other of ['00000000', undefined]) {
    const spec = { layouts: other, spec: {}, lines: [], wallClock: 1 };
    expect(() => heritageOf(new Estate(new Map([['spec', { value: spec, fds: [] }]])))).toThrow(
      expect.objectContaining({
        code: 'ADOPTION_FAILED',
        expected: expect.stringContaining(layouts),
        got: expect.stringMatching(/another build/),
      }),
    );
  }
});

test('a disk is found as it was: every descriptor at its place', () => {
  const now = {
    files: [
      { fd: 3, direct: 4, bytes: 512, format: 'raw' as const, path: '/a' },
      { fd: 5, bytes: 1024, format: 'raw' as const },
    ],
    journal: 6,
  };
  const { value, fds } = keepDisk({ now, retired: 7, mending: true });
  expect(fds).toEqual([3, 4, 5, 6, 7]);
  const kept = { value: JSON.parse(JSON.stringify(value)), fds: fds.map((n) => n + 10) };
  const spec = { disks: [{ bus: 'virtio' }], cdroms: [] } as never;
  const [disk] = inheritDisks(new Estate(new Map([['disk/0', kept]])), spec);
  expect(disk).toEqual({
    files: [
      { fd: 13, direct: 14, bytes: 512, format: 'raw', path: '/a' },
      { fd: 15, bytes: 1024, format: 'raw' },
    ],
    journal: 16,
    retired: 17,
    mending: true,
  });
});
