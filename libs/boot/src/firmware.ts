/**
 * Firmware images (SeaBIOS, OVMF): the ROM ends at 4 GiB, where the reset vector is, and its last 128 KiB are copied to
 * 0xE0000, as chipsets alias them. (SeaBIOS copies the rest of itself once it has made that memory writable.) A reset
 * copies anew, because the copy is RAM.
 */
import { BootError } from './errors.ts';
import { planReset } from './lowmem.ts';
import { type BootPlan, FOUR_GIB, type GuestRam } from './ram.ts';

const MAX = 16 << 20;

export interface Firmware {
  plan: BootPlan;
  /** Read-only region of the machine: `bytes` at guest address `address`. */
  rom: { address: number; bytes: Uint8Array };
}

/**
 * Checks a firmware image and copies its end below 1 MiB.
 * @throws BootError FIRMWARE_BAD_SIZE
 */
export function loadFirmware(ram: GuestRam, image: Uint8Array): Firmware {
  if (image.length < 0x10000 || image.length > MAX || image.length % 0x10000 !== 0)
    throw new BootError(
      'FIRMWARE_BAD_SIZE',
      'a firmware image of 64 KiB to 16 MiB in steps of 64 KiB',
      `${image.length} bytes`,
      'Give a ROM image as SeaBIOS (bios-256k.bin) or OVMF (OVMF.fd) come.',
    );
  const copy = Math.min(image.length, 0x20000);
  ram.zero(0xc0000, 0x40000);
  ram.write(0x100000 - copy, image.subarray(image.length - copy));
  return { plan: planReset, rom: { address: FOUR_GIB - image.length, bytes: image } };
}
