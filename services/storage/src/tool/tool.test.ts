/** The tool of `nyx disk`, and qemu-img on what it made. */
import { execFileSync, spawnSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  linkSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type CreateRequest, checkImage, create, info, resize, snapshot } from './commands.ts';
import { convert } from './convert.ts';
import { copy } from './copy.ts';
import { chainOf, Opened } from './open.ts';

const qemu = spawnSync('qemu-img', ['--version']).status === 0;
if (!qemu) console.warn('skipped: images of nyx disk are not checked by qemu-img, which is not installed');

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'nyx-tool-'));
});
afterAll(() => rmSync(folder, { recursive: true }));
const at = (name: string): string => join(folder, name);
const img = (...args: string[]): string => execFileSync('qemu-img', args, { cwd: folder, encoding: 'utf8' });

/** Writes one value over a range of an image. */
function fill(name: string, value: number, position: number, bytes: number): void {
  const d = new Opened({ path: at(name), format: 'qcow2' }, true, bytes);
  new Uint8Array(d.buffer).fill(value);
  d.do(1, position, bytes);
  d.close();
}
const content = (name: string): Buffer => {
  convert({ from: at(name), to: { path: at('flat'), format: 'raw' } }, () => {});
  return readFileSync(at('flat'));
};

describe('nyx disk', () => {
  it('snapshots: what was then comes back, what is counted is right', () => {
    create({ path: at('s'), format: 'qcow2', size: 3 << 20, clusterBits: 12 });
    fill('s', 1, 0, 100_352);
    snapshot({ path: at('s'), action: 'create', name: 'one' });
    const then = content('s');
    fill('s', 2, 50_176, 200_704);
    snapshot({ path: at('s'), action: 'create', name: 'two' });
    const later = content('s');
    expect(later.equals(then)).toBe(false);
    expect(checkImage({ path: at('s'), repair: 'none' })).toMatchObject({
      leaks: 0,
      corruptions: 0,
      flags: 0,
    });
    snapshot({ path: at('s'), action: 'apply', name: 'one' });
    expect(content('s').equals(then)).toBe(true);
    snapshot({ path: at('s'), action: 'apply', name: '2' });
    expect(content('s').equals(later)).toBe(true);
    if (qemu) img('check', '-q', 's');
    snapshot({ path: at('s'), action: 'delete', name: 'one' });
    expect(snapshot({ path: at('s'), action: 'delete', name: 'two' })).toEqual([]);
    expect(checkImage({ path: at('s'), repair: 'none' })).toMatchObject({
      leaks: 0,
      corruptions: 0,
      flags: 0,
    });
    expect(content('s').equals(later)).toBe(true);
    expect(() => snapshot({ path: at('s'), action: 'apply', name: 'one' })).toThrow(/no snapshot 'one'/);
    if (qemu) img('check', '-q', 's');
  });
  it('resize grows the tables; a disk does not shrink', () => {
    create({ path: at('r'), format: 'qcow2', size: 1 << 20, clusterBits: 9 });
    fill('r', 7, 4096, 8192);
    expect(resize({ path: at('r'), format: 'qcow2', size: 64 << 20, relative: true })).toEqual({
      size: 65 << 20,
    });
    fill('r', 8, (65 << 20) - 4096, 4096);
    expect([content('r')[4096], content('r').at(-1)]).toEqual([7, 8]);
    expect(checkImage({ path: at('r'), repair: 'none' })).toMatchObject({
      leaks: 0,
      corruptions: 0,
      flags: 0,
    });
    expect(() => resize({ path: at('r'), format: 'qcow2', size: 512, relative: false })).toThrow(/only grow/);
    if (qemu) img('check', '-q', 'r');
  });
  it('check repairs what lies about its counts', () => {
    create({ path: at('c'), format: 'qcow2', size: 1 << 20 });
    fill('c', 3, 0, 65536);
    const bytes = readFileSync(at('c'));
    const block = Number(bytes.readBigUInt64BE(Number(bytes.readBigUInt64BE(48))));
    bytes.writeUInt16BE(0, block + 2 * 4);
    bytes.writeUInt16BE(1, block + 2 * 300);
    writeFileSync(at('c'), bytes);
    expect(checkImage({ path: at('c'), repair: 'none' })).toMatchObject({ leaks: 1, corruptions: 1 });
    checkImage({ path: at('c'), repair: 'all' });
    expect(checkImage({ path: at('c'), repair: 'none' })).toMatchObject({
      leaks: 0,
      corruptions: 0,
      flags: 0,
    });
    if (qemu) img('check', '-q', 'c');
  });
  it('preallocation, and options that contradict each other', () => {
    create({
      path: at('p'),
      format: 'qcow2',
      size: 5 << 20,
      clusterBits: 14,
      extendedL2: true,
      preallocation: 'metadata',
    });
    expect(info({ path: at('p') })).toMatchObject({ format: 'qcow2', 'virtual-size': 5 << 20 });
    expect(content('p').every((x) => x === 0)).toBe(true);
    if (qemu) img('check', '-q', 'p');
    for (const o of [
      { version: 2, extendedL2: true },
      { clusterBits: 8 },
      { clusterBits: 12, extendedL2: true },
      { clusterBits: 9, size: 2 ** 45 },
    ] as const)
      expect(() => create({ path: at('x'), format: 'qcow2', size: 1 << 20, ...o })).toThrow(/qcow2: /);
    expect(() => create({ path: at('x'), format: 'qcow2', backing: 'p' })).toThrow(
      /format of the backing file/,
    );
  });
});

describe('a copy', () => {
  it.each(['raw', 'qcow2', 'vhdx'] as const)('into a smaller %s image: that is made as large', (format) => {
    create({ path: at('under'), format: 'raw', size: 4 << 20 });
    writeFileSync(at('under'), Buffer.alloc(4 << 20, 7));
    // A qcow2 image over something longer, which stays out of sight.
    const over = format === 'qcow2' ? { backing: 'under', backingFormat: 'raw' as const } : {};
    create({ path: at('small'), format, size: 1 << 20, ...over });
    create({ path: at('large'), format: 'qcow2', size: 1 << 20, backing: 'small', backingFormat: format });
    resize({ path: at('large'), size: 3 << 20, relative: false });
    fill('large', 9, (3 << 20) - 512, 512);
    const before = content('large');
    expect([before[(2 << 20) - 1], before.at(-1)]).toEqual([0, 9]);
    const chain = chainOf(at('large'));
    const layers = chain.map((l, i) => ({ fd: openSync(l.path, i < 2 ? 'r+' : 'r'), format: l.format }));
    copy({ layers, count: 1, target: layers.slice(1), fresh: false }, () => {});
    for (const { fd } of layers) closeSync(fd);
    expect(content('small').equals(before)).toBe(true);
    if (qemu && format !== 'raw') img('check', '-q', '-f', format, 'small');
  });
});

/** A block device over a file full of something; undefined where there are none to be had. */
const device = (bytes: number): string | undefined => {
  writeFileSync(at('loop'), Buffer.alloc(bytes, 0x77));
  const r = spawnSync('losetup', ['-f', '--show', at('loop')], { encoding: 'utf8' });
  if (r.status === 0) return r.stdout.trim();
  console.warn(`skipped: images on a block device; losetup: ${r.stderr ?? r.error?.message}`);
  return undefined;
};

describe('a block device', () => {
  it('holds an image, raw or qcow2; one that is too small has no space', () => {
    const path = device(8 << 20);
    if (path === undefined) return;
    try {
      expect(info({ path })).toMatchObject({ format: 'raw', 'virtual-size': 8 << 20 });
      create({ path: at('from'), format: 'qcow2', size: 4 << 20 });
      fill('from', 3, 1 << 20, 1 << 20);
      const before = content('from');
      const back = (): Buffer => {
        convert({ from: path, to: { path: at('flat'), format: 'raw' } }, () => {});
        return readFileSync(at('flat'));
      };
      convert({ from: at('from'), to: { path, format: 'qcow2' } }, () => {});
      expect(checkImage({ path, repair: 'none' })).toMatchObject({ leaks: 0, corruptions: 0 });
      if (qemu) img('check', '-q', '-f', 'qcow2', path);
      expect(back().equals(before)).toBe(true);
      convert({ from: at('from'), to: { path, format: 'raw' } }, () => {});
      expect(
        back()
          .subarray(0, 4 << 20)
          .equals(before),
      ).toBe(true);
      writeFileSync(at('large'), Buffer.alloc(9 << 20, 5));
      const noSpace = expect.objectContaining({ code: 'ENOSPC' });
      expect(() => convert({ from: at('large'), to: { path, format: 'qcow2' } }, () => {})).toThrow(noSpace);
      expect(() => convert({ from: at('large'), to: { path, format: 'raw' } }, () => {})).toThrow(
        /are needed/,
      );
    } finally {
      execFileSync('losetup', ['-d', path]);
    }
  });
});

describe('what goes wrong', () => {
  it('an image is not touched by options that are wrong, and a file that was not there is not left', () => {
    create({ path: at('w'), format: 'qcow2', size: 1 << 20 });
    const before = readFileSync(at('w'));
    const name = 'n'.repeat(600);
    const bad: CreateRequest[] = [
      { path: '', format: 'qcow2', size: 1 << 20, clusterBits: 8 },
      { path: '', format: 'qcow2', size: 1 << 20, refcountOrder: Math.log2(3) },
      { path: '', format: 'qcow2', size: 1 << 20, version: 2, compression: 1 },
      { path: '', format: 'qcow2', clusterBits: 9, size: 2 ** 45 },
      {
        path: '',
        format: 'qcow2',
        clusterBits: 9,
        size: 1024,
        backing: name,
        backingFormat: 'raw',
        unchecked: true,
      },
      { path: '', format: 'vhdx', size: 1 << 20, blockBytes: 3 << 20 },
      { path: '', format: 'raw', size: 1 << 20, preallocation: 'metadata' },
    ];
    for (const o of bad)
      for (const path of [at('w'), at('new')]) expect(() => create({ ...o, path })).toThrow(/qcow2|vhdx|raw/);
    const missing = { format: 'qcow2', size: 512, backing: 'nowhere', backingFormat: 'raw' } as const;
    expect(() => create({ ...missing, path: at('w') })).toThrow(/ENOENT/);
    expect(readFileSync(at('w')).equals(before)).toBe(true);
    expect(existsSync(at('new'))).toBe(false);
    create({ ...missing, path: at('new'), unchecked: true });
    rmSync(at('new'));
  });
  it('what is no file is told apart, without waiting for it', () => {
    execFileSync('mkfifo', [at('fifo')]);
    const wrongKind = expect.objectContaining({ code: 'FILE_KIND' });
    for (const path of [at('fifo'), folder, '/dev/null']) {
      expect(() => info({ path })).toThrow(wrongKind);
      expect(() => checkImage({ path, repair: 'all' })).toThrow(wrongKind);
      expect(() => create({ path, format: 'raw', size: 512 })).toThrow(wrongKind);
      expect(() => convert({ from: path, to: { path: at('new'), format: 'raw' } }, () => {})).toThrow(
        wrongKind,
      );
    }
    create({
      path: at('far'),
      format: 'qcow2',
      size: 512,
      backing: 'nbd://h/x',
      backingFormat: 'raw',
      unchecked: true,
    });
    expect(() => content('far')).toThrow(/nbd:\/\/h\/x.*a file of this host/);
  });
  it('the tool ends after an error, and lets go of the image', () => {
    create({ path: at('e'), format: 'qcow2', size: 1 << 20 });
    linkSync(at('e'), at('same'));
    // Onto itself: found when the source is open.
    const request = { command: 'convert', from: at('e'), to: { path: at('same'), format: 'qcow2' } };
    const tool = fileURLToPath(new URL('../../dist/disk.cjs', import.meta.url));
    const r = spawnSync(process.execPath, [tool, JSON.stringify(request)], {
      encoding: 'utf8',
      timeout: 60_000,
    });
    expect(r.signal).toBe(null);
    expect(r.status).toBe(1);
    expect(JSON.parse(r.stdout).error.code).toBe('FILE_IN_USE');
    expect(() => convert({ ...request, to: { path: at('same'), format: 'qcow2' } }, () => {})).toThrow();
    fill('e', 1, 0, 512);
  });
  it.each(['falloc', 'full'] as const)('preallocation %s: there is room for all of it', (preallocation) => {
    for (const format of ['raw', 'qcow2'] as const) {
      create({ path: at('room'), format, size: 3 << 20, preallocation });
      const { size, blocks } = statSync(at('room'));
      expect(blocks * 512).toBeGreaterThanOrEqual(3 << 20);
      expect(size).toBeGreaterThanOrEqual(3 << 20);
      expect(content('room').every((x) => x === 0)).toBe(true);
      if (qemu && format === 'qcow2') img('check', '-q', 'room');
    }
  });
});

describe('vhdx', () => {
  it('created, checked, grown, converted both ways; over a parent', () => {
    create({ path: at('v'), format: 'vhdx', size: 20 << 20, blockBytes: 2 << 20 });
    expect(info({ path: at('v') })).toMatchObject({
      format: 'vhdx',
      'virtual-size': 20 << 20,
      'cluster-size': 2 << 20,
      'format-specific': { subformat: 'dynamic' },
    });
    const d = new Opened({ path: at('v') }, true, 8192);
    new Uint8Array(d.buffer).fill(9);
    d.do(1, 3 << 20, 8192);
    d.close();
    expect(checkImage({ path: at('v'), repair: 'none' })).toMatchObject({ corruptions: 0, allocated: 1 });
    expect(resize({ path: at('v'), format: 'vhdx', size: 4 << 20, relative: true })).toEqual({
      size: 24 << 20,
    });
    if (qemu) img('check', '-q', '-f', 'vhdx', 'v');
    const before = content('v');
    expect([before.length, before[3 << 20], before[(3 << 20) + 8192]]).toEqual([24 << 20, 9, 0]);
    for (const format of ['qcow2', 'vhdx'] as const) {
      convert({ from: at('v'), to: { path: at(`v.${format}`), format } }, () => {});
      if (qemu) img('compare', '-q', '-f', 'vhdx', '-F', format, 'v', `v.${format}`);
      expect(content(`v.${format}`).equals(before)).toBe(true);
    }
    create({ path: at('child'), format: 'vhdx', backing: 'v', backingFormat: 'vhdx' });
    expect(info({ path: at('child') })).toMatchObject({ chain: [at('child'), at('v')] });
    expect(content('child').equals(before)).toBe(true);
    create({ path: at('over'), format: 'qcow2', backing: 'child', backingFormat: 'vhdx' });
    fill('over', 1, 0, 512);
    expect(content('over').subarray(512).equals(before.subarray(512))).toBe(true);
    expect(() => create({ path: at('bad'), format: 'vhdx', size: 1 << 20, blockBytes: 3 << 20 })).toThrow(
      /vhdx: blocks/,
    );
    expect(() => create({ path: at('bad'), format: 'vhdx', backing: 's', backingFormat: 'qcow2' })).toThrow(
      /under a VHDX image/,
    );
  });
});

describe('an image that somebody has open', () => {
  it('is not changed, and read only on purpose', () => {
    create({ path: at('open'), format: 'qcow2', size: 1 << 20 });
    const d = new Opened({ path: at('open'), format: 'qcow2' }, true, 512);
    const inUse = expect.objectContaining({ code: 'FILE_IN_USE' });
    try {
      expect(() => create({ path: at('open'), format: 'raw', size: 512 })).toThrow(inUse);
      expect(() => snapshot({ path: at('open'), action: 'create', name: 'x' })).toThrow(inUse);
      expect(() => info({ path: at('open') })).toThrow(inUse);
      expect(info({ path: at('open'), forceShare: true })).toMatchObject({ 'virtual-size': 1 << 20 });
      if (qemu)
        expect(spawnSync('qemu-img', ['check', at('open')], { encoding: 'utf8' }).stderr).toMatch(/lock/);
    } finally {
      d.close();
    }
    expect(info({ path: at('open') })).toMatchObject({ format: 'qcow2' });
  });
});
