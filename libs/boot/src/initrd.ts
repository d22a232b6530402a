/** Initial RAM disks: is it one, and where does it go. */
import { BootError } from './errors.ts';
import type { GuestRam } from './ram.ts';

/**
 * Refuses an initrd that is surely cut off. cpio "newc" is walked to its trailer when it is not packed; what follows a
 * packed one cannot be seen without unpacking, so there only emptiness is an error.
 * @throws BootError INITRD_TRUNCATED
 */
export function checkInitrd(data: Uint8Array): void {
  const truncated = (got: string): BootError =>
    new BootError(
      'INITRD_TRUNCATED',
      'a whole initrd (cpio archive, packed or not)',
      got,
      'The file was cut; build or copy it again.',
    );
  if (data.length < 16) throw truncated(`${data.length} bytes`);
  const text = Buffer.from(data.buffer, data.byteOffset, data.length);
  const isNewc = (at: number): boolean =>
    text.toString('latin1', at, at + 5) === '07070' && (text[at + 5] === 0x31 || text[at + 5] === 0x32);
  let at = 0;
  // Archives may follow each other, with zeros between; the last part may be packed.
  while (at < data.length && isNewc(at)) {
    for (;;) {
      if (at + 110 > data.length)
        throw truncated(`an archive that ends inside an entry header, after ${data.length} bytes`);
      if (!isNewc(at)) throw truncated(`no entry header at byte ${at}`);
      const size = Number.parseInt(text.toString('latin1', at + 54, at + 62), 16);
      const nameBytes = Number.parseInt(text.toString('latin1', at + 94, at + 102), 16);
      if (Number.isNaN(size) || Number.isNaN(nameBytes))
        throw truncated(`a damaged entry header at byte ${at}`);
      const name = text.toString('latin1', at + 110, at + 110 + nameBytes - 1);
      const dataAt = at + ((110 + nameBytes + 3) & ~3);
      const next = dataAt + Math.ceil(size / 4) * 4;
      if (dataAt + size > data.length)
        throw truncated(`${data.length} bytes, but entry '${name.slice(0, 80)}' ends at ${dataAt + size}`);
      at = next;
      if (name === 'TRAILER!!!') break;
    }
    while (at < data.length && data[at] === 0) at++;
  }
}

/**
 * Places an initrd as high as it may be.
 * @param after first address that the kernel does not use
 * @param max highest address that the kernel takes it at
 * @returns its address
 * @throws BootError INITRD_TRUNCATED, INITRD_TOO_LARGE
 */
export function placeInitrd(ram: GuestRam, data: Uint8Array, after: number, max: number): number {
  checkInitrd(data);
  const address = Math.floor((Math.min(ram.lowBytes, max + 1) - data.length) / 4096) * 4096;
  if (address < after)
    throw new BootError(
      'INITRD_TOO_LARGE',
      `an initrd that fits between the kernel (to ${Math.ceil(after / 2 ** 20)} MiB) and ${Math.floor(Math.min(ram.lowBytes, max + 1) / 2 ** 20)} MiB`,
      `${data.length} bytes`,
      `Give the machine at least ${Math.ceil((after + data.length) / 2 ** 20) + 16} MiB, or use a smaller initrd.`,
    );
  ram.write(address, data);
  return address;
}
