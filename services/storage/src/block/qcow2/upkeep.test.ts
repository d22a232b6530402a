/** What is done to whole images - made larger, snapshots, other people's bitmaps and marks -, with QEMU as the judge. */
import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { checkImage, create, resize, snapshot } from '../../tool/commands.ts';
import { convert } from '../../tool/convert.ts';
import { Opened } from '../../tool/open.ts';
import { hostIo } from '../host.ts';
import { readBitmaps } from './bitmaps.ts';
import { readHeader } from './header.ts';

const qemu = spawnSync('qemu-img', ['--version']).status === 0;
if (!qemu)
  console.warn('skipped: what becomes of whole qcow2 images is not judged, qemu-img is not installed');

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'nyx-upkeep-'));
});
afterAll(() => rmSync(folder, { recursive: true }));
const at = (name: string): string => join(folder, name);
const img = (...args: string[]): string =>
  execFileSync('qemu-img', args, { cwd: folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
const io = (file: string, ...commands: string[]): void =>
  void execFileSync('qemu-io', ['-f', 'qcow2', ...commands.flatMap((c) => ['-c', c]), file], { cwd: folder });
const content = (name: string): Buffer => {
  img('convert', '-f', 'qcow2', '-O', 'raw', name, 'flat');
  return readFileSync(at('flat'));
};
const write = (name: string, position: number, bytes: number): void => {
  const d = new Opened({ path: at(name), format: 'qcow2' }, true, bytes);
  new Uint8Array(d.buffer).fill(5);
  d.do(1, position, bytes);
  d.close();
};
const bitmapsOf = (name: string): Record<string, string[]> => {
  const { data } = JSON.parse(img('info', '--output', 'json', name))['format-specific'];
  return Object.fromEntries(
    (data.bitmaps ?? []).map((b: { name: string; flags: string[] }) => [b.name, b.flags]),
  );
};

describe.runIf(qemu)('a disk that is made larger than what lies under it was cut to', () => {
  for (const [compat, cluster, from] of [
    ['1.1', '64k', 1 << 20],
    ['1.1', '64k', (1 << 20) + 512],
    ['1.1', '4k', (1 << 20) - 1536],
    ['0.10', '64k', (1 << 20) + 512],
    ['1.1,extended_l2=on', '64k', (1 << 20) + 2560],
  ] as const)
    it.each(['raw', 'qcow2', 'vhdx'] as const)(
      `shows zeroes: compat=${compat}, clusters of ${cluster}, from ${from}, over %s`,
      (under) => {
        writeFileSync(at('old'), Buffer.alloc(3 << 20, 0xaa));
        convert({ from: at('old'), format: 'raw', to: { path: at('below'), format: under } }, () => {});
        rmSync(at('top'), { force: true });
        img(
          ...['create', '-q', '-f', 'qcow2', '-o', `compat=${compat},cluster_size=${cluster}`],
          ...['-b', 'below', '-F', under, 'top', String(from)],
        );
        if (under !== 'vhdx') io('top', `write -P 9 ${from - 1024} 512`);
        const { size } = resize({ path: at('top'), size: 3 << 20, relative: true });
        expect(size).toBe(from + (3 << 20));
        const now = content('top');
        expect(now.length).toBe(size);
        expect(now[from - 1]).toBe(0xaa);
        expect(now.subarray(from).every((x) => x === 0)).toBe(true);
        img('check', '-q', 'top');
      },
    );
});

describe.runIf(qemu)('dirty bitmaps of others', () => {
  it('one that stands still stays good, one that had to follow our writes says that it did not; nothing is leaked', () => {
    img('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', 'b', '4M');
    img('bitmap', '--add', '-g', '4k', 'b', 'follows');
    img('bitmap', '--add', '--disable', '-g', '64k', 'b', 'stands');
    io('b', 'write -P 3 0 2M');
    write('b', 1 << 20, 8192);
    expect(bitmapsOf('b')).toEqual({ follows: ['in-use', 'auto'], stands: [] });
    img('check', '-q', 'b');
    expect(checkImage({ path: at('b'), repair: 'none' })).toMatchObject({ leaks: 0, corruptions: 0 });
    // Its table is too short for the larger disk.
    resize({ path: at('b'), size: 2 ** 34, relative: false });
    expect(bitmapsOf('b')).toEqual({ follows: ['in-use', 'auto'], stands: ['in-use'] });
    img('bitmap', '--remove', 'b', 'follows');
    img('bitmap', '--remove', 'b', 'stands');
    img('check', '-q', 'b');
  });
  it('a snapshot that is applied, and a disk that grows, are changes as well; a snapshot that is taken is none', () => {
    img('create', '-q', '-f', 'qcow2', 's', '4M');
    snapshot({ path: at('s'), action: 'create', name: 'one' });
    img('bitmap', '--add', 's', 'x');
    snapshot({ path: at('s'), action: 'create', name: 'two' });
    expect(bitmapsOf('s')).toEqual({ x: ['auto'] });
    snapshot({ path: at('s'), action: 'apply', name: 'one' });
    expect(bitmapsOf('s')).toEqual({ x: ['in-use', 'auto'] });
    img('create', '-q', '-f', 'qcow2', 'g', '4M');
    img('bitmap', '--add', 'g', 'x');
    resize({ path: at('g'), size: 1 << 20, relative: true });
    expect(bitmapsOf('g')).toEqual({ x: ['in-use', 'auto'] });
    for (const f of ['s', 'g']) img('check', '-q', f);
  });
  it('a directory that makes no sense is given up', () => {
    img('create', '-q', '-f', 'qcow2', 'n', '4M');
    img('bitmap', '--add', 'n', 'x');
    const fd = openSync(at('n'), 'r');
    const [bitmap] = readBitmaps(hostIo, fd, readHeader(hostIo, fd))!;
    closeSync(fd);
    const bytes = readFileSync(at('n'));
    bytes.writeUInt32BE(0xffff_ff00, bitmap!.flagsAt + 8);
    writeFileSync(at('n'), bytes);
    expect(checkImage({ path: at('n'), repair: 'none' })).toMatchObject({ corruptions: 1 });
    write('n', 0, 512);
    expect(content('n')[0]).toBe(5);
  });
});

describe.runIf(qemu)('an image that was not closed', () => {
  const dirty = (name: string): void => {
    img('create', '-q', '-f', 'qcow2', '-o', 'lazy_refcounts=on,cluster_size=512', name, '256k');
    // Its writer dies with data in the tables and refcounts of none of them.
    spawnSync('qemu-io', ['-f', 'qcow2', '-c', 'write -P 6 0 128k', '-c', 'flush', '-c', 'abort', at(name)]);
    expect(JSON.parse(img('info', '--output', 'json', '-U', name))['dirty-flag']).toBe(true);
  };
  it('is made good before it is made larger, or a snapshot is taken', () => {
    for (const [name, work] of [
      ['d1', () => resize({ path: at('d1'), size: 64 << 20, relative: true })],
      ['d2', () => snapshot({ path: at('d2'), action: 'create', name: 'x' })],
      ['d3', () => write('d3', 200 << 10, 512)],
    ] as const) {
      dirty(name);
      work();
      img('check', '-q', name);
      expect(
        content(name)
          .subarray(0, 128 << 10)
          .every((x) => x === 6),
      ).toBe(true);
    }
  });
  it('is not changed when it says that it is corrupt', () => {
    create({ path: at('c'), format: 'qcow2', size: 1 << 20 });
    const bytes = readFileSync(at('c'));
    bytes.writeUInt32BE(2, 76);
    writeFileSync(at('c'), bytes);
    for (const work of [
      () => resize({ path: at('c'), size: 64 << 20, relative: true }),
      () => snapshot({ path: at('c'), action: 'create', name: 'x' }),
      () => write('c', 0, 512),
    ])
      expect(work).toThrow(expect.objectContaining({ code: 'QCOW2_CORRUPT' }));
    expect(readFileSync(at('c')).equals(bytes)).toBe(true);
  });
});

describe.runIf(qemu)('a snapshot that cannot be taken', () => {
  it('leaves no trace: refcounts that are too narrow', () => {
    img('create', '-q', '-f', 'qcow2', '-o', 'refcount_bits=2', 'r', '1M');
    io('r', 'write -P 1 0 256k');
    for (const name of ['1', '2']) snapshot({ path: at('r'), action: 'create', name });
    const before = content('r');
    expect(() => snapshot({ path: at('r'), action: 'create', name: '3' })).toThrow(/wider refcounts/);
    img('check', '-q', 'r');
    expect(content('r').equals(before)).toBe(true);
  });
});
