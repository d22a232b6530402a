/** Data disks: sparse raw files with an ext4 file system, made by the host's mke2fs. */
import { open, rename, rm } from 'node:fs/promises';
import { tool } from './tool.ts';

export const dataDiskBytes = 256 << 20;
/** Of disks that are all the same. */
const uuid = '6e79782d-6461-7461-8000-000000000001';

/**
 * Writes a raw disk image with an empty ext4 file system. The file appears under its name only when it is whole; an
 * existing one is replaced.
 * @param bytes multiple of 1 MiB, at least 8 MiB
 * @param same every disk has the same bytes: no identifiers and times of its own
 * @throws ImageError IMAGE_NO_TOOL when mke2fs is not installed
 */
export async function createDataDisk(path: string, bytes = dataDiskBytes, same = false): Promise<void> {
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    const file = await open(temporary, 'w', 0o600);
    await file.truncate(bytes);
    await file.close();
    const identity = same ? ['-U', uuid, '-E', `hash_seed=${uuid}`] : [];
    await tool('mke2fs', ['-t', 'ext4', '-F', '-q', '-L', 'nyx-data', '-m', '0', ...identity, temporary], {
      ...(same ? { env: { E2FSPROGS_FAKE_TIME: '1735689600' } } : {}),
      install: 'Install the package e2fsprogs, or give a disk of your own with --disk.',
    });
    await rename(temporary, path);
  } finally {
    await rm(temporary, { force: true });
  }
}
