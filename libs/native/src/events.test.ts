import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { expect, test } from 'vitest';
import {
  close,
  cpuCount,
  createTimer,
  eventfd,
  eventfdRead,
  eventfdWrite,
  getcpu,
  monotonicNs,
  type NativeError,
  openSeqSocket,
  pidfdOpen,
  pidfdSendSignal,
  type SeqSocketOptions,
  socketpair,
  spawnProcess,
  waitProcess,
  watch,
} from './index.ts';

const coded = (code: string) => expect.objectContaining({ code });

test('an eventfd counts', () => {
  const fd = eventfd(2);
  eventfdWrite(fd, 3);
  expect(eventfdRead(fd)).toBe(5);
  expect(eventfdRead(fd)).toBe(0);
  close(fd);
});

test('watch drains an eventfd and gives its count', async () => {
  const fd = eventfd();
  const count = await new Promise<number>((resolve) => {
    const w = watch(
      fd,
      (n) => {
        w.close();
        resolve(n);
      },
      { drain: true },
    );
    eventfdWrite(fd, 4);
    eventfdWrite(fd, 5);
  });
  expect(count).toBe(9);
  close(fd);
});

test('a closed watch calls no more; closing twice is harmless', async () => {
  const fd = eventfd();
  let calls = 0;
  const w = watch(fd, () => calls++);
  w.close();
  w.close();
  eventfdWrite(fd);
  await new Promise(setImmediate);
  await new Promise(setImmediate);
  expect(calls).toBe(0);
  close(fd);
});

test('what cannot be watched is refused with a code', () => {
  expect(() => watch(999_999, () => {})).toThrow(coded('EBADF'));
  expect(() => watch(0, 5 as never)).toThrow(coded('ERR_INVALID_ARG'));
});

test('a timer fires once, not before its time, and a time that has passed at once', async () => {
  const fired: number[] = [];
  let wake: () => void = () => {};
  const timer = createTimer(() => {
    fired.push(monotonicNs());
    wake();
  });
  const next = () =>
    new Promise<void>((resolve) => {
      wake = resolve;
    });
  const at = monotonicNs() + 2e6;
  timer.armAt(at);
  await next();
  expect(fired[0]).toBeGreaterThanOrEqual(at);
  timer.armAt(1);
  await next();
  timer.armAt(-5);
  await next();
  expect(fired.length).toBe(3);
  timer.close();
});

test('a timer that was disarmed or armed for later does not fire', async () => {
  let fired = 0;
  const timer = createTimer(() => fired++);
  timer.armAt(monotonicNs() + 1000);
  timer.disarm();
  timer.armAt(monotonicNs() + 1000);
  timer.armAt(Number.POSITIVE_INFINITY);
  timer.armAt(monotonicNs() + 1000);
  timer.armAt(monotonicNs() + 1e12);
  for (let i = 0; i < 20; i++) await new Promise(setImmediate);
  expect(fired).toBe(0);
  timer.close();
  expect(() => timer.armAt(1)).toThrow(coded('EBADF'));
});

const pair = (left: SeqSocketOptions, right: SeqSocketOptions) => {
  const [a, b] = socketpair();
  return [openSeqSocket(a, left), openSeqSocket(b, right)] as const;
};
const ignore: SeqSocketOptions = { onMessage() {} };

test('messages arrive whole, in order, with their descriptors', async () => {
  const fd = eventfd();
  const got: [string, number[]][] = [];
  let done: () => void = () => {};
  const finished = new Promise<void>((resolve) => {
    done = resolve;
  });
  const [a, b] = pair(ignore, {
    onMessage(bytes, fds) {
      got.push([Buffer.from(bytes).toString(), fds]);
      if (got.length === 3) done();
    },
  });
  expect(a.send(Buffer.from('one'))).toBe(true);
  a.send(Buffer.from('two'), [fd, fd]);
  a.send(Buffer.from('three'));
  await finished;
  expect(got.map(([text, fds]) => [text, fds.length])).toEqual([
    ['one', 0],
    ['two', 2],
    ['three', 0],
  ]);
  eventfdWrite(got[1]![1][0]!, 6);
  expect(eventfdRead(fd)).toBe(6);
  for (const received of got[1]![1]) close(received);
  close(fd);
  a.close();
  b.close();
});

test('a peer that does not read makes send queue, and drain follows', async () => {
  let drained: () => void = () => {};
  const finished = new Promise<void>((resolve) => {
    drained = resolve;
  });
  const sizes: number[] = [];
  const [x, y] = socketpair();
  const a = openSeqSocket(x, { onMessage() {}, onDrain: () => drained() });
  const message = new Uint8Array(60_000);
  let sent = 0;
  while (a.send(message)) sent++;
  sent++;
  expect(a.queued).toBe(60_000);
  const b = openSeqSocket(y, { onMessage: (bytes) => sizes.push(bytes.length) });
  await finished;
  expect(a.queued).toBe(0);
  while (sizes.length < sent) await new Promise(setImmediate);
  expect(sizes).toEqual(Array(sent).fill(60_000));
  a.close();
  b.close();
});

test('what is queued for a peer is bounded', () => {
  const [x, y] = socketpair();
  const a = openSeqSocket(x, ignore);
  const message = new Uint8Array(100_000);
  expect(() => {
    for (let i = 0; i < 1000; i++) a.send(message);
  }).toThrow(coded('ENOBUFS'));
  a.close();
  close(y);
});

test('the end of the peer is told once, without an error', async () => {
  const ends: unknown[] = [];
  let told: () => void = () => {};
  const finished = new Promise<void>((resolve) => {
    told = resolve;
  });
  const [a, b] = pair(ignore, {
    onMessage() {},
    onClose(error) {
      ends.push(error);
      told();
    },
  });
  a.close();
  await finished;
  expect(ends).toEqual([undefined]);
  expect(() => b.send(Buffer.from('x'))).toThrow(coded('EPIPE'));
});

test('the end of a peer that left messages unread is told, behind what it had sent', async () => {
  const [x, y] = socketpair();
  const heard: unknown[] = [];
  const finished = new Promise<void>((resolve) => {
    const a = openSeqSocket(x, {
      onMessage: (bytes) => heard.push(Buffer.from(bytes).toString()),
      onClose(error) {
        heard.push(error);
        resolve();
      },
    });
    a.send(Buffer.from('unread'));
  });
  const b = openSeqSocket(y, ignore);
  b.send(Buffer.from('last words'));
  b.close();
  await finished;
  expect(heard).toEqual(['last words', undefined]);
});

test.each([
  ['bytes', { maxBytes: 10 }, 11, 0],
  ['descriptors', { maxFds: 1 }, 1, 2],
])('a peer that sends too many %s is cut off', async (_what, limits, bytes, fds) => {
  const fd = eventfd();
  const error = await new Promise<NativeError | undefined>((resolve) => {
    const [a] = pair(ignore, { onMessage() {}, onClose: resolve, ...limits });
    a.send(new Uint8Array(bytes), Array(fds).fill(fd));
  });
  expect(error).toMatchObject({ code: 'EMSGSIZE' });
  close(fd);
});

test('a socket of another kind is refused', () => {
  const fd = eventfd();
  expect(() => openSeqSocket(fd, ignore)).toThrow(coded('ENOTSOCK'));
  close(fd);
});

test('a pidfd becomes readable when its process dies, and signals reach it', async () => {
  const child = spawn('sleep', ['1000']);
  await once(child, 'spawn');
  const pidfd = pidfdOpen(child.pid!);
  const died = new Promise<void>((resolve) => {
    const w = watch(pidfd, () => {
      w.close();
      resolve();
    });
  });
  pidfdSendSignal(pidfd, 9);
  await died;
  close(pidfd);
  expect(() => pidfdSendSignal(pidfd, 0)).toThrow(coded('EBADF'));
});

test('a child has the descriptors, the environment and the session that it was started with, and nothing more', async () => {
  const [ours, theirs] = socketpair();
  // Without a pipe or a redirection of its own: the shell would have descriptors for those.
  const script = 'exec >&3; echo "$NAME"; ps -o sid= -p $$; pwd; ls /proc/$$/fd; kill -TERM $$';
  const pid = spawnProcess(
    '/bin/sh',
    ['-c', script],
    ['NAME=value', 'PATH=/usr/bin:/bin'],
    [-1, -1, -1, theirs],
  );
  close(theirs);
  const pidfd = pidfdOpen(pid);
  let text = '';
  const closed = new Promise<void>((resolve) =>
    openSeqSocket(ours, {
      onMessage: (bytes) => {
        text += Buffer.from(bytes).toString();
      },
      onClose: () => resolve(),
    }),
  );
  await new Promise<void>((resolve) => {
    const w = watch(pidfd, () => {
      w.close();
      resolve();
    });
  });
  expect(waitProcess(pidfd)).toBe(-15);
  expect(() => waitProcess(pidfd)).toThrow(coded('ECHILD'));
  close(pidfd);
  await closed;
  expect(text.split(/\s+/)).toEqual(['value', String(pid), '/', '0', '1', '2', '3', '']);
});

test('the exit status of a child; a program that is not there', async () => {
  const pidfd = pidfdOpen(spawnProcess('/bin/sh', ['-c', 'read line; exit 7'], [], [-1, -1, -1]));
  let status = waitProcess(pidfd);
  while (status === undefined) {
    await new Promise(setImmediate);
    status = waitProcess(pidfd);
  }
  expect(status).toBe(7);
  close(pidfd);
  expect(() => spawnProcess('/none', [], [], [-1, -1, -1])).toThrow(coded('ENOENT'));
  expect(() => spawnProcess('/bin/sh', [], [], [-1])).toThrow(coded('ERR_INVALID_ARG'));
  expect(() => spawnProcess('/bin/sh', [], [], [-1, -1, 9999])).toThrow(coded('EBADF'));
});

test('an exception in a callback of the event loop is an uncaught exception, as everywhere in Node', async () => {
  const listeners = process.listeners('uncaughtException');
  process.removeAllListeners('uncaughtException');
  const caught = new Promise<Error>((resolve) => process.once('uncaughtException', resolve));
  const fd = eventfd(1);
  const w = watch(fd, () => {
    w.close();
    throw new Error('thrown');
  });
  expect((await caught).message).toBe('thrown');
  for (const listener of listeners) process.on('uncaughtException', listener);
  close(fd);
});

test('a worker thread that ends with open handles takes them with it', async () => {
  const { createRequire } = await import('node:module');
  const worker = new Worker(
    `const { register } = require('node:module');
     const m = { exports: {} };
     process.dlopen(m, ${JSON.stringify(createRequire(import.meta.url).resolve('../build/Release/nyx_native.node'))});
     const n = m.exports;
     n.createTimer(() => {}).armAt(n.monotonicNs() + 1e15);
     n.watch(n.eventfd(), () => {});
     const [a] = n.socketpair(); n.openSeqSocket(a, { onMessage() {} });
     n.createIoQueue({ entries: 8, onReady() {} });
     require('node:worker_threads').parentPort.postMessage('open');
     process.exit(3);`,
    { eval: true },
  );
  expect(await once(worker, 'exit')).toEqual([3]);
});

test('this thread runs on one of the CPUs', () => {
  expect(cpuCount()).toBeGreaterThanOrEqual(1);
  expect(getcpu()).toBeGreaterThanOrEqual(0);
});
