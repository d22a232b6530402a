import { closeSync, mkdtempSync, openSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { DiskFormat } from '@nyx/protocol/disk-options';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { openDisk } from './disk-files.ts';

let folder: string;
const opened: number[] = [];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'nyx-disks-'));
});
afterEach(() => {
  for (const fd of opened.splice(0)) closeSync(fd);
  rmSync(folder, { recursive: true });
});

/** As much of a qcow2 image as tells what is below it. */
function image(name: string, backing?: string, format?: string): void {
  const b = Buffer.alloc(65536);
  b.writeUInt32BE(0x514649fb, 0);
  b.writeUInt32BE(3, 4);
  b.writeUInt32BE(16, 20);
  b.writeUInt32BE(104, 100);
  if (format !== undefined) {
    b.writeUInt32BE(0xe2792aca, 104);
    b.writeUInt32BE(format.length, 108);
    b.write(format, 112);
  }
  if (backing !== undefined) {
    b.writeUInt32BE(4096, 12);
    b.writeUInt32BE(backing.length, 16);
    b.write(backing, 4096);
  }
  writeFileSync(join(folder, name), b);
}
const open = (name: string, format?: DiskFormat) =>
  openDisk(
    (path, _what, write) => {
      const fd = openSync(path, write ? 'r+' : 'r');
      opened.push(fd);
      return { fd, bytes: statSync(path).size };
    },
    'disk 0',
    { path: join(folder, name), readonly: false, format },
  );
const refused = (make: () => unknown, got: RegExp): void => {
  let error: unknown;
  try {
    make();
  } catch (e) {
    error = e;
  }
  expect(error).toMatchObject({ code: 'DISK_INVALID' });
  expect(JSON.stringify(error) + (error as { pretty(): string }).pretty()).toMatch(got);
};

it('a chain: topmost first, names relative to the image that has them', () => {
  writeFileSync(join(folder, 'base.raw'), new Uint8Array(512));
  image('middle', 'base.raw', 'raw');
  image('top', 'middle', 'qcow2');
  expect(open('top', 'qcow2').map((f) => f.format)).toEqual(['qcow2', 'qcow2', 'raw']);
});
it('the format of what a guest may have written is not guessed', () => {
  image('disk', '/etc/hostname', 'raw');
  refused(() => open('disk'), /begins like a qcow2 image/);
  expect(open('disk', 'raw').map((f) => f.format)).toEqual(['raw']);
  writeFileSync(join(folder, 'like'), Buffer.alloc(512).fill('vhdxfile', 0, 8));
  refused(() => open('like'), /begins like a vhdx image/);
  image('under', 'disk');
  refused(() => open('under', 'qcow2'), /does not say/);
});
it('a chain that ends in itself, or is too long', () => {
  image('a', 'b', 'qcow2');
  image('b', 'a', 'qcow2');
  refused(() => open('a', 'qcow2'), /twice/);
  for (let i = 0; i < 70; i++) image(`l${i}`, `l${i + 1}`, 'qcow2');
  refused(() => open('l0', 'qcow2'), /64/);
});
it('a name that is not a file of this host, or not in the header', () => {
  image('net', 'nbd://host/x', 'raw');
  refused(() => open('net', 'qcow2'), /nbd/);
  image('far', 'x'.repeat(2000), 'raw');
  refused(() => open('far', 'qcow2'), /2000/);
  writeFileSync(join(folder, 'short'), 'QFI');
  refused(() => open('short', 'qcow2'), /short/);
});

it('disks that are no file', () => {
  const made = (path: string, size?: number, bus?: string) =>
    openDisk(
      () => {
        throw new Error('nothing is opened');
      },
      'disk 0',
      { path, readonly: false, size, bus },
    );
  const [nothing] = made('null-co://', 1 << 20);
  const [memory] = made('memory://', 1 << 20);
  opened.push(nothing!.fd, memory!.fd);
  expect([nothing!.format, memory!.format, memory!.bytes]).toEqual(['null', 'raw', 1 << 20]);
  refused(() => made('memory://'), /size of memory/);
  refused(() => made('null-co://', 100), /100/);
  refused(() => made('nbd://host/x', undefined, 'ahci'), /bus=virtio/);
});
