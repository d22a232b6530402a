/** Images made by qemu-img, read and written by us, checked and compared by qemu-img; and the other way round. */
import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { hostIo } from '../host.ts';
import { Rig, random } from '../testing/rig.ts';
import { checkVhdx } from './check.ts';
import { createVhdx } from './create.ts';
import { VhdxDisk } from './disk.ts';
import { MiB } from './format.ts';
import { readerOf, readFileHeader, readGeometry, writeFileHeader } from './header.ts';
import { LogWriter } from './log.ts';

const qemu = spawnSync('qemu-img', ['--version']).status === 0;
if (!qemu) console.warn('skipped: vhdx is not compared with QEMU, qemu-img is not installed');

/** Another reader of VHDX, which knows differencing images; qemu-img does not. The topmost first. */
const READER = `
import sys, pyvhdi
files = []
for name in sys.argv[1:]:
  f = pyvhdi.file(); f.open(name); files.append(f)
for child, parent in zip(files, files[1:]): child.set_parent(parent)
size = files[0].get_media_size()
while size > 0:
  data = files[0].read_buffer(min(size, 1 << 20)); size -= len(data)
  if not data: break
  sys.stdout.buffer.write(data)
`;
const python = '/usr/bin/python3';
const libvhdi = spawnSync(python, ['-c', 'import pyvhdi']).status === 0;
if (!libvhdi)
  console.warn('skipped: differencing vhdx is not compared with libvhdi (package python3-libvhdi)');
const pyvhdi = (names: readonly string[]): Buffer =>
  execFileSync(python, ['-c', READER, ...names], { cwd: folder, maxBuffer: 64 << 20 });

let folder: string;
const at = (name: string): string => join(folder, name);
const img = (...args: string[]): string =>
  execFileSync('qemu-img', args, { cwd: folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
const flat = (name: string): Uint8Array => {
  img('convert', '-f', 'vhdx', '-O', 'raw', name, 'flat');
  return readFileSync(at('flat'));
};
const open = (rig: Rig, names: string[], readOnly = false): (() => void) => {
  const fds = names.map((n, i) => openSync(at(n), i === 0 && !readOnly ? 'r+' : 'r'));
  rig.open((m, c) => new VhdxDisk(hostIo, { files: fds.map((fd) => ({ fd })), readOnly }, m, c));
  return () => {
    rig.disk.close();
    fds.forEach(closeSync);
  };
};
const checked = (name: string): void => {
  const fd = openSync(at(name), 'r');
  expect(checkVhdx(hostIo, fd)).toMatchObject({ corruptions: 0, log: false, problems: [] });
  closeSync(fd);
  img('check', '-q', '-f', 'vhdx', name);
};

beforeAll(() => {
  folder = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'nyx-vhdx-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

const blocks = ['1M', '2M', '8M', '32M', '256M'];
const sizes = (block: string): number[] => {
  const bytes = Number.parseInt(block, 10) * MiB;
  return bytes > 8 * MiB ? [bytes + 3 * MiB + 512] : [9 * MiB + 512, bytes];
};
const cases = blocks.flatMap((block) =>
  ['dynamic', 'fixed'].flatMap((subformat) =>
    sizes(block)
      // A fixed image of 512 MiB says nothing that one of 64 does not.
      .filter((size) => subformat === 'dynamic' || size < 100 * MiB)
      .map((size) => ({ block, subformat, size })),
  ),
);

/** The disk in pieces of the rig's memory would be large: what was touched, and the ends. */
const compare = (rig: Rig, model: Uint8Array): void => {
  for (let p = 0; p < model.length; p += MiB) {
    const n = Math.min(MiB, model.length - p);
    if (Buffer.compare(rig.read(p, n), model.subarray(p, p + n)) !== 0)
      throw new Error(`MiB ${p / MiB} differs`);
  }
};

const writeHeader = (fd: number, h: ReturnType<typeof readFileHeader>): void =>
  writeFileHeader(hostIo, fd, h);
const findBat = (read: ReturnType<typeof readerOf>): number =>
  readGeometry(read, readFileHeader(read)).batOffset;

describe.skipIf(!qemu)('vhdx and qemu-img', () => {
  it.each(cases)(
    'blocks of $block, $subformat, $size bytes',
    { timeout: 60_000 },
    ({ block, subformat, size }) => {
      // Theirs.
      img(
        'create',
        '-q',
        '-f',
        'vhdx',
        '-o',
        `block_size=${block},subformat=${subformat}`,
        'v',
        String(size),
      );
      const rand = random(size);
      const commands = Array.from({ length: 12 }, () => {
        const bytes = 512 * (1 + rand(200));
        return `write -P ${1 + rand(255)} ${512 * rand((size - bytes) / 512)} ${bytes}`;
      });
      execFileSync('qemu-io', ['-f', 'vhdx', ...commands.flatMap((c) => ['-c', c]), at('v')]);
      const model = flat('v');
      const untouched = readFileSync(at('v'));
      const rig = new Rig();
      let close = open(rig, ['v'], true);
      compare(rig, model);
      close();
      expect(Buffer.compare(readFileSync(at('v')), untouched)).toBe(0);
      // Ours.
      close = open(rig, ['v']);
      rig.work(model, size + 1, 20);
      close();
      checked('v');
      expect(Buffer.compare(flat('v'), model)).toBe(0);
      close = open(rig, ['v'], true);
      compare(rig, model);
      close();
    },
  );

  it.each(cases)(
    'made by us: $block, $subformat, $size bytes',
    { timeout: 60_000 },
    ({ block, subformat, size }) => {
      writeFileSync(at('v'), '');
      const fd = openSync(at('v'), 'r+');
      const blockBytes = Number.parseInt(block, 10) * MiB;
      createVhdx(hostIo, fd, { size, blockBytes, subformat: subformat as 'dynamic' | 'fixed' });
      closeSync(fd);
      checked('v');
      const model = new Uint8Array(size);
      expect(Buffer.compare(flat('v'), model)).toBe(0);
      const rig = new Rig();
      const close = open(rig, ['v']);
      rig.work(model, size, 12);
      close();
      // Then theirs again.
      execFileSync('qemu-io', ['-f', 'vhdx', '-c', 'write -P 99 4096 70000', at('v')]);
      model.fill(99, 4096, 74096);
      checked('v');
      expect(Buffer.compare(flat('v'), model)).toBe(0);
    },
  );

  it('a log that we left is replayed by qemu-img; one that was left to us, by us', () => {
    for (const by of ['qemu', 'us']) {
      img('create', '-q', '-f', 'vhdx', '-o', 'block_size=1M', 'v', '4M');
      const rig = new Rig();
      open(rig, ['v'])();
      const fd = openSync(at('v'), 'r+');
      // As if the process had died between log and places: the first 4 KiB of the table, with block 0 present.
      const close = open(rig, ['v']);
      rig.bytes.fill(42, 0, 4096);
      rig.run(rig.request(1, 8192, 4096, 0), rig.request(2, 0, 0, 0));
      close();
      const read = readerOf(hostIo, fd);
      const h = readFileHeader(read);
      const batAt = findBat(read);
      const content = new Uint8Array(read(batAt, 4096).buffer);
      h.logGuid = '12345678-1234-1234-1234-123456789abc';
      writeHeader(fd, h);
      new LogWriter(hostIo, fd, h).write([{ position: batAt, content }]);
      hostIo.pwrite(fd, new ArrayBuffer(4096), 0, 4096, batAt);
      closeSync(fd);
      if (by === 'us') {
        const before = readFileSync(at('v'));
        const done = open(rig, ['v'], true);
        expect([...rig.read(8192, 2)]).toEqual([42, 42]);
        done();
        expect(Buffer.compare(before, readFileSync(at('v')))).toBe(0);
        open(rig, ['v'])();
      } else img('check', '-q', '-f', 'vhdx', '-r', 'all', 'v');
      checked('v');
      expect([...flat('v').subarray(8190, 8194)]).toEqual([0, 0, 42, 42]);
    }
  });
});

describe('differencing', () => {
  /** Makes a chain, the topmost first, of images over one another. */
  const chain = (n: number, size: number, model: Uint8Array, rig: Rig): string[] => {
    const names: string[] = [];
    for (let i = 0; i < n; i++) {
      const name = `d${i}`;
      writeFileSync(at(name), '');
      const fd = openSync(at(name), 'r+');
      const below = names[0];
      let parent: { path: string; guid: string } | undefined;
      if (below !== undefined) {
        const under = openSync(at(below), 'r');
        parent = { path: `.\\${below}`, guid: readFileHeader(readerOf(hostIo, under)).dataWriteGuid };
        closeSync(under);
      }
      createVhdx(hostIo, fd, { size, blockBytes: i % 2 ? MiB : 2 * MiB, ...(parent ? { parent } : {}) });
      closeSync(fd);
      names.unshift(name);
      const close = open(rig, names);
      rig.work(model, 77 + i, 40, 500);
      close();
    }
    return names;
  };
  it('sectors of the image and of its parents, written and read back', { timeout: 60_000 }, () => {
    const size = 7 * MiB + 4096;
    const model = new Uint8Array(size);
    const rig = new Rig(16 << 20);
    const names = chain(4, size, model, rig);
    const close = open(rig, names, true);
    compare(rig, model);
    close();
    for (const name of names) {
      const fd = openSync(at(name), 'r');
      expect(checkVhdx(hostIo, fd)).toMatchObject({ corruptions: 0, leaks: 0, problems: [] });
      closeSync(fd);
    }
  });
  it.runIf(libvhdi)('is to libvhdi what it is to us', { timeout: 60_000 }, () => {
    const size = 5 * MiB + 4096;
    const model = new Uint8Array(size);
    const names = chain(3, size, model, new Rig(16 << 20));
    for (let from = 0; from < names.length; from++) {
      const said = pyvhdi(names.slice(from));
      const rig = new Rig(16 << 20);
      const close = open(rig, names.slice(from), true);
      const ours = Buffer.from(rig.all());
      close();
      expect([said.length, Buffer.compare(said, ours)], names[from]).toEqual([size, 0]);
      if (from === 0) expect(Buffer.compare(said, model)).toBe(0);
    }
  });
  it('a parent that was changed, or is not there', () => {
    const rig = new Rig(16 << 20);
    const names = chain(2, 3 * MiB, new Uint8Array(3 * MiB), rig);
    expect(() => open(rig, names.slice(0, 1), true)).toThrow(/parent of a differencing image is missing/);
    const close = open(rig, names.slice(1));
    rig.run(rig.request(1, 0, 512, 0));
    close();
    expect(() => open(rig, names, true)).toThrow(/was changed/);
  });
});
