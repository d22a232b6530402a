import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import {
  close,
  crc32c,
  dup,
  fallocate,
  fileSize,
  fsync,
  futexWait,
  futexWake,
  memcpy,
  memfdCreate,
  mmap,
  munmap,
  pread,
  pwrite,
} from './index.ts';

const coded = (code: string) => expect.objectContaining({ code });

test('two mappings of a memfd are one memory', () => {
  const fd = memfdCreate('shared', 8192);
  const a = new Uint32Array(mmap(fd, 8192));
  const b = new Uint32Array(mmap(fd, 4096, { offset: 4096 }));
  a[1024] = 0xabcdef01;
  expect(b[0]).toBe(0xabcdef01);
  close(fd);
  a[1025] = 7;
  expect(b[1]).toBe(7);
});

test('more than 4 GiB is one buffer', () => {
  const bytes = 6 * 2 ** 30;
  const fd = memfdCreate('large', bytes);
  const buffer = mmap(fd, bytes);
  const view = new DataView(buffer);
  view.setUint32(bytes - 4, 0x12345678, true);
  expect(buffer.byteLength).toBe(bytes);
  expect(new DataView(mmap(fd, 4096, { offset: bytes - 4096 })).getUint32(4092, true)).toBe(0x12345678);
  munmap(buffer);
  close(fd);
});

test('a mapping is refused beyond the end of the file, where access would kill us', () => {
  const fd = memfdCreate('small', 4096);
  expect(() => mmap(fd, 4097)).toThrow(coded('EINVAL'));
  expect(() => mmap(fd, 4096, { offset: 4096 })).toThrow(coded('EINVAL'));
  close(fd);
});

test('sealed: a file that its holder could shrink is refused', () => {
  const open = memfdCreate('open', 4096, { seal: false });
  expect(() => mmap(open, 4096, { sealed: true })).toThrow(coded('EPERM'));
  const sealed = memfdCreate('sealed', 4096);
  expect(mmap(sealed, 4096, { sealed: true }).byteLength).toBe(4096);
  close(open);
  close(sealed);
});

test('a mapping goes with munmap, wherever its buffer went meanwhile', () => {
  const fd = memfdCreate('nyx-moved', 4096);
  const buffer = mmap(fd, 4096);
  close(fd);
  const mapped = (): boolean => readFileSync('/proc/self/maps', 'latin1').includes('memfd:nyx-moved');
  const moved = structuredClone(buffer, { transfer: [buffer] });
  expect(buffer.byteLength).toBe(0);
  expect(new Uint8Array(moved)[4095]).toBe(0);
  munmap(buffer);
  expect(mapped()).toBe(true);
  munmap(moved);
  expect(mapped()).toBe(false);
});

test('munmap detaches: views become empty, nothing dangles', () => {
  const fd = memfdCreate('gone', 4096);
  const buffer = mmap(fd, 4096);
  const bytes = new Uint8Array(buffer);
  bytes[0] = 1;
  munmap(buffer);
  expect(buffer.byteLength).toBe(0);
  expect(bytes[0]).toBeUndefined();
  expect(() => crc32c(buffer, 0, 1)).toThrow(coded('EINVAL'));
  close(fd);
});

test('wrong arguments are refused with a code, not with a crash', () => {
  expect(() => memfdCreate('x', -1)).toThrow(coded('EINVAL'));
  expect(() => memfdCreate('x', Number.NaN)).toThrow(coded('EINVAL'));
  expect(() => memfdCreate('x', 1.5)).toThrow(coded('EINVAL'));
  expect(() => memfdCreate('nul\0', 4096)).toThrow(coded('ERR_INVALID_ARG'));
  // biome-ignore lint/suspicious/noExplicitAny: the point of the test
  expect(() => (memfdCreate as any)()).toThrow(coded('ERR_INVALID_ARG'));
  expect(() => mmap(999_999, 4096)).toThrow(
    expect.objectContaining({ code: 'EBADF', syscall: 'fstat', errno: 9 }),
  );
  expect(() => mmap(-1, 4096)).toThrow(coded('EINVAL'));
  expect(() => close(999_999)).toThrow(coded('EBADF'));
});

test('memcpy copies inside the buffers only', () => {
  const a = new ArrayBuffer(16);
  const b = new ArrayBuffer(8);
  new Uint8Array(b).set([1, 2, 3, 4]);
  memcpy(a, 10, b, 1, 3);
  expect([...new Uint8Array(a, 9, 5)]).toEqual([0, 2, 3, 4, 0]);
  for (const [to, from, length] of [
    [10, 0, 7],
    [0, 5, 4],
    [2 ** 40, 0, 1],
    [0, 0, 2 ** 40],
  ] as const)
    expect(() => memcpy(a, to, b, from, length)).toThrow(coded('EINVAL'));
});

test('crc32c gives the check values of RFC 3720 B.4', () => {
  const bytes = new Uint8Array(32);
  expect(crc32c(bytes.buffer, 0, 32)).toBe(0x8a9136aa);
  bytes.fill(0xff);
  expect(crc32c(bytes.buffer, 0, 32)).toBe(0x62a8ab43);
  for (let i = 0; i < 32; i++) bytes[i] = i;
  expect(crc32c(bytes.buffer, 0, 32)).toBe(0x46dd794e);
  // In two parts, at odd places.
  expect(crc32c(bytes.buffer, 13, 19, crc32c(bytes.buffer, 0, 13))).toBe(0x46dd794e);
});

test('futexWait tells why it returned', () => {
  const fd = memfdCreate('futex', 4096);
  const buffer = mmap(fd, 4096);
  expect(futexWait(buffer, 0, 1, 1e9)).toBe(1);
  expect(futexWait(buffer, 0, 0, 1000)).toBe(2);
  expect(futexWake(buffer, 0, 1)).toBe(0);
  expect(() => futexWait(buffer, 2, 0, 0)).toThrow(coded('EINVAL'));
  expect(() => futexWake(buffer, 4096, 1)).toThrow(coded('EINVAL'));
  close(fd);
});

test('files are read and written at offsets of mapped memory', () => {
  const folder = mkdtempSync(join(tmpdir(), 'nyx-native-'));
  const path = join(folder, 'f');
  writeFileSync(path, 'hello world');
  const fd = openSync(path, 'r+');
  const buffer = new ArrayBuffer(16);
  expect(pread(fd, buffer, 2, 5, 6)).toBe(5);
  expect(Buffer.from(buffer, 2, 5).toString()).toBe('world');
  expect(pwrite(fd, buffer, 2, 5, 0)).toBe(5);
  fsync(fd, true);
  expect(readFileSync(path, 'utf8')).toBe('world world');
  expect(pread(fd, buffer, 0, 16, 100)).toBe(0);
  expect(() => pread(fd, buffer, 10, 7, 0)).toThrow(coded('EINVAL'));
  expect(fileSize(fd)).toBe(11);
  const copy = dup(fd);
  close(copy);
  fallocate(fd, 'punchHole', 0, 5);
  expect(readFileSync(path)).toEqual(Buffer.from('\0\0\0\0\0 world'));
  closeSync(fd);
  rmSync(folder, { recursive: true });
});
