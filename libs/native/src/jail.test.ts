/** Each jail primitive in a child of its own, since there is no way back. */
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { expect, test } from 'vitest';
import { landlockAbi } from './index.ts';

const addon = createRequire(import.meta.url).resolve('../build/Release/nyx_native.node');

/** Runs `body` in a fresh Node with the addon as `n`; the JSON that it gives to `say`. */
const jailed = (body: string): unknown => {
  const result = spawnSync(
    process.execPath,
    [
      '-e',
      `const m = { exports: {} }; process.dlopen(m, ${JSON.stringify(addon)}); const n = m.exports;
       const fs = require('fs');
       const attempt = (f) => { try { f(); return 'ok'; } catch (e) { return e.code; } };
       const out = [];
       const say = (v) => out.push(v);
       (async () => { ${body};
       fs.writeSync(1, JSON.stringify(out)); })();`,
    ],
    { encoding: 'utf8', env: {} },
  );
  if (result.signal) return result.signal;
  if (result.status !== 0) return result.stderr;
  return JSON.parse(result.stdout);
};

const base = `['read','write','writev','close','futex','mmap','munmap','mprotect','madvise','brk','epoll_wait','epoll_pwait',
  'epoll_ctl','exit','exit_group','rt_sigreturn','rt_sigprocmask','rt_sigaction','clock_gettime','getpid','gettid','sched_yield','eventfd2','fcntl','ioctl','sigaltstack','fstat','newfstatat']`;

test('seccomp denies what is not on the list with EPERM, in all threads', () => {
  expect(
    jailed(`
      await fs.promises.stat('/');  // starts the threads of the pool
      n.seccomp({ allow: ${base} });
      say(attempt(() => fs.openSync('/etc/passwd')));
      say(attempt(() => n.memfdCreate('x', 4096)));
      say(attempt(() => n.eventfd()));
      say(await fs.promises.open('/etc/passwd').then(() => 'open', (e) => e.code))`),
  ).toEqual(['EPERM', 'EPERM', 'ok', 'EPERM']);
});

test('seccomp with kill ends the process', () => {
  expect(jailed(`n.seccomp({ allow: ${base}, otherwise: 'kill' }); fs.openSync('/etc/passwd')`)).toBe(
    'SIGSYS',
  );
});

test('seccomp with log: EPERM in all threads, each call told by its name', () => {
  expect(
    jailed(`
      await fs.promises.stat('/');
      const told = new Map();
      n.onDenied((calls) => { for (let i = 0; i < calls.length; i += 2) told.set(calls[i], (told.get(calls[i]) ?? 0) + calls[i + 1]); });
      n.seccomp({ allow: ${base}, otherwise: 'log' });
      say(attempt(() => fs.openSync('/etc/passwd')));
      say(attempt(() => n.memfdCreate('x', 4096)));
      say(await fs.promises.open('/etc/passwd').then(() => 'open', (e) => e.code));
      await new Promise((r) => setImmediate(() => setImmediate(r)));
      say([...told].sort())`),
  ).toEqual([
    'EPERM',
    'EPERM',
    'EPERM',
    [
      ['memfd_create', 1],
      ['openat', 2],
    ],
  ]);
});

test('seccomp: signals reach only the process itself, and memory is its own', () => {
  expect(
    jailed(`
      n.seccomp({ allow: ${base}.concat(['kill', 'mmap']) });
      say(attempt(() => process.kill(process.pid, 0)));
      say(attempt(() => process.kill(process.ppid, 0)));
      say(attempt(() => process.kill(1, 0)))`),
  ).toEqual(['ok', 'EPERM', 'EPERM']);
});

test('seccomp takes numbers, and refuses names that do not exist', () => {
  expect(
    jailed(`say(attempt(() => n.seccomp({ allow: ['no_such_call'] }))); say(attempt(() => n.seccomp({ allow: [0.5, {}] })));
      say(attempt(() => n.seccomp({ allow: [0, 1], otherwise: 'maybe' })))`),
  ).toEqual(['EINVAL', 'ERR_INVALID_ARG', 'ERR_INVALID_ARG']);
});

const withLandlock = test.runIf(landlockAbi() > 0);
if (landlockAbi() === 0) console.warn('skipped: this kernel has no Landlock');

withLandlock('landlock without rules: no file can be opened', () => {
  expect(
    jailed(`n.landlock([]); say(attempt(() => fs.openSync('/etc/passwd'))); say(attempt(() => fs.writeFileSync('/tmp/nyx-x', '')));
      say(attempt(() => n.memfdCreate('x', 4096)))`),
  ).toEqual(['EACCES', 'EACCES', 'ok']);
});

withLandlock('landlock with rules: only what they give', () => {
  expect(
    jailed(`n.landlock([{ path: '/etc', access: ['read'] }, { path: '/dev/null', access: ['read', 'write'] }]);
      say(attempt(() => fs.readFileSync('/etc/passwd')));
      say(attempt(() => fs.writeFileSync('/etc/nyx-x', '')));
      say(attempt(() => fs.readFileSync('/proc/self/status')));
      say(attempt(() => fs.writeFileSync('/dev/null', 'x')))`),
  ).toEqual(['ok', 'EACCES', 'EACCES', 'ok']);
});

withLandlock('landlock refuses rules that make no sense', () => {
  expect(
    jailed(`say(attempt(() => n.landlock([{ path: '/no/such/place', access: ['read'] }])));
      say(attempt(() => n.landlock([{ path: '/etc', access: ['admire'] }]))); say(attempt(() => n.landlock([5])));
      say(attempt(() => fs.readFileSync('/etc/passwd')))`),
  ).toEqual(['ENOENT', 'ERR_INVALID_ARG', 'ERR_INVALID_ARG', 'ok']);
});

test('limits hold', () => {
  expect(
    jailed(`n.setRlimit('NOFILE', 25, 25); say(attempt(() => { for (let i = 0; i < 25; i++) n.eventfd(); }));
      say(attempt(() => n.setRlimit('SOULS', 1, 1))); say(attempt(() => n.setNoNewPrivs()))`),
  ).toEqual(['EMFILE', 'ERR_INVALID_ARG', 'ok']);
});

const asRoot = test.runIf(process.getuid?.() === 0);
if (process.getuid?.() !== 0) console.warn('skipped: dropUser and chroot need root');

asRoot('dropUser and chroot leave nothing of root', () => {
  expect(
    jailed(`fs.mkdirSync('/tmp/nyx-empty', { recursive: true }); n.chroot('/tmp/nyx-empty'); n.dropUser(65534, 65534);
      say(fs.readdirSync('/')); say(process.getuid()); say(process.getgid()); say(process.getgroups());
      say(attempt(() => process.setuid(0)))`),
  ).toEqual([[], 65534, 65534, expect.any(Array), 'EPERM']);
});

test('unshare names what it does not know', () => {
  expect(jailed(`say(attempt(() => n.unshare(['moon'])))`)).toEqual(['ERR_INVALID_ARG']);
});
