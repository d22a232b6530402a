/** What firmware reads from CMOS: memory sizes, boot order, number of CPUs (QEMU's layout, which SeaBIOS and OVMF know). */

export interface RtcConfig {
  /** Guest RAM in all. */
  ramBytes: number;
  /** The part of it below 4 GiB. */
  lowBytes?: number;
  cpus?: number;
  /** Nibbles: 1 floppy, 2 hard disk, 3 CD-ROM, 4 network; first choice lowest. */
  bootOrder?: number;
}

const KIB = 1024;
const MIB = 1024 * KIB;
const lowLimit = 0x8000_0000;

/** Byte and value, of everything that is not zero. */
export function cmosBytes(config: RtcConfig): [number, number][] {
  const low = config.lowBytes ?? Math.min(config.ramBytes, lowLimit);
  const high = Math.max(0, config.ramBytes - low);
  const extended = Math.min(Math.max(0, Math.floor(low / KIB) - 1024), 0xffff);
  const above16 = Math.min(Math.max(0, Math.floor((low - 16 * MIB) / (64 * KIB))), 0xffff);
  const above4g = Math.floor(high / (64 * KIB));
  const order = config.bootOrder ?? 0x32;
  const bytes: [number, number][] = [
    // Equipment: coprocessor, PS/2 mouse.
    [0x14, 0x06],
    [0x15, 640 & 0xff],
    [0x16, 640 >> 8],
    [0x17, extended & 0xff],
    [0x18, extended >> 8],
    [0x30, extended & 0xff],
    [0x31, extended >> 8],
    [0x34, above16 & 0xff],
    [0x35, above16 >> 8],
    // Third choice, and "do not check for a floppy signature".
    [0x38, ((order >> 4) & 0xf0) | 1],
    [0x3d, order & 0xff],
    [0x5b, above4g & 0xff],
    [0x5c, (above4g >> 8) & 0xff],
    [0x5d, (above4g >> 16) & 0xff],
    [0x5f, (config.cpus ?? 1) - 1],
  ];
  let sum = 0;
  for (const [at, value] of bytes) if (at >= 0x10 && at <= 0x2d) sum += value;
  bytes.push([0x2e, sum >> 8], [0x2f, sum & 0xff]);
  return bytes;
}
