/**
 * Where direct boot puts what it writes below 1 MiB. Free conventional memory: above the BIOS data area, below the
 * extended BIOS data area. The guest may reuse all of it once it runs, but for the tables at 0xE0000.
 *
 *     0x00500  GDT                       0x0B000  page directories, one a GiB (4)
 *     0x06000  hvm_start_info (PVH)      0x10000  setup_data
 *     0x07000  boot_params (zero page)   0x20000  command line
 *     0x08000  stack, one page           0x9FC00  end of usable memory
 *     0x09000  PML4, 0x0A000 PDPT        0xE0000  ACPI tables (reserved)
 */
import { BootMode } from '@nyx/protocol';
import type { BootPlan, GuestRam } from './ram.ts';

export const low = {
  gdt: 0x500,
  startInfo: 0x6000,
  bootParams: 0x7000,
  stackTop: 0x9000,
  pml4: 0x9000,
  pdpt: 0xa000,
  pageDirectories: 0xb000,
  setupData: 0x10000,
  cmdline: 0x20000,
  cmdlineMax: 0x10000,
  usableEnd: 0x9fc00,
  acpi: 0xe0000,
  acpiEnd: 0x100000,
  kernel: 0x100000,
} as const;

/** Selectors that the Linux boot protocol asks for: __BOOT_CS and __BOOT_DS. */
const BOOT_CS = 0x10;
const BOOT_DS = 0x18;

/** Descriptor 2: code, 3: data; flat, ring 0, accessed (so that loading them writes nothing). */
export function writeGdt(ram: GuestRam, codeHigh: number): void {
  const v = ram.view(low.gdt, 32);
  for (let i = 0; i < 32; i += 4) v.setUint32(i, 0, true);
  v.setUint32(BOOT_CS, 0x0000ffff, true);
  v.setUint32(BOOT_CS + 4, codeHigh, true);
  v.setUint32(BOOT_DS, 0x0000ffff, true);
  v.setUint32(BOOT_DS + 4, 0x00cf9300, true);
}

/**
 * Identity map of the first 4 GiB with 2 MiB pages. Everything that is loaded lies below 2 GiB (`GuestRam`), and the
 * kernel maps what it needs beyond by itself.
 */
export function writePageTables(ram: GuestRam): void {
  const PRESENT_WRITE = 3;
  const LARGE = 0x80;
  ram.zero(low.pml4, 0x6000);
  ram.view(low.pml4, 8).setUint32(0, low.pdpt | PRESENT_WRITE, true);
  for (let gib = 0; gib < 4; gib++) {
    const directory = low.pageDirectories + gib * 0x1000;
    ram.view(low.pdpt + gib * 8, 8).setUint32(0, directory | PRESENT_WRITE, true);
    const v = ram.view(directory, 0x1000);
    for (let i = 0; i < 512; i++)
      v.setUint32(i * 8, gib * 0x4000_0000 + i * 0x20_0000 + (PRESENT_WRITE | LARGE), true);
  }
}

/** Writes GDT and page tables and gives the state in which a 64-bit kernel starts at `rip` with boot_params in rsi. */
export function plan64(ram: GuestRam, rip: number): BootPlan {
  writeGdt(ram, 0x00af9b00);
  writePageTables(ram);
  return {
    bootMode: BootMode.long64,
    rip,
    rsp: low.stackTop,
    rsi: low.bootParams,
    rbx: 0,
    cr3: low.pml4,
    gdtBase: low.gdt,
    gdtLimit: 31,
    codeSelector: BOOT_CS,
    dataSelector: BOOT_DS,
  };
}

/** As `plan64` for 32-bit protected mode without paging; `rbx` points to the start information. */
export function plan32(ram: GuestRam, rip: number, rbx: number): BootPlan {
  writeGdt(ram, 0x00cf9b00);
  return {
    bootMode: BootMode.pvh32,
    rip,
    rsp: low.stackTop,
    rsi: 0,
    rbx,
    cr3: 0,
    gdtBase: low.gdt,
    gdtLimit: 31,
    codeSelector: BOOT_CS,
    dataSelector: BOOT_DS,
  };
}

/** The plan of a machine that starts at the x86 reset vector. */
export const planReset: BootPlan = {
  bootMode: BootMode.reset,
  rip: 0,
  rsp: 0,
  rsi: 0,
  rbx: 0,
  cr3: 0,
  gdtBase: 0,
  gdtLimit: 0,
  codeSelector: 0,
  dataSelector: 0,
};
