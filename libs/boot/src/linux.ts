/**
 * Linux by the 64-bit boot protocol (Linux: Documentation/arch/x86/boot.rst, "64-bit boot protocol", and zero-page.rst): a
 * bzImage, or the ELF vmlinux inside it, with boot_params, command line, initrd, memory map and page tables.
 */
import { type BzImage, hdr, parseBzImage } from './bzimage.ts';
import { type E820Entry, packE820 } from './e820.ts';
import { type Elf, isElf, loadSegments, parseElf } from './elf.ts';
import { BootError } from './errors.ts';
import { type BootFile, bytesFile, piece } from './file.ts';
import { placeInitrd } from './initrd.ts';
import { low, plan32, plan64 } from './lowmem.ts';
import { loadPvh } from './pvh.ts';
import type { BootPlan, GuestRam } from './ram.ts';

export interface DirectBoot {
  /** The kernel file, or its content. */
  kernel: Uint8Array | BootFile;
  initrd?: Uint8Array | undefined;
  cmdline: string;
  e820: readonly E820Entry[];
  /** Guest address of the ACPI root pointer; 0: none. */
  rsdp: number;
  /** 32 bytes of entropy for the guest's random number generator (SETUP_RNG_SEED). */
  seed?: Uint8Array | undefined;
  /** For an ELF: by which protocol. 'auto': PVH if the file declares it and is not 64-bit, else Linux. */
  protocol?: 'auto' | 'linux' | 'pvh';
}

/** Offsets in boot_params. */
const bp = { acpiRsdp: 0x70, extRamdiskImage: 0xc0, e820Entries: 0x1e8, e820: 0x2d0, e820Max: 128 } as const;
const SETUP_RNG_SEED = 9;
/** type_of_loader: a loader without a number of its own. */
const LOADER_UNKNOWN = 0xff;
/** What Linux takes when no header says more: COMMAND_LINE_SIZE - 1 on x86. */
const CMDLINE_DEFAULT = 2047;
const INITRD_MAX_DEFAULT = 0x7fff_ffff;

/** @throws BootError CMDLINE_TOO_LONG */
export function writeCmdline(ram: GuestRam, cmdline: string, max: number): void {
  const bytes = Buffer.from(`${cmdline}\0`, 'utf8');
  const limit = Math.min(max, low.cmdlineMax - 1);
  if (bytes.length - 1 > limit)
    throw new BootError(
      'CMDLINE_TOO_LONG',
      `a kernel command line of at most ${limit} bytes`,
      `${bytes.length - 1}`,
      'Shorten it; put what is long into the initrd.',
    );
  ram.write(low.cmdline, bytes);
}

/** boot_params that bzImage and vmlinux share; the setup header is in it already. */
function finishParams(ram: GuestRam, boot: DirectBoot, initrdAt: number): void {
  const v = ram.view(low.bootParams, 4096);
  v.setUint8(hdr.typeOfLoader, LOADER_UNKNOWN);
  v.setUint32(hdr.cmdLinePtr, low.cmdline, true);
  v.setUint32(hdr.ramdiskImage, initrdAt, true);
  v.setUint32(hdr.ramdiskSize, boot.initrd?.length ?? 0, true);
  // Before 2.14 these bytes are padding; such a kernel finds the tables by scanning.
  if (v.getUint16(hdr.version, true) >= 0x20e) v.setBigUint64(bp.acpiRsdp, BigInt(boot.rsdp), true);
  const map = boot.e820.slice(0, bp.e820Max);
  v.setUint8(bp.e820Entries, map.length);
  ram.write(low.bootParams + bp.e820, packE820(map));
  if (boot.seed) {
    // struct setup_data: next (u64), type (u32), length (u32), data.
    const d = ram.view(low.setupData, 16);
    d.setBigUint64(0, 0n, true);
    d.setUint32(8, SETUP_RNG_SEED, true);
    d.setUint32(12, boot.seed.length, true);
    ram.write(low.setupData + 16, boot.seed);
    v.setBigUint64(hdr.setupData, BigInt(low.setupData), true);
  }
}

function loadBzImage(ram: GuestRam, boot: DirectBoot, image: BzImage): BootPlan {
  const address = image.prefAddress;
  const end = address + Math.max(image.initSize, image.codeBytes);
  if (address < low.kernel)
    throw new BootError(
      'KERNEL_BAD_ADDRESS',
      'a kernel that loads at 1 MiB or above',
      `0x${address.toString(16)}`,
      'Use a kernel as distributions build it.',
    );
  if (end > ram.lowBytes)
    throw new BootError(
      'MEMORY_TOO_SMALL',
      `${Math.ceil(end / 2 ** 20)} MiB of memory for this kernel to unpack itself`,
      `${Math.floor(ram.lowBytes / 2 ** 20)} MiB`,
      `Give the machine at least ${Math.ceil(end / 2 ** 20) + 32} MiB.`,
    );
  writeCmdline(ram, boot.cmdline, image.cmdlineSize);
  const initrdAt = boot.initrd ? placeInitrd(ram, boot.initrd, end, image.initrdAddrMax) : 0;
  ram.zero(low.bootParams, 4096);
  // The header only, never what lies before or after it in the file: the kernel tells by `sentinel` whether it was cleared.
  ram.write(low.bootParams + hdr.setupSects, image.file.subarray(hdr.setupSects, image.headerEnd));
  finishParams(ram, boot, initrdAt);
  ram.write(address, image.file.subarray(image.codeAt, image.codeAt + image.codeBytes));
  if (image.is64) return plan64(ram, address + 0x200);
  return { ...plan32(ram, address, 0), rsi: low.bootParams };
}

function loadVmlinux(ram: GuestRam, boot: DirectBoot, elf: Elf): BootPlan {
  loadSegments(ram, elf);
  if (!elf.segments.some((s) => elf.entry >= s.address && elf.entry < s.address + s.bytes))
    throw new BootError(
      'KERNEL_BAD_ADDRESS',
      'a physical entry point within the loaded kernel',
      `0x${elf.entry.toString(16)}`,
      'Use the vmlinux of an x86-64 Linux.',
    );
  writeCmdline(ram, boot.cmdline, CMDLINE_DEFAULT);
  const initrdAt = boot.initrd ? placeInitrd(ram, boot.initrd, elf.end, INITRD_MAX_DEFAULT) : 0;
  ram.zero(low.bootParams, 4096);
  const v = ram.view(low.bootParams, 4096);
  v.setUint16(hdr.bootFlag, 0xaa55, true);
  v.setUint32(hdr.magic, 0x53726448, true);
  v.setUint16(hdr.version, 0x20f, true);
  v.setUint8(hdr.loadflags, 1);
  v.setUint32(hdr.cmdlineSize, CMDLINE_DEFAULT, true);
  finishParams(ram, boot, initrdAt);
  return plan64(ram, elf.entry);
}

/**
 * Loads a kernel of any kind that direct boot knows: bzImage, Linux vmlinux, PVH.
 * @returns the CPU state to start with. Call it again after a reset: the guest has overwritten what was loaded.
 * @throws BootError
 */
export function loadKernel(ram: GuestRam, boot: DirectBoot): BootPlan {
  const protocol = boot.protocol ?? 'auto';
  const file = boot.kernel instanceof Uint8Array ? bytesFile(boot.kernel) : boot.kernel;
  if (isElf(piece(file, 0, Math.min(64, file.length))) || protocol === 'pvh') {
    const elf = parseElf(file);
    const isPvh = protocol === 'pvh' || (protocol === 'auto' && !elf.is64);
    return isPvh ? loadPvh(ram, boot, elf) : loadVmlinux(ram, boot, elf);
  }
  return loadBzImage(ram, boot, parseBzImage(piece(file, 0, file.length)));
}
