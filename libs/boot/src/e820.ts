/** The memory map of the machine as guests are told it (types of the ACPI specification, table 15.6). */
import { BootError } from './errors.ts';
import { low } from './lowmem.ts';
import { FOUR_GIB } from './ram.ts';

export const E820 = { ram: 1, reserved: 2, acpi: 3, nvs: 4 } as const;

export interface E820Entry {
  address: number;
  size: number;
  type: number;
}

/** Fixed places of the PC machine; ARCHITECTURE.md, "Address space". */
export const pc = {
  lowRamMax: 0x8000_0000,
  ecam: 0xb000_0000,
  ecamBytes: 0x1000_0000,
  pci32Low: 0x8000_0000,
  pci32: 0xc000_0000,
  pci32End: 0xfec0_0000,
  ioapic: 0xfec0_0000,
  hpet: 0xfed0_0000,
  tpm: 0xfed4_0000,
  lapic: 0xfee0_0000,
  pci64: 0x80_0000_0000,
  pci64Bytes: 0x80_0000_0000,
} as const;

/** Bytes of RAM that lie at address 0; the rest lies at 4 GiB. */
export const lowRam = (ramBytes: number): number => Math.min(ramBytes, pc.lowRamMax);

/**
 * Memory map for direct boot: RAM without the holes below 1 MiB, and what must not be taken for free address space.
 * @throws BootError MEMORY_BAD_SIZE
 */
export function e820Map(ramBytes: number): E820Entry[] {
  // RAM above 4 GiB ends where the 64-bit PCI window begins.
  const max = pc.pci64 - FOUR_GIB + pc.lowRamMax;
  if (!Number.isSafeInteger(ramBytes) || ramBytes % 4096 !== 0 || ramBytes < 2 << 20 || ramBytes > max)
    throw new BootError(
      'MEMORY_BAD_SIZE',
      `2 MiB to ${max / 2 ** 30} GiB of memory in whole pages`,
      `${ramBytes} bytes`,
      'Give the machine a memory size in MiB.',
    );
  const lowBytes = lowRam(ramBytes);
  const map: E820Entry[] = [
    { address: 0, size: low.usableEnd, type: E820.ram },
    { address: low.usableEnd, size: 0xa0000 - low.usableEnd, type: E820.reserved },
    { address: low.acpi, size: low.acpiEnd - low.acpi, type: E820.reserved },
    { address: 0x100000, size: lowBytes - 0x100000, type: E820.ram },
    { address: pc.ecam, size: pc.ecamBytes, type: E820.reserved },
  ];
  if (ramBytes > lowBytes) map.push({ address: FOUR_GIB, size: ramBytes - lowBytes, type: E820.ram });
  return map;
}

/** RAM and reservations as fw_cfg's `etc/e820` tells them to firmware (which knows the area below 1 MiB by itself). */
export function firmwareE820(ramBytes: number): E820Entry[] {
  const lowBytes = lowRam(ramBytes);
  const map: E820Entry[] = [{ address: 0, size: lowBytes, type: E820.ram }];
  if (ramBytes > lowBytes) map.push({ address: FOUR_GIB, size: ramBytes - lowBytes, type: E820.ram });
  return map;
}

/** 20 bytes an entry: base, length, type. */
export function packE820(map: readonly E820Entry[]): Uint8Array {
  const out = new Uint8Array(map.length * 20);
  const v = new DataView(out.buffer);
  map.forEach((e, i) => {
    v.setBigUint64(i * 20, BigInt(e.address), true);
    v.setBigUint64(i * 20 + 8, BigInt(e.size), true);
    v.setUint32(i * 20 + 16, e.type, true);
  });
  return out;
}
