import { execFileSync, spawnSync } from 'node:child_process';
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { cpio } from './cpio.ts';
import { createDataDisk } from './disk.ts';
import { ImageError } from './errors.ts';
import { ImageStore } from './images.ts';
import { initScript, poweroffScript } from './init.ts';
import { withLock } from './lock.ts';
import { loadOrder, moduleInfo, moduleName } from './modules.ts';

const has = (program: string): boolean => spawnSync(program, ['--version']).error === undefined;
const path = process.env.PATH;
let directory = '';
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'nyx-image-'));
});
afterEach(() => {
  process.env.PATH = path;
  rmSync(directory, { recursive: true, force: true });
});

const codeOf = async (work: () => Promise<unknown>): Promise<string> => {
  try {
    await work();
  } catch (error) {
    if (error instanceof ImageError) return error.code;
    throw error;
  }
  return 'none';
};

describe('cpio', () => {
  const make = (): Buffer =>
    cpio([
      { path: 'dir', type: 'dir' },
      { path: 'dir/file', type: 'file', data: Buffer.from('content'), mode: 0o755 },
      { path: 'dir/link', type: 'link', target: 'file' },
      { path: 'empty', type: 'file', data: Buffer.alloc(0) },
      { path: 'tty', type: 'char', major: 5, minor: 1 },
    ]);
  const archive = make();
  it('is aligned and the same every time', () => {
    expect(archive.length % 512).toBe(0);
    expect(archive.equals(make())).toBe(true);
    expect(archive.subarray(0, 6).toString()).toBe('070701');
  });
  if (!has('cpio')) console.warn('skipped: cpio is not installed');
  it.skipIf(!has('cpio'))('is what cpio reads', () => {
    const list = execFileSync('cpio', ['-tv', '--quiet', '--numeric-uid-gid'], { input: archive }).toString();
    expect(
      list
        .replace(/ +/g, ' ')
        .replace(/Jan 1 1970 /g, '')
        .trim()
        .split('\n'),
    ).toEqual([
      'drwxr-xr-x 2 0 0 0 dir',
      '-rwxr-xr-x 1 0 0 7 dir/file',
      'lrwxrwxrwx 1 0 0 4 dir/link -> file',
      '-rw-r--r-- 1 0 0 0 empty',
      'crw------- 1 0 0 5, 1 tty',
    ]);
  });
});

/** A relocatable ELF file with a .modinfo section. */
function module(info: string): Buffer {
  const text = Buffer.from(`${info.split(' ').join('\0')}\0`);
  const names = Buffer.from('\0.modinfo\0');
  const file = Buffer.alloc(64 + text.length + names.length + 3 * 64);
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  const sections = 64 + text.length + names.length;
  file.writeBigUInt64LE(BigInt(sections), 0x28);
  file.writeUInt16LE(64, 0x3a);
  file.writeUInt16LE(3, 0x3c);
  file.writeUInt16LE(2, 0x3e);
  text.copy(file, 64);
  names.copy(file, 64 + text.length);
  const section = (i: number, name: number, at: number, bytes: number): void => {
    file.writeUInt32LE(name, sections + i * 64);
    file.writeBigUInt64LE(BigInt(at), sections + i * 64 + 0x18);
    file.writeBigUInt64LE(BigInt(bytes), sections + i * 64 + 0x20);
  };
  section(1, 1, 64, text.length);
  section(2, 0, 64 + text.length, names.length);
  return file;
}

describe('kernel modules', () => {
  const files: Record<string, Buffer> = {
    a: module('license=GPL depends=b,c-d'),
    b: module('depends='),
    c_d: module('depends=b,a'),
  };
  it('load after what they depend on, once, even in a cycle', async () => {
    const order = await loadOrder(['a', 'builtin', 'b'], (name) => Promise.resolve(files[name]));
    expect(order.map((m) => m.name)).toEqual(['b', 'c_d', 'a']);
  });
  it('are named after their file', () => expect(moduleName('lib/x/virtio-rng.ko.xz')).toBe('virtio_rng'));
  it('that are damaged are refused, never a crash', async () => {
    expect(await codeOf(() => loadOrder(['x'], () => Promise.resolve(Buffer.from('no'))))).toBe(
      'IMAGE_BAD_PACKAGE',
    );
    const good = files.a!;
    for (let at = 0; at < good.length; at++)
      for (const value of [0, 0x7f, 0xff]) {
        const bad = Buffer.from(good);
        bad[at] = value;
        moduleInfo(bad);
        moduleInfo(good.subarray(0, at));
      }
  });
});

describe('scripts of the guest', () => {
  it.each([initScript(['a', 'b'], { '0x001a': ['c'] }), poweroffScript])('are shell', (script) =>
    expect(spawnSync('sh', ['-n'], { input: script }).stderr.toString()).toBe(''),
  );
});

/** Programs that stand in for apt, first in PATH. */
function fakeApt(programs: Record<string, string>): void {
  const bin = join(directory, 'bin');
  mkdirSync(bin);
  for (const [name, script] of Object.entries(programs)) {
    writeFileSync(join(bin, name), `#!/bin/sh\n${script}\n`);
    chmodSync(join(bin, name), 0o755);
  }
  process.env.PATH = `${bin}:/usr/bin:/bin`;
}

const stanza = (name: string, depends: string): string =>
  `Package: ${name}\nVersion: 1\nDepends: ${depends}\nSHA256: ${'0'.repeat(64)}\nSize: 4\n\n`;
const known = `cat <<'END'\n${stanza('linux-image-cloud-amd64', 'linux-image-1-cloud-amd64 (= 1)')}${stanza('linux-image-1-cloud-amd64', '')}${stanza('busybox-static', '')}END`;

describe('image store', () => {
  const store = (): ImageStore => new ImageStore(join(directory, 'cache'));

  it('says what to do on a host without apt', async () => {
    mkdirSync(join(directory, 'empty'));
    process.env.PATH = join(directory, 'empty');
    // sbin is searched as well, but apt-cache is not there.
    await expect(store().build('debian')).rejects.toThrow(/^IMAGE_NO_APT.*--kernel/);
  });

  it('fetches lists when apt knows nothing, then gives up with a reason', async () => {
    fakeApt({ 'apt-cache': 'exit 100', 'apt-get': `echo "$@" >>${directory}/log` });
    expect(await codeOf(() => store().build('debian'))).toBe('IMAGE_NO_PACKAGES');
    expect(readFileSync(join(directory, 'log'), 'utf8')).toMatch(/Dir::State=\S*cache\/apt\/state.* update/);
  });

  it('takes no package with another hash, and leaves nothing behind', async () => {
    fakeApt({ 'apt-cache': known, 'apt-get': 'case "$*" in *download*) echo evil >x.deb ;; esac' });
    expect(await codeOf(() => store().build('debian'))).toBe('IMAGE_DOWNLOAD_FAILED');
    expect(readdirSync(join(directory, 'cache/images'))).toEqual([]);
    expect(readdirSync(join(directory, 'cache/packages'))).toEqual([]);
  });

  it('reports a network that fails, after one more try with new lists', async () => {
    fakeApt({
      'apt-cache': known,
      'apt-get': `echo "$@" >>${directory}/log; case "$*" in *update*) ;; *) echo 'E: no route' >&2; exit 100;; esac`,
    });
    await expect(store().build('debian')).rejects.toThrow(/IMAGE_DOWNLOAD_FAILED.*E: no route/);
    expect(readFileSync(join(directory, 'log'), 'utf8').match(/ download /g)).toHaveLength(2);
  });

  it('knows its names', async () => {
    expect(await codeOf(() => store().build('plan9'))).toBe('IMAGE_UNKNOWN');
    expect(await codeOf(() => store().rm('../x'))).toBe('IMAGE_BAD_NAME');
    expect([store().ls(), store().find('debian'), await store().rm('debian')]).toEqual([
      [],
      undefined,
      false,
    ]);
  });

  it('needs a directory that can be written', async () => {
    writeFileSync(join(directory, 'file'), '');
    expect(await codeOf(() => new ImageStore(join(directory, 'file')).build('debian'))).toBe(
      'IMAGE_CACHE_UNUSABLE',
    );
  });

  const built = new ImageStore().find('debian');
  if (!built) console.warn('skipped: the image debian is not built (`nyx image build debian`)');
  it.skipIf(!built)('finds a built image without reading it whole, and notices a file that was cut', () => {
    const root = join(directory, 'copy');
    mkdirSync(join(root, 'images'), { recursive: true });
    execFileSync('cp', ['-r', built!.directory, join(root, 'images')]);
    execFileSync('cp', [join(built!.directory, '..', 'debian.json'), join(root, 'images')]);
    const copy = new ImageStore(root);
    const started = process.cpuUsage();
    const found = copy.find('debian');
    const { user, system } = process.cpuUsage(started);
    expect(user + system).toBeLessThan(50_000);
    expect(found?.key).toBe(built!.key);
    expect(copy.ls().map((i) => i.name)).toEqual(['debian']);
    truncateSync(found!.initrd, 1000);
    expect(copy.find('debian')).toBeUndefined();
  });
});

describe('lock', () => {
  it('lets one in at a time', async () => {
    let inside = 0;
    let waits = 0;
    const work = async (): Promise<void> => {
      expect(++inside).toBe(1);
      await new Promise((resolve) => setImmediate(resolve));
      inside--;
    };
    await Promise.all([1, 2, 3].map(() => withLock(directory, work, () => waits++)));
    expect(waits).toBe(2);
  });
  it('gives up after a while', async () => {
    const hold = withLock(
      directory,
      () =>
        codeOf(() =>
          withLock(
            directory,
            () => Promise.resolve(),
            () => {},
            1,
          ),
        ),
      () => {},
    );
    expect(await hold).toBe('IMAGE_LOCKED');
  });
});

describe('data disk', () => {
  const hasMke2fs = spawnSync('/sbin/mke2fs', ['-V']).error === undefined;
  if (!hasMke2fs) console.warn('skipped: mke2fs is not installed');
  it.skipIf(!hasMke2fs)('is a sparse file with a sound ext4', async () => {
    const disk = join(directory, 'disk');
    await createDataDisk(disk, 64 << 20);
    const { size, blocks, mode } = statSync(disk);
    expect([size, mode & 0o777]).toEqual([64 << 20, 0o600]);
    expect(blocks * 512).toBeLessThan(16 << 20);
    expect(spawnSync('/sbin/e2fsck', ['-fn', disk]).status).toBe(0);
    expect(readdirSync(directory)).toEqual(['disk']);
  });
});
