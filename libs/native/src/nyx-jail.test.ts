/** nyx-jail as the supervisor uses it: what a program finds when it is started by it. */
import { spawnSync } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import {
  close,
  eventfd,
  landlockAbi,
  openSeqSocket,
  pidfdOpen,
  socketpair,
  spawnProcess,
  waitProcess,
  watch,
} from './index.ts';

const launcher = fileURLToPath(new URL('../build/Release/nyx-jail', import.meta.url));
const addon = fileURLToPath(new URL('../build/Release/nyx_native.node', import.meta.url));
const inner = ['mount', 'pid', 'net', 'ipc', 'uts'];
const libraries = ['/lib', '/lib64', '/usr/lib', '/usr/local/lib', '/etc/ld.so.cache', '/dev/null'];

interface Outcome {
  report: { layers: string[]; missing: string[] };
  said: unknown;
  status: number;
}

/** Runs `body` in a jailed Node with the addon as `n`; it gives its findings to `say`. */
const jailed = async (
  mode: string,
  namespaces: string[],
  body: string,
  more: string[] = [],
): Promise<Outcome> => {
  const [ours, theirs] = socketpair();
  const [leave, helper] = socketpair();
  const script = `const m = { exports: {} }; process.dlopen(m, ${JSON.stringify(addon)}); const n = m.exports;
    const fs = require('fs');
    const attempt = (f) => { try { const v = f(); return v === undefined ? 'ok' : v; } catch (e) { return e.code; } };
    const socket = n.openSeqSocket(3, { onMessage() {} });
    (async () => { const v = await (async () => { ${body} })();
    socket.send(Buffer.from(JSON.stringify(v ?? null))); process.exit(0); })();`;
  const args = [
    ...[
      '--mode',
      mode,
      '--why',
      'a test',
      '--leave',
      '5',
      '--limit',
      'NOFILE=64',
      '--limit',
      'DATA=300000000',
    ],
    ...[...libraries, process.execPath, addon].flatMap((p) => ['--read', p]),
    ...more,
    ...['--', process.execPath, '-e', script],
  ];
  const pid = spawnProcess(
    launcher,
    args,
    ['OPENSSL_CONF=/dev/null', 'MALLOC_ARENA_MAX=4'],
    [-1, -1, 2, theirs, leave, helper],
    namespaces,
  );
  for (const fd of [theirs, leave, helper]) close(fd);
  const messages: unknown[] = [];
  const socket = openSeqSocket(ours, {
    onMessage: (bytes) => void messages.push(JSON.parse(new TextDecoder().decode(bytes))),
  });
  const pidfd = pidfdOpen(pid);
  await new Promise<void>((resolve) => {
    const w = watch(pidfd, () => {
      w.close();
      resolve();
    });
  });
  // What it sent last is still in the socket.
  await expect.poll(() => messages.length, { timeout: 1000 }).toBeGreaterThan(0);
  await sleep(20);
  const status = waitProcess(pidfd)!;
  socket.close();
  close(pidfd);
  return { report: messages[0] as Outcome['report'], said: messages[1], status };
};

const root = process.getuid?.() === 0;
/** Whether this kernel, and this user, may make user namespaces. */
const users = (() => {
  try {
    const fd = pidfdOpen(spawnProcess('/bin/true', [], [], [-1, -1, -1], ['user', ...inner]));
    return fd >= 0;
  } catch (e) {
    console.warn(`skipped: user namespaces (${(e as Error).message})`);
    return false;
  }
})();
if (!root) console.warn("skipped: the jail as root makes it; this is no root's test run");
const kinds: [string, string[], boolean][] = [
  ['user', ['user', ...inner], users],
  ['root', inner, root],
];

for (const [mode, namespaces, possible] of kinds)
  test.runIf(possible)(`mode ${mode}: nobody, alone, in an empty root, without rights`, async () => {
    const { report, said, status } = await jailed(
      mode,
      namespaces,
      `const before = fs.readdirSync('/lib').length;
       const left = attempt(() => n.leaveFiles(4));
       return {
         before: before > 0, left,
         top: attempt(() => fs.readdirSync('/lib').length),
         open: attempt(() => fs.openSync(process.execPath)),
         create: attempt(() => fs.writeFileSync('/x', 'y')),
         pid: process.pid, uid: process.getuid(), gid: process.getgid(),
         setuid: attempt(() => process.setuid(1)),
         links: Object.keys(require('os').networkInterfaces()),
         signal: attempt(() => process.kill(${process.pid}, 0)),
         again: attempt(() => n.chroot('/')),
         fds: attempt(() => { for (let i = 0; i < 64; i++) n.eventfd(); }),
       };`,
    );
    expect(report.missing).toEqual([]);
    expect(report.layers).toEqual(
      expect.arrayContaining([
        'user',
        'pid',
        'net',
        'ipc',
        'uts',
        'root',
        'limits',
        'landlock',
        'no_new_privs',
      ]),
    );
    expect([said, status]).toEqual([
      {
        before: true,
        left: 'ok',
        top: 'EACCES',
        open: expect.stringMatching(/^(ENOENT|EACCES)$/),
        create: expect.stringMatching(/^(EROFS|EACCES)$/),
        pid: 1,
        // Root of a user namespace with no capability in it, or nobody.
        uid: mode === 'user' ? 0 : 65534,
        gid: mode === 'user' ? 0 : 65534,
        setuid: expect.stringMatching(/^(EPERM|EINVAL)$/),
        links: [],
        signal: 'ESRCH',
        again: 'EPERM',
        fds: 'EMFILE',
      },
      0,
    ]);
  });

test('mode none: what is refused is told; Landlock and limits hold all the same', async () => {
  const { report, said } = await jailed(
    'none',
    [],
    `return [attempt(() => fs.openSync('/etc/passwd')), attempt(() => fs.writeFileSync('/tmp/nyx-x', 'y')),
       attempt(() => { for (let i = 0; i < 64; i++) n.eventfd(); })];`,
  );
  expect(report.missing).toContain('namespaces: a test');
  expect(said).toEqual(landlockAbi() > 0 ? ['EACCES', 'EACCES', 'EMFILE'] : expect.any(Array));
});

test('too much memory is refused, also to a program that ignores its heap limit', async () => {
  const { said } = await jailed(
    'none',
    [],
    `const held = []; try { for (let i = 0; i < 64; i++) held.push(Buffer.alloc(16 << 20, 1)); } catch (e) { return [e.code ?? e.name, held.length < 20]; } return held.length;`,
  );
  expect(said).toEqual([expect.any(String), true]);
});

test('a program that does not exist, and wrong options', () => {
  const run = (...args: string[]) => spawnSync(launcher, args, { encoding: 'utf8' });
  expect(run('--mode', 'none', '--', '/no/such/program')).toMatchObject({ status: 126 });
  expect(run('--mode', 'none', '--', '/no/such/program').stderr).toContain('No such file');
  expect(run('--moon', 'x', '--', '/bin/true')).toMatchObject({ status: 126 });
  expect(run('--mode', 'none')).toMatchObject({ status: 126 });
  expect(() => spawnProcess('/bin/true', [], [], [-1, -1, -1], ['moon'])).toThrowError(
    expect.objectContaining({ code: 'ERR_INVALID_ARG' }),
  );
  // The descriptors of the test itself are whole.
  close(eventfd());
});
