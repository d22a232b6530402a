/**
 * Locks of image files as QEMU takes them (its docs/system/qemu-block-drivers, "Disk image file locking"), so that its
 * programs and ours refuse what the other has open. A lock is of single bytes: byte 100 + p, held shared, says "I do p";
 * byte 200 + p, held shared, says "nobody else may do p". Whoever opens takes its bytes first and then looks whether
 * others hold the opposite ones. The locks belong to the open file description: it may be handed to other processes,
 * and the locks end with its last descriptor.
 */
import { ofdLock, ofdTest } from '@nyx/native';
import { NyxError } from './errors.ts';

/** What one does with an image: numbers of bytes. */
const Permission = { consistentRead: 0, write: 1, writeUnchanged: 2, resize: 3 } as const;
const DOES = 100;
const FORBIDS = 200;

const { consistentRead, write, resize } = Permission;

export interface ImageLock {
  write: boolean;
  /** For reading only: others may write meanwhile, and what is read may be half of it. */
  forceShare?: boolean;
}

/** File systems without locks: there is nothing to be had. */
const without = /^(ENOLCK|EOPNOTSUPP|ENOSYS|EINVAL)$/;

/** Longest wait for a lock, ms: the kernel lets go of the files of a process some time after the process. */
const PATIENCE = 200;
const PAUSE = 10;

/**
 * Takes the locks of an image that was just opened. @returns false where the file system has none
 * @throws NyxError FILE_IN_USE; no lock is held then
 */
export function lockImage(fd: number, path: string, o: ImageLock): boolean {
  const does = o.write ? [consistentRead, write, resize] : [consistentRead];
  const forbids = o.forceShare && !o.write ? [] : [write, resize];
  try {
    for (const end = Date.now() + PATIENCE; ; ) {
      for (const p of does) ofdLock(fd, 'read', DOES + p, 1);
      for (const p of forbids) ofdLock(fd, 'read', FORBIDS + p, 1);
      const forbidden = does.some((p) => !ofdTest(fd, 'write', FORBIDS + p, 1));
      const done = forbids.some((p) => !ofdTest(fd, 'write', DOES + p, 1));
      if (!forbidden && !done) return true;
      unlockImage(fd);
      if (Date.now() > end)
        throw new NyxError('FILE_IN_USE', {
          expected: o.write ? 'an image that nobody else has open' : 'an image that nobody else writes',
          got: done
            ? `${path} is open for writing by another program`
            : `${path} is open by another program that does not let others ${o.write ? 'write' : 'read'}`,
        });
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, PAUSE);
    }
  } catch (e) {
    if (without.test((e as { code?: string }).code ?? '')) return false;
    throw e;
  }
}

/** Gives all of them back. */
export function unlockImage(fd: number): void {
  for (const base of [DOES, FORBIDS]) ofdLock(fd, 'none', base, Object.keys(Permission).length);
}
