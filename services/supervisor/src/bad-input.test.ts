/** What the user does wrong is told by a code, with what was expected and what came; through the real command. */
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import type { NyxError } from '@nyx/protocol/errors';
import { parseSpec } from '@nyx/protocol/spec';
import { describe, expect, test } from 'vitest';
import { BootLoader } from './boot.ts';
import { checkMemory, openFile } from './preflight.ts';
import { Resources } from './resources.ts';

const nyx = fileURLToPath(new URL('../../../bin/nyx', import.meta.url));
const dir = mkdtempSync(join(tmpdir(), 'nyx-bad-'));
chmodSync(dir, 0o755);
const runDir = join(dir, 'run');
mkdirSync(runDir, { mode: 0o700 });
const file = (name: string, content: string | Buffer): string => {
  const path = join(dir, name);
  writeFileSync(path, content);
  return path;
};

const run = (args: string[], uid?: number): { status: number | null; stderr: string } => {
  const runtime = uid === undefined ? runDir : join(dir, `run-${uid}`);
  const r = spawnSync(process.execPath, [nyx, 'run', ...args], {
    encoding: 'utf8',
    timeout: 60_000,
    env: { PATH: process.env.PATH, HOME: dir, XDG_RUNTIME_DIR: runtime },
    ...(uid === undefined ? {} : { uid, gid: uid }),
  });
  return { status: r.status, stderr: r.stderr };
};

const bios = file('bios', Buffer.alloc(0x10000));
const kernel = file('kernel', 'I am a shell script, not a kernel\n'.repeat(100));
const disk = file('disk.img', Buffer.alloc(4096));
// A cpio archive whose only entry says that it has 256 bytes, and has none.
const cutCpio = Buffer.from(`070701${'0'.repeat(48)}00000100${'0'.repeat(32)}00000002${'0'.repeat(8)}a\0`);

describe('nyx run refuses', () => {
  const cases: [name: string, args: string[], status: number, code: string, text: RegExp][] = [
    ['a kernel that is none', ['--kernel', kernel], 65, 'KERNEL_INVALID', /kernel/],
    ['a kernel that is empty', ['--kernel', file('empty', '')], 65, 'KERNEL_INVALID', /empty/],
    ['a kernel that is missing', ['--kernel', join(dir, 'nope')], 66, 'FILE_MISSING', /nope \(ENOENT\)/],
    [
      'a truncated initrd',
      ['--kernel', kernel, '--initrd', file('cut.cpio', cutCpio)],
      65,
      'INITRD_INVALID',
      /cut\.cpio/,
    ],
    ['a missing disk', ['--bios', bios, '--disk', join(dir, 'gone.img')], 66, 'FILE_MISSING', /disk 0/],
    ['a directory as a disk', ['--bios', bios, '--disk', `${dir}:ro`], 66, 'FILE_KIND', /directory/],
    [
      'a disk of half sectors',
      ['--bios', bios, '--disk', file('odd.img', 'x'.repeat(700))],
      65,
      'DISK_INVALID',
      /700 bytes/,
    ],
    [
      'more memory than the host has',
      ['--bios', bios, '--memory', '64T'],
      71,
      'MEMORY_TOO_LARGE',
      /at most \d+ MiB/,
    ],
    ['memory that is no size', ['--bios', bios, '--memory', 'much'], 64, 'SPEC_INVALID', /memory = "much"/],
    ['too many vCPUs', ['--bios', bios, '--cpus', '65'], 64, 'SPEC_INVALID', /cpus = 65/],
    ['firmware of a wrong size', ['--bios', file('small.bin', 'x')], 65, 'KERNEL_INVALID', /64 KiB/],
    ['nothing to boot', ['--memory', '1G'], 64, 'SPEC_INVALID', /something to boot/],
    ['an unknown image', ['windows'], 66, 'IMAGE_UNKNOWN', /windows/],
    [
      'an unknown key',
      [file('a.yaml', 'kernel: x\nmemroy: 1G\n')],
      64,
      'SPEC_UNKNOWN_KEY',
      /Did you mean 'memory'/,
    ],
    ['a machine file that is missing', [join(dir, 'b.yaml')], 66, 'FILE_MISSING', /b\.yaml/],
  ];
  test.each(cases)('%s', (_, args, status, code, text) => {
    const r = run(args);
    expect(r.stderr).toContain(`[${code}]`);
    expect(r.stderr).toMatch(text);
    expect(r.stderr).toMatch(/to do {5}\S/);
    expect(r.status).toBe(status);
  });

  test('an option that does not exist', () => {
    const r = run(['--kernle', 'x']);
    expect(r.stderr).toMatch(/unknown option.*--kernle/);
    expect(r.stderr).toContain('--kernel');
    expect(r.status).toBe(64);
  });

  test('a disk without permission', () => {
    chmodSync(disk, 0o400);
    // Root may read everything: somebody else asks.
    const uid = process.getuid!() === 0 ? 65534 : undefined;
    if (uid !== undefined) {
      mkdirSync(join(dir, `run-${uid}`), { mode: 0o700 });
      chownSync(join(dir, `run-${uid}`), uid, uid);
    }
    const r = run(['--bios', bios, '--disk', disk], uid);
    expect(r.stderr).toContain('[FILE_DENIED]');
    expect(r.stderr).toContain('read and write');
    expect(r.status).toBe(77);
  });

  test('and leaves nothing of it behind that is alive', () => {
    const left = readdirSync(join(runDir, 'nyx'));
    // Only machines that came as far as starting processes are kept, for their logs.
    expect(left.length).toBeLessThanOrEqual(5);
    const ps = spawnSync(process.execPath, [nyx, 'ps', '--json'], {
      encoding: 'utf8',
      env: { PATH: process.env.PATH, XDG_RUNTIME_DIR: runDir },
    });
    for (const vm of JSON.parse(ps.stdout)) expect(vm.state).toBe('failed');
  });
});

test.each([[['ps', '--json']], [['--help']], [['run', '--help']]])(
  'an answer that cannot be written is an error: nyx %s',
  (args) => {
    const full = openSync('/dev/full', 'w');
    const r = spawnSync(process.execPath, [nyx, ...args], {
      encoding: 'utf8',
      timeout: 60_000,
      stdio: ['ignore', full, 'pipe'],
      env: { PATH: process.env.PATH, HOME: dir, XDG_RUNTIME_DIR: runDir },
    });
    closeSync(full);
    expect([r.status, r.stderr]).toEqual([74, expect.stringMatching(/cannot be written: ENOSPC/)]);
  },
);

describe('preflight', () => {
  const code = async (f: () => unknown): Promise<string> => {
    try {
      await f();
    } catch (e) {
      return (e as NyxError).code;
    }
    return 'none';
  };

  test('a gzip initrd that was cut', async () => {
    const whole = gzipSync(Buffer.alloc(100_000, 'nyx'));
    const path = file('cut.gz', whole);
    const resources = new Resources(1, 1 << 20, { wallClock: 0, virtual: false });
    const loader = (): BootLoader =>
      new BootLoader(
        parseSpec({ kernel, initrd: path }),
        { disks: [], standbys: new Map(), cds: [], initrd: openSync(path, 'r') },
        resources,
      );
    expect(await code(() => loader().verify())).toBe('none');
    truncateSync(path, whole.length - 20);
    expect(await code(() => loader().verify())).toBe('INITRD_INVALID');
    resources.close();
  });

  test('memory within total and free', async () => {
    const host = { total: 8 * 2 ** 30, available: 2 * 2 ** 30 };
    expect(await code(() => checkMemory(2 ** 30, host))).toBe('none');
    expect(await code(() => checkMemory(4 * 2 ** 30, host))).toBe('MEMORY_TOO_LARGE');
    expect(await code(() => checkMemory(16 * 2 ** 30, host))).toBe('MEMORY_TOO_LARGE');
  });

  test('a FIFO neither blocks nor passes', async () => {
    const path = join(dir, 'fifo');
    spawnSync('mkfifo', [path]);
    expect(await code(() => openFile(path, 'kernel'))).toBe('FILE_KIND');
  });
});
