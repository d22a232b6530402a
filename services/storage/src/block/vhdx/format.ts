/** The bytes of a VHDX image (MS-VHDX): places, signatures, GUIDs, and what is read of them. All numbers are little-endian. */
import { crc32c } from '@nyx/native';
import { blockError } from '../host.ts';

export const MiB = 1 << 20;
/** Unit of the log, and of what it protects. */
export const SECTOR = 4096;

/** 2.2: the header section, 1 MiB. */
export const Place = {
  identifier: 0,
  headers: [0x1_0000, 0x2_0000],
  regionTables: [0x3_0000, 0x4_0000],
  end: MiB,
} as const;
export const headerBytes = 4096;
export const regionTableBytes = 0x1_0000;

/** First bytes of structures, as 32-bit numbers. */
export const Signature = {
  identifierLo: 0x78646876,
  identifierHi: 0x656c6966,
  header: 0x64616568,
  regionTable: 0x69676572,
  metadataLo: 0x6174656d,
  metadataHi: 0x61746164,
  logEntry: 0x65676f6c,
  zeroDescriptor: 0x6f72657a,
  dataDescriptor: 0x63736564,
  dataSector: 0x61746164,
} as const;

/** Well-known GUIDs: regions (2.2.3), metadata items (2.6.2), the type of a parent locator. */
export const Guid = {
  bat: '2dc27766-f623-4200-9d64-115e9bfd4a08',
  metadata: '8b7ca206-4790-4b9a-b8fe-575f050f886e',
  fileParameters: 'caa16737-fa36-4d43-b3b6-33f0aa44e76b',
  diskSize: '2fa54224-cd1b-4876-b211-5dbed83bf4b8',
  diskId: 'beca12ab-b2e6-4523-93ef-c309e000c746',
  logicalSector: '8141bf1d-a96f-4709-ba47-f233a8faab5f',
  physicalSector: 'cda348c7-445d-4471-9cc9-e9885251c556',
  parentLocator: 'a8d35f2d-b30b-454d-abf7-d3d84834ab0c',
  parentLocatorVhdx: 'b04aefb7-d19e-4a81-b789-25b8e9445913',
  none: '00000000-0000-0000-0000-000000000000',
} as const;

/** States of a block in the allocation table (2.5.1). */
export const BlockState = {
  notPresent: 0,
  undefined: 1,
  zero: 2,
  unmapped: 3,
  present: 6,
  partial: 7,
} as const;

export const FileFlag = { leaveAllocated: 1, hasParent: 2 } as const;

export const Limit = {
  minBlock: MiB,
  maxBlock: 256 * MiB,
  /** 64 TiB. */
  size: 2 ** 46,
  regions: 2047,
  metadataItems: 2047,
  /** A table for 64 TiB in blocks of 1 MiB, with its bitmap entries. */
  batBytes: 2 ** 30,
  /** Of a log that must be replayed: it is read into memory. QEMU and Hyper-V make 1 MiB. */
  replayedLog: 64 * MiB,
  locatorBytes: MiB,
} as const;

export const invalid = (what: string): Error => blockError('VHDX_INVALID', `vhdx: ${what}`);
export const corrupt = (what: string): Error => blockError('VHDX_CORRUPT', `vhdx: ${what}`);
export const cannot = (what: string): Error => blockError('VHDX_UNSUPPORTED', `vhdx: ${what}`);
export const blockFull = (): Error => blockError('VHDX_FULL', 'vhdx: the file cannot become larger');

const hex = (n: number, digits: number): string => n.toString(16).padStart(digits, '0');

/** A GUID as text; the first three fields are little-endian numbers. */
export function guidAt(v: DataView, at: number): string {
  const tail = Array.from({ length: 8 }, (_, i) => hex(v.getUint8(at + 8 + i), 2)).join('');
  return `${hex(v.getUint32(at, true), 8)}-${hex(v.getUint16(at + 4, true), 4)}-${hex(v.getUint16(at + 6, true), 4)}-${tail.slice(0, 4)}-${tail.slice(4)}`;
}
export function putGuid(v: DataView, at: number, guid: string): void {
  const [a, b, c, ...rest] = guid.split('-') as [string, string, string, ...string[]];
  v.setUint32(at, Number.parseInt(a, 16), true);
  v.setUint16(at + 4, Number.parseInt(b, 16), true);
  v.setUint16(at + 6, Number.parseInt(c, 16), true);
  const tail = rest.join('');
  for (let i = 0; i < 8; i++) v.setUint8(at + 8 + i, Number.parseInt(tail.slice(2 * i, 2 * i + 2), 16));
}
/** A new one (version 4). It tells states of a file apart; nobody must be kept from guessing it. */
export function newGuid(): string {
  const part = (n: number): string => hex(Math.floor(Math.random() * 16 ** n), n);
  return `${part(8)}-${part(4)}-4${part(3)}-a${part(3)}-${part(6)}${part(6)}`;
}

/** @throws VHDX_INVALID when it is not exact as a double */
export function u64(v: DataView, at: number, what: string): number {
  const n = v.getUint32(at + 4, true) * 4294967296 + v.getUint32(at, true);
  if (n > Number.MAX_SAFE_INTEGER) throw invalid(`${what} is ${n}, larger than any file`);
  return n;
}
export function put64(v: DataView, at: number, n: number): void {
  v.setUint32(at, n >>> 0, true);
  v.setUint32(at + 4, Math.floor(n / 4294967296), true);
}

/** The checksum of a structure whose own checksum field, at 4, counts as zero. The bytes are as before afterwards. */
export function checksum(v: DataView): number {
  const kept = v.getUint32(4, true);
  v.setUint32(4, 0, true);
  const crc = crc32c(v.buffer as ArrayBuffer, v.byteOffset, v.byteLength);
  v.setUint32(4, kept, true);
  return crc;
}
export const seal = (v: DataView): void => v.setUint32(4, checksum(v), true);
