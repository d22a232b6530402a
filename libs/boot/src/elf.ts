/** ELF executables for direct boot: program headers and notes. The file is the user's: every number is checked. */
import { BootError } from './errors.ts';
import { type BootFile, bytesFile, piece } from './file.ts';
import { low } from './lowmem.ts';
import type { GuestRam } from './ram.ts';

const PT_LOAD = 1;
const PT_NOTE = 4;
const XEN_ELFNOTE_PHYS32_ENTRY = 18;
/** Notes are hundreds of bytes; more of them are not looked at. */
const NOTE_BYTES_MAX = 1 << 20;

export interface ElfSegment {
  /** In the file. */
  at: number;
  fileBytes: number;
  /** Guest-physical address. */
  address: number;
  bytes: number;
}

export interface Elf {
  readonly file: BootFile;
  readonly is64: boolean;
  readonly entry: number;
  readonly segments: readonly ElfSegment[];
  /** 32-bit entry point of the PVH boot protocol, if the file declares one. */
  readonly pvhEntry: number | undefined;
  /** First address after all segments. */
  readonly end: number;
}

export const isElf = (file: Uint8Array): boolean =>
  file.length >= 52 && file[0] === 0x7f && file[1] === 0x45 && file[2] === 0x4c && file[3] === 0x46;

/**
 * Reads headers and notes.
 * @throws BootError KERNEL_NOT_ELF (not an x86 executable), KERNEL_TRUNCATED
 */
export function parseElf(from: Uint8Array | BootFile): Elf {
  const file = from instanceof Uint8Array ? bytesFile(from) : from;
  const head = piece(file, 0, Math.min(64, file.length));
  const not = (got: string): BootError =>
    new BootError(
      'KERNEL_NOT_ELF',
      'an ELF executable for x86 (little-endian)',
      got,
      'Give a kernel as bzImage (/boot/vmlinuz-*) or an ELF kernel that boots by PVH.',
    );
  const truncated = (need: number): BootError =>
    new BootError(
      'KERNEL_TRUNCATED',
      `${need} bytes, as its headers say`,
      `${file.length}`,
      'The file was cut; copy or build it again.',
    );
  if (!isElf(head)) throw not('another format');
  let v = new DataView(head.buffer);
  const is64 = head[4] === 2;
  const machine = v.getUint16(18, true);
  const EXEC = 2;
  const DYN = 3;
  const type = v.getUint16(16, true);
  if (head[5] !== 1 || (head[4] !== 1 && !is64) || (is64 ? machine !== 62 : machine !== 3))
    throw not(`machine ${machine}, class ${head[4]}, data ${head[5]}`);
  if (type !== EXEC && type !== DYN) throw not(`an object of type ${type}`);
  if (is64 && file.length < 64) throw truncated(64);
  const word = (at: number): number => (is64 ? Number(v.getBigUint64(at, true)) : v.getUint32(at, true));
  const entry = word(24);
  const phAt = word(is64 ? 32 : 28);
  const phSize = v.getUint16(is64 ? 54 : 42, true);
  const phCount = v.getUint16(is64 ? 56 : 44, true);
  if (phSize < (is64 ? 56 : 32) || phCount === 0) throw not('no program headers');
  if (phAt + phSize * phCount > file.length) throw truncated(phAt + phSize * phCount);
  v = new DataView(piece(file, phAt, phSize * phCount).buffer);
  const segments: ElfSegment[] = [];
  let pvhEntry: number | undefined;
  for (let i = 0; i < phCount; i++) {
    const p = i * phSize;
    const kind = v.getUint32(p, true);
    if (kind !== PT_LOAD && kind !== PT_NOTE) continue;
    const at = word(p + (is64 ? 8 : 4));
    const address = word(p + (is64 ? 24 : 12));
    const fileBytes = word(p + (is64 ? 32 : 16));
    const bytes = word(p + (is64 ? 40 : 20));
    if (at + fileBytes > file.length) throw truncated(at + fileBytes);
    if (kind === PT_NOTE) pvhEntry ??= note(piece(file, at, Math.min(fileBytes, NOTE_BYTES_MAX)));
    else if (bytes > 0) segments.push({ at, fileBytes: Math.min(fileBytes, bytes), address, bytes });
  }
  if (segments.length === 0) throw not('nothing to load');
  return {
    file,
    is64,
    entry,
    segments,
    pvhEntry,
    end: Math.max(...segments.map((s) => s.address + s.bytes)),
  };
}

/** The PHYS32 entry among notes. */
function note(notes: Uint8Array): number | undefined {
  const v = new DataView(notes.buffer);
  const to = notes.length;
  for (let at = 0; at + 12 <= to; ) {
    const nameBytes = v.getUint32(at, true);
    const bytes = v.getUint32(at + 4, true);
    const type = v.getUint32(at + 8, true);
    const data = at + 12 + ((nameBytes + 3) & ~3);
    if (nameBytes > to - at || bytes > to - at || data + bytes > to) return undefined;
    const isXen = nameBytes === 4 && v.getUint32(at + 12, true) === 0x006e6558;
    if (isXen && type === XEN_ELFNOTE_PHYS32_ENTRY && bytes >= 4) return v.getUint32(data, true);
    at = data + ((bytes + 3) & ~3);
  }
  return undefined;
}

/**
 * Copies the segments into guest memory and zeroes what the file does not hold.
 * @throws BootError KERNEL_BAD_ADDRESS, MEMORY_TOO_SMALL
 */
export function loadSegments(ram: GuestRam, elf: Elf): void {
  for (const s of elf.segments) {
    if (s.address < low.kernel)
      throw new BootError(
        'KERNEL_BAD_ADDRESS',
        'a kernel that loads at 1 MiB or above',
        `a segment at 0x${s.address.toString(16)}`,
        'Link it higher; below lie the boot tables.',
      );
    if (s.address + s.bytes > ram.lowBytes)
      throw new BootError(
        'MEMORY_TOO_SMALL',
        `memory up to 0x${(s.address + s.bytes).toString(16)} for the kernel`,
        `${ram.lowBytes >> 20} MiB`,
        `Give the machine at least ${Math.ceil((s.address + s.bytes) / 2 ** 20) + 16} MiB.`,
      );
  }
  for (const s of elf.segments) {
    ram.load(s.address, elf.file, s.at, s.fileBytes);
    ram.zero(s.address + s.fileBytes, s.bytes - s.fileBytes);
  }
}
