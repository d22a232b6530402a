/**
 * Disks whose programs were taken over (services/storage/src/testing/hostile.ts), in a machine with a real Linux guest and an
 * honest disk: what they try is refused or contained, and the guest goes on. As any user; needs the default image.
 */
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Image, ImageStore } from '@nyx/image';
import { deviceSyscalls } from '@nyx/native';
import { Vm } from '@nyx/nyx';
import { wire } from '@nyx/ring/wire';
import { build } from 'esbuild';
import { afterAll, describe, expect, test } from 'vitest';
import { Records } from './cli/records.ts';

process.env.XDG_RUNTIME_DIR = mkdtempSync(join(tmpdir(), 'nyx-hostile-'));
const folder = mkdtempSync(fileURLToPath(new URL('../dist/hostile-', import.meta.url)));
const service = join(folder, 'hostile.cjs');
const image: Image | undefined = await new ImageStore().build('debian').catch((e: Error) => {
  console.warn(`tests with hostile devices are left out, there is no image: ${e.message}`);
  return undefined;
});
await build({
  entryPoints: [fileURLToPath(new URL('../../storage/src/testing/hostile.ts', import.meta.url))],
  outfile: service,
  bundle: true,
  platform: 'node',
  format: 'cjs',
  target: 'node20',
  logLevel: 'warning',
  define: { 'import.meta.url': '__import_meta_url' },
  banner: { js: "const __import_meta_url = require('node:url').pathToFileURL(__filename).href;" },
});
let vm: Vm | undefined;
afterAll(async () => {
  await vm?.stop(0);
  rmSync(folder, { recursive: true });
});

/** What the device processes wrote: their rings, and standard error. */
const deviceLog = (): string =>
  new Records(vm!.dir)
    .read()
    .map((r) => r.line)
    .join('\n');
/** Outcomes by attack. */
const outcomes = (): Record<string, string> =>
  Object.fromEntries([...deviceLog().matchAll(/attack ([^:"]+): ([^"]*)"/g)].map((m) => [m[1]!, m[2]!]));

test('no list of a device process has a way to other processes', () => {
  for (const name of [
    'ptrace',
    'process_vm_readv',
    'process_vm_writev',
    'pidfd_getfd',
    'execve',
    'socket',
    'openat',
  ])
    expect(deviceSyscalls).not.toContain(name);
});

describe.runIf(image)('taken-over device processes', { timeout: 600_000 }, () => {
  test('each is refused or contained; the guest and its honest disk go on', async () => {
    const disk = (name: string): string => {
      const path = join(folder, name);
      writeFileSync(path, new Uint8Array(1 << 20));
      return path;
    };
    vm = await Vm.start({
      name: 'hostile',
      kernel: image!.vmlinux,
      initrd: image!.initrd,
      append: image!.cmdline,
      memory: '256M',
      accel: 'soft',
      agent: true,
      tpm: {},
      recovery: { budget: 3, window: 300, hangTimeout: 1 },
      disks: [
        disk('honest'),
        ...['probe', 'storm', 'forge', 'hang', 'memory', 'ruin', 'lie'].map((serial) => ({
          path: disk(serial),
          serial,
          service,
        })),
      ],
    });
    const run = async (command: string): Promise<string> =>
      (await vm!.exec(command, { timeout: 60 })).stdout.toString().trim();
    const state = async (name: string): Promise<string> =>
      (await vm!.status()).processes.find((p) => p.name === name)!.state;
    const sum =
      'dd if=/dev/urandom of=/tmp/x bs=64k count=8 2>/dev/null; dd if=/tmp/x of=/dev/vda bs=64k 2>/dev/null; sync; echo 3 > /proc/sys/vm/drop_caches; a=$(sha256sum < /tmp/x); b=$(dd if=/dev/vda bs=64k count=8 2>/dev/null | sha256sum); [ "$a" = "$b" ] && echo same';
    expect(await run(sum)).toBe('same');

    // Guest memory, and the map of its pages, are there where DMA is done, and in no other device process.
    const holds = async (name: string): Promise<string[]> => {
      const { pid } = (await vm!.status()).processes.find((p) => p.name === name)!;
      const links = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
      return ['nyx-ram', 'nyx-pages'].filter((m) => links.some((l) => l.startsWith(`/memfd:${m}`)));
    };
    expect({ disk0: await holds('disk0'), tpm: await holds('tpm') }).toEqual({
      disk0: ['nyx-ram', 'nyx-pages'],
      tpm: [],
    });

    const write = (letter: string): Promise<string> =>
      run(`(dd if=/dev/zero of=/dev/vd${letter} bs=4k count=4 oflag=direct 2>/dev/null &) ; echo begun`);
    await write('b');
    await expect.poll(() => outcomes().done, { timeout: 20_000 }).toBe('ok');
    expect(outcomes()).toMatchObject({
      'open a file': 'EPERM',
      'write a file': 'EPERM',
      'list the root': 'EPERM',
      'run a program': 'EPERM',
      'signal the supervisor': 'EPERM',
      'signal a sibling': 'EPERM',
      'look for processes': 'EPERM',
      'make memory': 'EPERM',
      'make a socket': 'EPERM',
      'set the guest clock': 'EACCES',
      'reach the network': expect.stringMatching(/^(EPERM|EMFILE|EACCES)$/),
    });
    for (const name of ['openat', 'kill', 'pidfd_open', 'memfd_create', 'socketpair', 'socket'])
      expect(deviceLog()).toContain(`system call denied: ${name}`);
    // It was an attempt, not a crash: the disk serves on.
    expect([await state('disk1'), await run(sum)]).toEqual(['serving', 'same']);

    for (const [letter, attack] of [
      ['c', 'storm'],
      ['d', 'forge'],
      ['e', 'hang'],
      ['f', 'memory'],
      ['g', 'ruin'],
      ['h', 'lie'],
    ] as const) {
      await write(letter);
      await expect.poll(() => outcomes()[attack], { timeout: 30_000 }).toBe('begins');
      expect([attack, await run(sum)]).toEqual([attack, 'same']);
    }
    // Those that broke the rules were ended and replaced, or their place is given up.
    for (const name of ['disk3', 'disk4', 'disk5'])
      await expect
        .poll(
          async () => {
            const p = (await vm!.status()).processes.find((x) => x.name === name)!;
            return `${name}: ${p.restarts} restarts, ${p.state}`;
          },
          { timeout: 180_000 },
        )
        .toMatch(/: [1-9]\d* restarts, (serving|isolated)$/);
    // One that lives on after it has a successor is killed; the successor serves.
    await expect
      .poll(
        async () => {
          const p = (await vm!.status()).processes.find((x) => x.name === 'disk7')!;
          return `disk7: ${p.restarts} restarts, ${p.state}`;
        },
        { timeout: 180_000 },
      )
      .toMatch(/: [1-9]\d* restarts, serving$/);
    // Each attack is told by its name.
    const kinds = (await vm.history()).flatMap((e) => (e.type === 'fault' ? [`${e.source} ${e.kind}`] : []));
    expect(kinds).toEqual(
      expect.arrayContaining(['disk4 deviceHang', 'disk6 stateCorruption', 'disk7 deviceCrash']),
    );
    // Whichever comes first: its memory is at the limit, or its handler takes too long.
    expect(kinds.join()).toMatch(/disk5 device(Hang|Crash)/);
    expect(kinds.join()).toMatch(/disk3 (ringCorruption|protocolViolation)/);
    // State that nobody can load is kept for whoever wants to know; the place is given up.
    await expect.poll(() => state('disk6'), { timeout: 20_000 }).toBe('isolated');
    const ruined = (await vm.status()).processes.find((p) => p.name === 'disk6');
    expect(ruined?.error?.got).toMatch(/STATE_CORRUPT.*half [01]: CRC/);
    const saved = readdirSync(vm.dir).filter((n) => n.startsWith('disk6.state.'));
    expect(saved.length).toBe(1);
    expect(readFileSync(join(vm.dir, saved[0]!)).readUInt32LE(wire.halvesAt)).toBe(0xa5a5a5a5);
    expect([
      await run(sum),
      (await vm.status()).state,
      await state('disk0'),
      await state('platform'),
    ]).toEqual(['same', 'running', 'serving', 'serving']);
  });
});
