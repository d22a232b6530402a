/** Data disks: sparse raw files with an ext4 file system, made by the host's mke2fs. */
import { open, rename, rm } from 'node:fs/promises';
import { tool } from './tool.ts';

export const dataDiskBytes = 256 << 20;

/**
 * Writes a raw disk image with an empty ext4 file system. The file appears under its name only when it is whole; an
 * existing one is replaced.
 * @param bytes multiple of 1 MiB, at least 8 MiB
 * @throws ImageError IMAGE_NO_TOOL when mke2fs is not installed
 */
export async function createDataDisk(path: string, bytes = dataDiskBytes): Promise<void> {
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    const file = await open(temporary, 'w', 0o600);
    await file.truncate(bytes);
    await file.close();
    await tool('mke2fs', ['-t', 'ext4', '-F', '-q', '-L', 'nyx-data', '-m', '0', temporary], {
      install: 'Install the package e2fsprogs, or give a disk of your own with --disk.',
    });
    await rename(temporary, path);
  } finally {
    await rm(temporary, { force: true });
  }
}
