/** What `nyx disk convert` makes of an image, beside qemu-img: compressed, over another image, into one that is there. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { random } from '../block/testing/rig.ts';
import { checkImage, create, info } from './commands.ts';
import { convert } from './convert.ts';
import { Opened } from './open.ts';

const seed = Number(process.env.NYX_SEED);
const qemu = spawnSync('qemu-img', ['--version']).status === 0;
if (!qemu) console.warn('skipped: what nyx disk converts is not checked by qemu-img, which is not installed');

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'nyx-convert-'));
});
afterAll(() => rmSync(folder, { recursive: true }));
const at = (name: string): string => join(folder, name);
const img = (...args: string[]): string => execFileSync('qemu-img', args, { cwd: folder, encoding: 'utf8' });
const none = (): void => {};

/** A raw file with zeroes, text and noise in pieces of all lengths. */
function mixed(name: string, bytes: number): Buffer {
  const rand = random(seed);
  const disk = Buffer.alloc(bytes);
  for (let p = 0; p < bytes; ) {
    const n = Math.min(bytes - p, 1 + rand(4 ** rand(10)));
    const kind = rand(3);
    if (kind === 1) disk.fill('a text that is there again and again ', p, p + n);
    else if (kind === 2) for (let i = p; i < p + n; i++) disk[i] = rand(256);
    p += n;
  }
  writeFileSync(at(name), disk);
  return disk;
}

/** Through our driver, and as qemu-img sees it. */
function same(name: string, disk: Buffer, raw: string): void {
  convert({ from: at(name), to: { path: at('flat'), format: 'raw' } }, none);
  expect(readFileSync(at('flat')).equals(disk)).toBe(true);
  const clean = { leaks: 0, corruptions: 0, flags: 0 };
  expect(checkImage({ path: at(name), repair: 'none' })).toMatchObject(clean);
  if (!qemu) return;
  img('check', '-q', name);
  img('compare', '-f', 'raw', '-F', 'qcow2', raw, name);
}

describe('nyx disk convert -c', () => {
  it.each([
    { clusterBits: 9 },
    { clusterBits: 12, refcountOrder: 0 },
    { clusterBits: 12, refcountOrder: 1 },
    { clusterBits: 14, extendedL2: true },
    { clusterBits: 16 },
    { clusterBits: 16, version: 2 as const },
    { clusterBits: 21 },
  ])('has the same bytes, counted right: %o', (options) => {
    const disk = mixed('raw', options.clusterBits === 9 ? 1_500_160 : 9_000_448);
    convert(
      { from: at('raw'), format: 'raw', to: { path: at('c'), format: 'qcow2', ...options }, compress: true },
      none,
    );
    same('c', disk, 'raw');
    convert({ from: at('raw'), format: 'raw', to: { path: at('p'), format: 'qcow2', ...options } }, none);
    if (options.clusterBits > 12) expect(statSync(at('c')).size).toBeLessThan(0.8 * statSync(at('p')).size);

    // Written over, in pieces: what shares a host cluster with others is let go of alone.
    const rand = random(seed + 1);
    const d = new Opened({ path: at('c'), format: 'qcow2' }, true, 65536);
    for (let i = 0; i < 60; i++) {
      const n = 512 * (1 + rand(100));
      const p = 512 * rand((disk.length - n) / 512);
      new Uint8Array(d.buffer).fill(i + 1, 0, n);
      d.do(1, p, n);
      disk.fill(i + 1, p, p + n);
    }
    d.close();
    writeFileSync(at('raw'), disk);
    same('c', disk, 'raw');
  });

  it('refuses what it cannot do, before the target is touched', () => {
    mixed('raw', 1 << 20);
    writeFileSync(at('mine'), 'mine');
    for (const to of [
      { format: 'raw' as const },
      { format: 'vhdx' as const },
      { format: 'qcow2' as const, preallocation: 'metadata' as const },
      { format: 'qcow2' as const, compression: 1 as const },
    ])
      expect(() =>
        convert({ from: at('raw'), format: 'raw', to: { path: at('mine'), ...to }, compress: true }, none),
      ).toThrow(/compressed/);
    expect(readFileSync(at('mine'), 'latin1')).toBe('mine');
  });
});

it.each([false, true])('over another image its zeroes hide what is below; compressed: %s', (compress) => {
  const disk = mixed('raw', 5 << 20);
  writeFileSync(at('base'), Buffer.alloc(6 << 20, 0x55));
  const to = { path: at('o'), format: 'qcow2' as const, backing: 'base', backingFormat: 'raw' as const };
  convert({ from: at('raw'), format: 'raw', to, compress }, none);
  same('o', disk, 'raw');
});

it('-n: into an image that is there, whose content goes; not into one that is smaller', () => {
  const disk = mixed('raw', 3 << 20);
  const to = { path: at('there'), format: 'qcow2' as const };
  create({ ...to, size: 4 << 20, clusterBits: 12 });
  const d = new Opened(to, true, 1 << 20);
  new Uint8Array(d.buffer).fill(9);
  for (let p = 0; p < 4 << 20; p += 1 << 20) d.do(1, p, 1 << 20);
  d.close();
  convert({ from: at('raw'), format: 'raw', to, existing: true }, none);
  expect(info({ path: at('there') })).toMatchObject({ 'cluster-size': 4096, 'virtual-size': 4 << 20 });
  const all = Buffer.concat([disk, Buffer.alloc(1 << 20, 9)]);
  writeFileSync(at('raw4'), all);
  same('there', all, 'raw4');
  create({ ...to, size: 1 << 20 });
  expect(() => convert({ from: at('raw'), format: 'raw', to, existing: true }, none)).toThrow(
    /1048576 bytes/,
  );
});

it('a disk of 16 TiB with little in it takes no longer than what is in it', () => {
  const big = { path: at('big'), format: 'qcow2' as const };
  create({ ...big, size: 16 * 2 ** 40 });
  const d = new Opened(big, true, 65536);
  new Uint8Array(d.buffer).fill(7);
  for (const p of [0, 5 * 2 ** 40 + 512, 16 * 2 ** 40 - 65536]) d.do(1, p, 65536);
  d.close();
  for (const compress of [false, true]) {
    convert({ from: at('big'), to: { path: at('big2'), format: 'qcow2' }, compress }, none);
    if (qemu) img('compare', 'big', 'big2');
    const r = new Opened({ path: at('big2'), format: 'qcow2' }, false, 65536 + 1024);
    r.do(0, 5 * 2 ** 40, 65536 + 1024);
    const got = Buffer.from(r.buffer);
    expect([got[511], got[512], got[65536 + 511], got[65536 + 512]]).toEqual([0, 7, 7, 0]);
    r.close();
  }
});

it.each([1, 511, 1000, (1 << 20) + 1])(
  'a raw file of %i bytes has all of them in the new disk, and zeroes to the end of the sector',
  (bytes) => {
    const disk = Buffer.alloc(Math.ceil(bytes / 512) * 512).fill(3, 0, bytes);
    writeFileSync(at('odd'), disk.subarray(0, bytes));
    writeFileSync(at('whole'), disk);
    for (const compress of [false, true]) {
      convert({ from: at('odd'), format: 'raw', to: { path: at('o'), format: 'qcow2' }, compress }, none);
      same('o', disk, 'whole');
    }
    convert({ from: at('odd'), format: 'raw', to: { path: at('copy'), format: 'raw' } }, none);
    expect(readFileSync(at('copy')).equals(disk)).toBe(true);
  },
);
