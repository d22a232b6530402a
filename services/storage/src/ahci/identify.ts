/** What the drives tell of themselves: IDENTIFY DEVICE (ATA8-ACS 7.16) and IDENTIFY PACKET DEVICE (7.17), by word. */
import type { PortView } from './regs.ts';

export interface DiskIdentity {
  /** Sectors of 512 bytes. */
  sectors: number;
  /** Bytes of a physical sector. */
  physicalBytes: number;
  canTrim: boolean;
  /** Up to 20 ASCII characters. */
  serial: string;
}

export const model = { disk: 'Nyx SATA disk', cd: 'Nyx DVD-ROM' } as const;
/** 8 characters for ATA, the first 4 of them for SCSI. */
export const firmware = '1.0';

/** Most blocks of 512 bytes in one DATA SET MANAGEMENT command. */
export const trimBlocks = 8;
/** Most sectors of READ MULTIPLE and WRITE MULTIPLE. */
export const mostMultiple = 16;

/** Cylinders, heads and sectors as ATA-5 has them for disks that are larger. */
export function geometry(sectors: number): { cylinders: number; heads: number; sectors: number } {
  const cylinders = Math.max(1, Math.min(16383, Math.floor(sectors / (16 * 63))));
  return { cylinders, heads: 16, sectors: 63 };
}

const buffer = (): DataView => new DataView(new ArrayBuffer(512));

const words = (view: DataView, list: Record<number, number>): void => {
  for (const [word, value] of Object.entries(list)) view.setUint16(2 * Number(word), value, true);
};

/** ATA strings: padded with spaces, two characters a word, the first in the high byte. */
const text = (view: DataView, word: number, characters: number, value: string): void => {
  for (let i = 0; i < characters; i++)
    view.setUint8(2 * word + (i ^ 1), i < value.length ? value.charCodeAt(i) & 0x7f : 0x20);
};

/** Word 255: signature, and the byte that makes the sum 0. */
const seal = (view: DataView): Uint8Array => {
  const bytes = new Uint8Array(view.buffer);
  bytes[510] = 0xa5;
  let sum = 0;
  for (let i = 0; i < 511; i++) sum += bytes[i]!;
  bytes[511] = -sum & 0xff;
  return bytes;
};

/** Words 63 and 88: modes offered, and the one selected by SET FEATURES. */
const modes = (transfer: number, kind: number, offered: number): number =>
  offered | ((transfer & 0xf8) === kind ? 1 << (8 + (transfer & 7)) : 0);

const dword = (view: DataView, word: number, value: number): void => view.setUint32(2 * word, value, true);

/** What both kinds of drive have in common. */
const common = (view: DataView, s: PortView, name: string, serial: string): void => {
  text(view, 10, 20, serial);
  text(view, 23, 8, firmware);
  text(view, 27, 40, name);
  words(view, {
    53: 0x0006,
    63: modes(s.transfer, 0x20, 0x07),
    64: 0x0003,
    65: 120,
    66: 120,
    67: 120,
    68: 120,
    // Major version: ATA/ATAPI-4 to ATA8-ACS.
    80: 0x01f0,
    88: modes(s.transfer, 0x40, 0x7f),
    // Transport: serial, SATA 2.6.
    222: 0x101f,
  });
};

export function identifyDisk(id: DiskIdentity, s: PortView): Uint8Array {
  const view = buffer();
  const { cylinders, heads, sectors } = geometry(id.sectors);
  const small = Math.min(id.sectors, 0x0fff_ffff);
  common(view, s, model.disk, id.serial);
  words(view, {
    0: 0x0040,
    1: cylinders,
    3: heads,
    6: sectors,
    47: 0x8000 | mostMultiple,
    48: 0x4000,
    // IORDY, LBA, DMA.
    49: 0x0f00,
    50: 0x4000,
    53: 0x0007,
    54: cylinders,
    55: heads,
    56: sectors,
    59: s.multiple ? 0x0100 | s.multiple : 0,
    75: 31,
    // 1.5 and 3 Gbit/s, NCQ.
    76: 0x0106,
    // Supported: NOP, look-ahead, write cache, power management, SMART.
    82: 0x4069,
    // FLUSH CACHE (EXT), 48 bits.
    83: 0x7400,
    // FUA, general purpose logging.
    84: 0x4060,
    85: 0x4008 | (s.lookAhead << 6) | (s.writeCache << 5) | s.smart,
    86: 0xb400,
    87: 0x4060,
    105: id.canTrim ? trimBlocks : 0,
    // Logical sectors of a physical one, log2.
    106: id.physicalBytes > 512 ? 0x6000 | Math.log2(id.physicalBytes / 512) : 0x4000,
    119: 0x4000,
    120: 0x4000,
    169: id.canTrim ? 1 : 0,
    209: 0x4000,
    // Not rotating.
    217: 1,
  });
  dword(view, 57, Math.min(cylinders * heads * sectors, small));
  dword(view, 60, small);
  dword(view, 100, id.sectors % 4294967296);
  dword(view, 102, Math.floor(id.sectors / 4294967296));
  return seal(view);
}

export function identifyCd(serial: string, s: PortView): Uint8Array {
  const view = buffer();
  common(view, s, model.cd, serial);
  words(view, {
    // ATAPI, CD-ROM, removable, DRQ within 50 us, packets of 12 bytes.
    0: 0x85c0,
    49: 0x0f00,
    50: 0x4000,
    76: 0x0006,
    // NOP, DEVICE RESET, PACKET, power management.
    82: 0x4218,
    83: 0x4000,
    84: 0x4000,
    85: 0x4218,
    87: 0x4000,
  });
  return seal(view);
}
