import { spawn, spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { lockImage, unlockImage } from './image-lock.ts';

const qemu = spawnSync('qemu-io', ['--version']).status === 0;
if (!qemu) console.warn('skipped: locks are not compared with those of qemu-io, which is not installed');

let folder: string;
let path: string;
const fds: number[] = [];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'nyx-lock-'));
  path = join(folder, 'disk');
  // qemu-io does not mind who else writes a raw file.
  if (qemu) spawnSync('qemu-img', ['create', '-f', 'qcow2', path, '1M']);
  else writeFileSync(path, '');
});
afterEach(() => {
  for (const fd of fds.splice(0)) closeSync(fd);
  rmSync(folder, { recursive: true });
});
const open = (flags: string): number => {
  const fd = openSync(path, flags);
  fds.push(fd);
  return fd;
};
const inUse = expect.objectContaining({ code: 'FILE_IN_USE' });

describe('image locks', () => {
  it('one writer, or many readers', () => {
    const [a, b] = [open('r'), open('r')];
    expect(lockImage(a, path, { write: false })).toBe(true);
    expect(lockImage(b, path, { write: false })).toBe(true);
    const w = open('r+');
    expect(() => lockImage(w, path, { write: true })).toThrow(inUse);
    unlockImage(a);
    unlockImage(b);
    lockImage(w, path, { write: true });
    expect(() => lockImage(a, path, { write: false })).toThrow(inUse);
    expect(() => lockImage(open('r+'), path, { write: true })).toThrow(inUse);
    expect(lockImage(b, path, { write: false, forceShare: true })).toBe(true);
  });
  it('a refused lock leaves nothing behind', () => {
    lockImage(open('r'), path, { write: false });
    const w = open('r+');
    expect(() => lockImage(w, path, { write: true })).toThrow(inUse);
    lockImage(open('r'), path, { write: false });
  });
});

describe.runIf(qemu)('beside QEMU', () => {
  const io = (...args: string[]) =>
    spawnSync('qemu-io', ['-f', 'qcow2', ...args, path], { encoding: 'utf8' });

  it('qemu-io refuses what we have open', () => {
    lockImage(open('r+'), path, { write: true });
    expect(io('-c', 'write 0 512').stderr).toMatch(/lock/);
    expect(io('-r', '-c', 'read 0 512').stderr).toMatch(/lock/);
    expect(io('-r', '-U', '-c', 'read 0 512').stdout).toMatch(/read 512/);
  });
  it('qemu-io reads what we read, and does not write it', () => {
    lockImage(open('r'), path, { write: false });
    expect(io('-r', '-c', 'read 0 512').stdout).toMatch(/read 512/);
    expect(io('-c', 'write 0 512').stderr).toMatch(/lock/);
  });
  it('we refuse what qemu-io has open', async () => {
    const child = spawn('qemu-io', ['-f', 'qcow2', path]);
    await new Promise((resolve) => child.stdout.once('data', resolve));
    try {
      expect(() => lockImage(open('r+'), path, { write: true })).toThrow(inUse);
      expect(() => lockImage(open('r'), path, { write: false })).toThrow(inUse);
    } finally {
      child.stdin.end('quit\n');
      await new Promise((resolve) => child.once('exit', resolve));
    }
    lockImage(open('r+'), path, { write: true });
  });
});
