/** What tests of the AHCI controller share: the guest image with its driver, ISO images, programs for the guest. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Image, ImageStore } from '@nyx/image';
import { type CpioEntry, cpio } from '@nyx/image/cpio';
import { has, run } from '../boot-disk.ts';

export { has, run };

export const folder = mkdtempSync(join(tmpdir(), 'nyx-ahci-'));
process.env.XDG_RUNTIME_DIR = folder;
/** For `afterAll`. */
export const clean = (): void => rmSync(folder, { recursive: true, force: true });

const leftOut = (what: string, reason: string): undefined => {
  console.warn(`${what} left out: ${reason}`);
  return undefined;
};

/** Debian's kernel for all hardware; that for virtual machines has no AHCI. */
export const guestImage = (): Promise<Image | undefined> =>
  new ImageStore()
    .build('debian-generic')
    .catch((e: Error) => leftOut('tests of AHCI in a guest are', `there is no image: ${e.message}`));

/** An ISO 9660 image with these files. */
export const iso = (name: string, contents: Record<string, string | Buffer>): string => {
  const tree = join(folder, `${name}.d`);
  mkdirSync(tree, { recursive: true });
  for (const [path, data] of Object.entries(contents)) writeFileSync(join(tree, path), data);
  const image = join(folder, name);
  run('xorriso', ['-as', 'mkisofs', '-quiet', '-R', '-V', name.slice(0, 16), '-o', image, tree]);
  return image;
};

/** The initramfs of an image with more files in it: Linux unpacks one archive after the other. */
export const withFiles = (image: Image, name: string, entries: CpioEntry[]): string => {
  const path = join(folder, name);
  const own = readFileSync(image.initrd);
  writeFileSync(path, Buffer.concat([own, Buffer.alloc(-own.length & 3), cpio(entries)]));
  return path;
};

/** Compiles a C program that needs nothing of the guest. */
export const compiled = (source: string): Buffer => {
  const program = join(folder, 'program');
  run('gcc', ['-O2', '-Wall', '-static', '-o', program, source]);
  return readFileSync(program);
};

/** Waits for the disk and the CD drive. */
export const ready = 'for i in $(seq 100); do [ -b /dev/sda ] && [ -b /dev/sr0 ] && break; sleep 0.1; done; ';
