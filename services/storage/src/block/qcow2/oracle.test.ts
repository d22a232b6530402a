/** Images made by qemu-img, read and written by us, checked by qemu-img. */
import { execFileSync } from 'node:child_process';
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { hostIo } from '../host.ts';
import { Rig, random } from '../testing/rig.ts';
import { check } from './check.ts';
import { Qcow2Disk } from './disk.ts';

const version = (() => {
  try {
    return execFileSync('qemu-img', ['--version'], { encoding: 'utf8' }).split('\n')[0];
  } catch {
    return undefined;
  }
})();
if (version === undefined)
  console.warn('skipped: qcow2 is not compared with QEMU, qemu-img is not installed');

const SIZE = 3 << 20;
let folder: string;
const img = (...args: string[]): string =>
  execFileSync('qemu-img', args, { cwd: folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
const io = (file: string, format: string, commands: string[]): void =>
  void execFileSync('qemu-io', ['-f', format, ...commands.flatMap((c) => ['-c', c]), file], { cwd: folder });

interface Case {
  name: string;
  options?: string;
  backing?: ('raw' | 'qcow2')[];
  compressed?: boolean;
  snapshot?: boolean;
}

const cases: Case[] = [];
for (const compat of ['0.10', '1.1'])
  for (const cluster of ['512', '4k', '64k', '2M'])
    for (const backing of [[], ['raw'], ['qcow2', 'raw']] as ('raw' | 'qcow2')[][])
      cases.push({
        name: '',
        options: `compat=${compat},cluster_size=${cluster}`,
        backing,
        compressed: cases.length % 2 === 0,
      });
for (const bits of [1, 2, 4, 8, 32, 64])
  cases.push({ name: '', options: `cluster_size=4k,refcount_bits=${bits}`, snapshot: bits > 1 });
for (const preallocation of ['metadata', 'falloc', 'full'])
  cases.push({ name: '', options: `cluster_size=64k,preallocation=${preallocation}` });
for (const cluster of ['16k', '64k', '2M'])
  for (const backing of [[], ['qcow2']] as ('raw' | 'qcow2')[][])
    for (const snapshot of [false, true])
      cases.push({
        name: '',
        options: `extended_l2=on,cluster_size=${cluster}`,
        backing,
        snapshot,
        compressed: !snapshot,
      });
for (const cluster of ['4k', '64k', '2M'])
  for (const extended of cluster === '4k' ? [''] : ['', ',extended_l2=on'])
    cases.push({
      name: '',
      options: `compression_type=zstd,cluster_size=${cluster}${extended}`,
      backing: cluster === '4k' ? ['qcow2'] : [],
      compressed: true,
    });
cases.push({ name: '', options: 'lazy_refcounts=on,cluster_size=4k', snapshot: true });
cases.push({ name: '', options: 'compat=0.10,cluster_size=1k', snapshot: true });
cases.push({
  name: '',
  options: 'compat=1.1,cluster_size=64k',
  snapshot: true,
  backing: ['qcow2', 'qcow2', 'qcow2', 'raw'],
});
for (const c of cases)
  c.name = [
    c.options,
    c.backing?.length ? `on ${c.backing.join(' on ')}` : '',
    c.compressed ? 'compressed' : '',
    c.snapshot ? 'snapshot' : '',
  ]
    .filter(Boolean)
    .join(', ');

/** Commands of qemu-io that scatter data, zeroes and holes. */
function scatter(seed: number, size: number, v3: boolean, compressed: boolean, cluster: number): string[] {
  const rand = random(seed);
  const list: string[] = [];
  for (let i = 0; i < 14; i++) {
    const at = rand(size / 512 - 64) * 512;
    const n = (1 + rand(63)) * 512;
    const kind = rand(6);
    if (kind === 0 && v3) list.push(`write -z ${rand(2) ? '-u' : ''} ${at} ${n}`);
    else if (kind === 1) list.push(`discard ${at} ${n}`);
    else list.push(`write -P ${1 + rand(255)} ${at} ${n}`);
  }
  // A cluster can be compressed only while there is nothing.
  const packed = new Set<number>();
  for (let i = 0; compressed && i < 6; i++) packed.add(rand(Math.floor(size / cluster)) * cluster);
  for (const at of packed)
    list.unshift(
      rand(2)
        ? `write -c -P ${1 + rand(255)} ${at} ${cluster}`
        : `write -c -s ${join(folder, 'text')} ${at} ${cluster}`,
    );
  return list;
}

const bytes = (text: string): number =>
  Number.parseInt(text, 10) * (/M/.test(text) ? 1 << 20 : /k/.test(text) ? 1024 : 1);

function make(c: Case, seed: number): { files: string[]; qcow2: boolean[] } {
  const layers = c.backing ?? [];
  const files: string[] = [];
  const cluster = bytes(/cluster_size=(\w+)/.exec(c.options ?? '')?.[1] ?? '64k');
  const v3 = !c.options?.includes('0.10');
  for (let i = layers.length - 1; i >= -1; i--) {
    const format = i < 0 ? 'qcow2' : layers[i]!;
    const file = i < 0 ? 'top' : `layer${i}`;
    // Lower layers are shorter than the disk, and of another shape.
    const size = SIZE - (i + 1) * 123 * 512;
    const below = files[0];
    const args = ['create', '-q', '-f', format];
    if (format === 'qcow2')
      args.push('-o', i < 0 ? c.options! : `cluster_size=${[4096, 65536, 1024][i % 3]}`);
    if (format === 'qcow2' && below) args.push('-b', below, '-F', layers[i + 1]!);
    img(...args, file, String(size));
    io(
      file,
      format,
      scatter(
        seed + i,
        size,
        format === 'qcow2' && v3,
        format === 'qcow2' && (c.compressed ?? false),
        i < 0 ? cluster : 65536,
      ),
    );
    if (i < 0 && c.snapshot) {
      img('snapshot', '-c', 'first', file);
      io(file, format, scatter(seed + 99, size, v3, false, cluster));
    }
    files.unshift(file);
  }
  return { files, qcow2: files.map((_, i) => i === 0 || layers[i - 1] === 'qcow2') };
}

const raw = (file: string, extra: string[] = []): Uint8Array => {
  img('convert', ...extra, '-f', 'qcow2', '-O', 'raw', file, 'flat');
  return readFileSync(join(folder, 'flat'));
};

function open(rig: Rig, files: string[], qcow2: boolean[], readOnly = false) {
  const fds = files.map((f, i) => openSync(join(folder, f), i === 0 && !readOnly ? 'r+' : 'r'));
  rig.open(
    (memory, completed) =>
      new Qcow2Disk(
        hostIo,
        { files: fds.map((fd, i) => ({ fd, qcow2: qcow2[i]! })), readOnly },
        memory,
        completed,
      ),
  );
  return () => {
    rig.disk.close();
    fds.forEach(closeSync);
  };
}

describe.skipIf(version === undefined)(`qcow2 and ${version}`, () => {
  beforeAll(() => {
    // In memory where that is: the tests flush often, and are not about the host's disk.
    folder = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'nyx-qcow2-'));
  });
  beforeAll(() => {
    // Compresses to something that is neither one byte nor all of it.
    let text = '';
    for (const rand = random(5); text.length < 3 << 20; ) text += `${rand(1000)} sectors at ${rand(97)}\n`;
    writeFileSync(join(folder, 'text'), text);
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  it.each(cases.map((c, i) => [c.name, c, i] as const))('%s', (_name, c, i) => {
    const { files, qcow2 } = make(c, 1000 * i + 7);
    const rig = new Rig();
    const before = raw('top');
    const untouched = readFileSync(join(folder, 'top'));
    let close = open(rig, files, qcow2, true);
    expect(Buffer.compare(rig.all(), before)).toBe(0);
    close();
    expect(Buffer.compare(readFileSync(join(folder, 'top')), untouched)).toBe(0);
    const snapshot = c.snapshot ? raw('top', ['-l', 'first']) : undefined;

    close = open(rig, files, qcow2);
    rig.work(before, i + 1, 24);
    expect(Buffer.compare(rig.all(), before)).toBe(0);
    close();
    // Throws when there is a leak or an error.
    img('check', '-q', 'top');
    expect(Buffer.compare(raw('top'), before)).toBe(0);
    if (snapshot) expect(Buffer.compare(raw('top', ['-l', 'first']), snapshot)).toBe(0);
    const fd = openSync(join(folder, 'top'), 'r');
    expect(check(hostIo, fd)).toMatchObject({ leaks: 0, corruptions: 0, flags: 0 });
    closeSync(fd);
    writeFileSync(join(folder, 'flat'), '');
  });
});
