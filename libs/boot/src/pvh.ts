/**
 * The PVH boot protocol (Xen: docs/misc/pvh.pandoc, public/arch-x86/hvm/start_info.h): a 32-bit entry in flat protected mode
 * without paging, ebx pointing to hvm_start_info.
 */
import type { Elf } from './elf.ts';
import { loadSegments } from './elf.ts';
import { BootError } from './errors.ts';
import { placeInitrd } from './initrd.ts';
import { type DirectBoot, writeCmdline } from './linux.ts';
import { low, plan32 } from './lowmem.ts';
import type { BootPlan, GuestRam } from './ram.ts';

const MAGIC = 0x336ec578;
const INFO_BYTES = 56;
const MODULE_BYTES = 32;
const MAP_BYTES = 24;

/** @throws BootError KERNEL_NO_PVH, and those of loading segments, command line and initrd */
export function loadPvh(ram: GuestRam, boot: DirectBoot, elf: Elf): BootPlan {
  if (elf.pvhEntry === undefined)
    throw new BootError(
      'KERNEL_NO_PVH',
      'an ELF kernel with the note XEN_ELFNOTE_PHYS32_ENTRY (Linux: CONFIG_PVH)',
      'none',
      'Give a bzImage, or an ELF kernel built for PVH.',
    );
  loadSegments(ram, elf);
  writeCmdline(ram, boot.cmdline, low.cmdlineMax - 1);
  const initrdAt = boot.initrd ? placeInitrd(ram, boot.initrd, elf.end, 0xffff_ffff) : 0;
  const modulesAt = low.startInfo + INFO_BYTES;
  const mapAt = modulesAt + MODULE_BYTES;
  ram.zero(low.startInfo, 4096);
  const v = ram.view(low.startInfo, 4096);
  const put = (at: number, value: number): void => v.setBigUint64(at, BigInt(value), true);
  v.setUint32(0, MAGIC, true);
  v.setUint32(4, 1, true);
  v.setUint32(12, boot.initrd ? 1 : 0, true);
  put(16, boot.initrd ? modulesAt : 0);
  put(24, low.cmdline);
  put(32, boot.rsdp);
  put(40, mapAt);
  v.setUint32(48, boot.e820.length, true);
  put(INFO_BYTES, initrdAt);
  put(INFO_BYTES + 8, boot.initrd?.length ?? 0);
  boot.e820.forEach((e, i) => {
    const at = INFO_BYTES + MODULE_BYTES + i * MAP_BYTES;
    put(at, e.address);
    put(at + 8, e.size);
    v.setUint32(at + 16, e.type, true);
  });
  return plan32(ram, elf.pvhEntry, low.startInfo);
}
