/**
 * What a format driver asks of the host: synchronous access for metadata (small, nearly always in the page cache),
 * and a queue for data. An interface, so that tests can stand between driver and file.
 */
import { ftruncateSync } from 'node:fs';
import { createIoQueue, fallocate, fileSize, fsync, type IoQueue, pread, pwrite } from '@nyx/native';

export type HostQueue = Pick<
  IoQueue,
  'segments' | 'completions' | 'addMemory' | 'queue' | 'submit' | 'harvest' | 'inFlight' | 'close'
>;

export interface HostIo {
  /** Bytes read, fewer than `length` only at the end of the file. @throws errors with the errno's name as code */
  pread(fd: number, buffer: ArrayBuffer, at: number, length: number, position: number): number;
  pwrite(fd: number, buffer: ArrayBuffer, at: number, length: number, position: number): number;
  fdatasync(fd: number): void;
  punchHole(fd: number, position: number, length: number): void;
  size(fd: number): number;
  /** Sets the size of a file; what is new reads as zeroes. */
  truncate(fd: number, size: number): void;
  openQueue(entries: number, onReady: () => void): HostQueue;
}

export const hostIo: HostIo = {
  pread,
  pwrite,
  fdatasync: (fd) => fsync(fd, true),
  punchHole: (fd, position, length) => fallocate(fd, 'punchHole', position, length),
  size: fileSize,
  truncate: ftruncateSync,
  openQueue: (entries, onReady) => createIoQueue({ entries, onReady }),
};

/** The same for a process that may stand still while a write waits. */
export const patientIo: HostIo = {
  ...hostIo,
  openQueue: (entries, onReady) => createIoQueue({ entries, inline: 'all', onReady }),
};

/** Reads `length` bytes; what lies behind the end of the file reads as zeroes. */
export function readPadded(
  io: HostIo,
  fd: number,
  buffer: ArrayBuffer,
  at: number,
  length: number,
  position: number,
): void {
  let done = 0;
  while (done < length) {
    const n = io.pread(fd, buffer, at + done, length - done, position + done);
    if (n === 0) break;
    done += n;
  }
  if (done < length) new Uint8Array(buffer, at + done, length - done).fill(0);
}

/** Writes all of it. */
export function writeAll(
  io: HostIo,
  fd: number,
  buffer: ArrayBuffer,
  at: number,
  length: number,
  position: number,
): void {
  for (let done = 0; done < length; )
    done += io.pwrite(fd, buffer, at + done, length - done, position + done);
}

/** An error of the block layer: `code` is stable, the message says what was expected and what came. */
export const blockError = (code: string, message: string): Error & { code: string } =>
  Object.assign(new Error(message), { code });
