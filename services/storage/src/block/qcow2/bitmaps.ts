/**
 * Dirty bitmaps ("Bitmaps extension"). They are kept, but not maintained: one that has to follow every change of the disk (`auto`)
 * says after a change of ours that it did not (`in_use`, "may be inconsistent"); one that stands still stays as good as it was.
 */
import { type HostIo, readPadded, writeAll } from '../host.ts';
import { Autoclear, type Qcow2Header } from './header.ts';

const HEAD = 24;
const MOST = 65_535;
const Flag = { inUse: 1, auto: 2 } as const;

export interface Bitmap {
  tableOffset: number;
  tableEntries: number;
  flags: number;
  /** File position of `flags`. */
  flagsAt: number;
  /** Bytes of the disk that a bit tells of, as a power of two. */
  granularityBits: number;
  name: string;
}

/** Those of an image; undefined when the directory makes no sense. None where the image says that they are out of date. */
export function readBitmaps(io: HostIo, fd: number, h: Qcow2Header): Bitmap[] | undefined {
  const b = h.bitmaps;
  if (!b || !(h.autoclear & Autoclear.bitmaps)) return [];
  if (b.count > MOST || b.directoryBytes > io.size(fd) || b.directoryOffset % 2 ** h.clusterBits !== 0)
    return undefined;
  const bytes = new Uint8Array(b.directoryBytes);
  const dir = new DataView(bytes.buffer);
  readPadded(io, fd, bytes.buffer, 0, b.directoryBytes, b.directoryOffset);
  const list: Bitmap[] = [];
  for (let at = 0; list.length < b.count; ) {
    if (at + HEAD > b.directoryBytes) return undefined;
    const [name, extra] = [dir.getUint16(at + 18), dir.getUint32(at + 20)];
    const from = at + HEAD + extra;
    if (from + name > b.directoryBytes) return undefined;
    list.push({
      tableOffset: dir.getUint32(at) * 4294967296 + dir.getUint32(at + 4),
      tableEntries: dir.getUint32(at + 8),
      flags: dir.getUint32(at + 12),
      flagsAt: b.directoryOffset + at + 12,
      granularityBits: dir.getUint8(at + 17),
      name: new TextDecoder().decode(bytes.subarray(from, from + name)),
    });
    at += Math.ceil((HEAD + extra + name) / 8) * 8;
  }
  return list;
}

/**
 * Before a change of what the disk holds, or with `size` of how large it is. Stable when it returns. Bitmaps that cannot be told
 * so are given up: the image says that they are out of date. @throws the host's error
 */
export function outdateBitmaps(io: HostIo, fd: number, h: Qcow2Header, size = h.size): void {
  if (h.version < 3) return;
  const list = readBitmaps(io, fd, h);
  const word = new DataView(new ArrayBuffer(8));
  let told = false;
  for (const b of list ?? []) {
    // A table that is too short for the disk is an error of a bitmap that claims to be good.
    const covered = b.tableEntries * 2 ** (h.clusterBits + 3 + b.granularityBits);
    if (b.flags & Flag.inUse || !(b.flags & Flag.auto || covered < size)) continue;
    word.setUint32(0, (b.flags | Flag.inUse) >>> 0);
    writeAll(io, fd, word.buffer as ArrayBuffer, 0, 4, b.flagsAt);
    told = true;
  }
  const keep = list === undefined ? 0 : h.autoclear & Autoclear.bitmaps;
  if (h.autoclear !== keep || h.autoclearUnknown) {
    word.setUint32(0, 0);
    word.setUint32(4, keep);
    writeAll(io, fd, word.buffer as ArrayBuffer, 0, 8, 88);
    h.autoclear = keep;
    h.autoclearUnknown = false;
    told = true;
  }
  if (told) io.fdatasync(fd);
}
