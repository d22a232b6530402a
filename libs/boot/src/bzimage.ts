/**
 * Linux bzImage: reading the setup header and loading by the 64-bit boot protocol (Linux: Documentation/arch/x86/boot.rst).
 */
import { gunzipSync } from 'node:zlib';
import { BootError } from './errors.ts';
import { isLz4Legacy, unpackLz4Legacy } from './lz4.ts';

/** Offsets in the file, which are those in boot_params as well. */
export const hdr = {
  setupSects: 0x1f1,
  syssize: 0x1f4,
  bootFlag: 0x1fe,
  jump: 0x200,
  magic: 0x202,
  version: 0x206,
  kernelVersion: 0x20e,
  typeOfLoader: 0x210,
  loadflags: 0x211,
  ramdiskImage: 0x218,
  ramdiskSize: 0x21c,
  heapEndPtr: 0x224,
  cmdLinePtr: 0x228,
  initrdAddrMax: 0x22c,
  kernelAlignment: 0x230,
  relocatable: 0x234,
  xloadflags: 0x236,
  cmdlineSize: 0x238,
  payloadOffset: 0x248,
  payloadLength: 0x24c,
  setupData: 0x250,
  prefAddress: 0x258,
  initSize: 0x260,
} as const;

const HDRS = 0x53726448;
const LOADED_HIGH = 1;
const XLF_KERNEL_64 = 1;
const MAX_UNPACKED = 512 << 20;

export interface BzImage {
  readonly file: Uint8Array;
  /** Boot protocol, e.g. 0x20f. */
  readonly version: number;
  /** It has a 64-bit entry point; else it is entered in 32-bit protected mode. */
  readonly is64: boolean;
  /** "6.1.0-56-cloud-amd64 (...)" or ''. */
  readonly release: string;
  /** End of the setup header in the file. */
  readonly headerEnd: number;
  /** Protected-mode kernel in the file. */
  readonly codeAt: number;
  readonly codeBytes: number;
  readonly prefAddress: number;
  readonly alignment: number;
  readonly relocatable: boolean;
  /** Bytes from the load address that the kernel uses before it knows the memory map. */
  readonly initSize: number;
  readonly initrdAddrMax: number;
  readonly cmdlineSize: number;
  readonly payload: Uint8Array;
}

const u64 = (v: DataView, at: number): number =>
  v.getUint32(at + 4, true) * 0x1_0000_0000 + v.getUint32(at, true);

/** @returns false when `file` is something else; a damaged bzImage is still one */
export const isBzImage = (file: Uint8Array): boolean =>
  file.length >= 0x206 &&
  file[0x1fe] === 0x55 &&
  file[0x1ff] === 0xaa &&
  new DataView(file.buffer, file.byteOffset).getUint32(hdr.magic, true) === HDRS;

/**
 * Checks and reads the setup header.
 * @throws BootError KERNEL_NOT_BZIMAGE, KERNEL_TRUNCATED, KERNEL_TOO_OLD
 */
export function parseBzImage(file: Uint8Array): BzImage {
  if (!isBzImage(file))
    throw new BootError(
      'KERNEL_NOT_BZIMAGE',
      "a Linux bzImage (boot flag 0xAA55 at 0x1FE, 'HdrS' at 0x202)",
      file.length < 0x206 ? `a file of ${file.length} bytes` : 'a file without them',
      'Give the kernel as distributions install it (/boot/vmlinuz-*), or an ELF vmlinux.',
    );
  const truncated = (need: number): BootError =>
    new BootError(
      'KERNEL_TRUNCATED',
      `${need} bytes, as its header says`,
      `${file.length}`,
      'The file was cut; copy or download it again.',
    );
  if (file.length < 0x268) throw truncated(0x268);
  const v = new DataView(file.buffer, file.byteOffset, file.length);
  const version = v.getUint16(hdr.version, true);
  if (version < 0x20c)
    throw new BootError(
      'KERNEL_TOO_OLD',
      'boot protocol 2.12 or newer (Linux 3.8)',
      `${version >>> 8}.${version & 255}`,
      'Use a newer kernel, or boot this one from a disk with firmware.',
    );
  const flags = v.getUint16(hdr.xloadflags, true);
  if (!(v.getUint8(hdr.loadflags) & LOADED_HIGH))
    throw new BootError(
      'KERNEL_TOO_OLD',
      'a kernel that is loaded above 1 MiB (LOADED_HIGH)',
      'a zImage',
      'Use a newer kernel, or boot this one from a disk with firmware.',
    );
  const codeAt = ((v.getUint8(hdr.setupSects) || 4) + 1) * 512;
  // In paragraphs, rounded up: the last one may be short (memtest86+). Signatures may follow.
  const paragraphs = v.getUint32(hdr.syssize, true) * 16;
  if (codeAt + paragraphs > file.length + 15) throw truncated(codeAt + paragraphs - 15);
  const codeBytes = Math.min(paragraphs, file.length - codeAt);
  const payloadAt = codeAt + v.getUint32(hdr.payloadOffset, true);
  const payloadEnd = payloadAt + v.getUint32(hdr.payloadLength, true);
  if (payloadEnd > file.length) throw truncated(payloadEnd);
  const name = v.getUint16(hdr.kernelVersion, true);
  const release = name
    ? Buffer.from(file.buffer, file.byteOffset, file.length)
        .toString('latin1', name + 0x200, name + 0x200 + 256)
        .split('\0')[0]!
    : '';
  return {
    file,
    version,
    is64: (flags & XLF_KERNEL_64) !== 0,
    release,
    headerEnd: Math.min(0x202 + v.getUint8(hdr.jump + 1), 0x290),
    codeAt,
    codeBytes,
    prefAddress: u64(v, hdr.prefAddress),
    alignment: v.getUint32(hdr.kernelAlignment, true),
    relocatable: v.getUint8(hdr.relocatable) !== 0,
    initSize: v.getUint32(hdr.initSize, true),
    initrdAddrMax: v.getUint32(hdr.initrdAddrMax, true),
    cmdlineSize: v.getUint32(hdr.cmdlineSize, true),
    payload: file.subarray(payloadAt, payloadEnd),
  };
}

/** How the payload of a bzImage is packed. */
export function payloadFormat(payload: Uint8Array): 'elf' | 'gzip' | 'xz' | 'zstd' | 'lz4' | 'unknown' {
  const starts = (...bytes: number[]): boolean => bytes.every((b, i) => payload[i] === b);
  if (starts(0x7f, 0x45, 0x4c, 0x46)) return 'elf';
  if (starts(0x1f, 0x8b)) return 'gzip';
  if (starts(0xfd, 0x37, 0x7a, 0x58, 0x5a)) return 'xz';
  if (starts(0x28, 0xb5, 0x2f, 0xfd)) return 'zstd';
  return isLz4Legacy(payload) ? 'lz4' : 'unknown';
}

/**
 * The kernel proper (ELF vmlinux) inside a bzImage. Booting it spares the guest the unpacking.
 * @param external unpacks what Node cannot: xz and zstd
 * @throws BootError KERNEL_COMPRESSION
 */
export async function unpackKernel(
  image: BzImage,
  external: (format: 'xz' | 'zstd', data: Uint8Array) => Promise<Uint8Array>,
): Promise<Uint8Array> {
  const { payload } = image;
  const format = payloadFormat(payload);
  // The build appends the unpacked size to formats that do not hold it themselves (all but gzip, whose own trailer serves).
  const data = payload.subarray(0, payload.length - 4);
  const size = new DataView(payload.buffer, payload.byteOffset, payload.length).getUint32(
    payload.length - 4,
    true,
  );
  const bad = (got: string): BootError =>
    new BootError(
      'KERNEL_COMPRESSION',
      'a kernel packed with gzip, xz, zstd or lz4',
      got,
      'Boot the bzImage itself; it unpacks itself in the guest.',
    );
  if (format === 'elf') return payload;
  if (format === 'unknown')
    throw bad(`a payload that begins with ${Buffer.from(payload.subarray(0, 4)).toString('hex')}`);
  if (size > MAX_UNPACKED) throw bad(`an unpacked size of ${size} bytes`);
  let out: Uint8Array | undefined;
  try {
    if (format === 'gzip') out = gunzipSync(payload, { maxOutputLength: MAX_UNPACKED });
    else if (format === 'lz4') out = unpackLz4Legacy(data, size);
    else out = await external(format, data);
  } catch (error) {
    throw bad(
      `${format} data that does not unpack (${error instanceof Error ? error.message : String(error)})`,
    );
  }
  if (out?.length !== size) throw bad(`${format} data of another size than the ${size} bytes announced`);
  return out;
}
