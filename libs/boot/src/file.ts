/** A file to boot, read piece by piece: what a kernel consists of goes straight into guest memory. */
import { readSync } from 'node:fs';
import { BootError } from './errors.ts';

export interface BootFile {
  /** Bytes. */
  readonly length: number;
  /** Fills `into` with what lies at byte `at`. @throws BootError KERNEL_TRUNCATED */
  read(at: number, into: Uint8Array): void;
}

const truncated = (need: number, got: number): BootError =>
  new BootError(
    'KERNEL_TRUNCATED',
    `${need} bytes`,
    `${got}`,
    'The file was cut, perhaps while it was read; copy or build it again.',
  );

export const bytesFile = (bytes: Uint8Array): BootFile => ({
  length: bytes.length,
  read(at, into) {
    if (at + into.length > bytes.length) throw truncated(at + into.length, bytes.length);
    into.set(bytes.subarray(at, at + into.length));
  },
});

/** A file by its descriptor, however its offset stands. */
export const descriptorFile = (fd: number, length: number): BootFile => ({
  length,
  read(at, into) {
    for (let done = 0; done < into.length; ) {
      const n = readSync(fd, into, done, into.length - done, at + done);
      if (n === 0) throw truncated(at + into.length, at + done);
      done += n;
    }
  },
});

/** A copy of a piece. */
export const piece = (file: BootFile, at: number, length: number): Uint8Array => {
  const bytes = new Uint8Array(length);
  file.read(at, bytes);
  return bytes;
};
