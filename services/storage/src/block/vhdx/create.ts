/** Makes an empty VHDX image. */
import { blockError, type HostIo, writeAll } from '../host.ts';
import {
  BlockState,
  FileFlag,
  Guid,
  guidAt,
  Limit,
  MiB,
  newGuid,
  Place,
  put64,
  putGuid,
  regionTableBytes,
  Signature,
  seal,
} from './format.ts';
import { readerOf, writeFileHeader } from './header.ts';
import { Journal, putEntry } from './journal.ts';
import { Tables } from './tables.ts';

export interface VhdxCreateOptions {
  /** Bytes of the disk, whole sectors. */
  size: number;
  /** Power of two, 1 to 256 MiB; default by the size of the disk. */
  blockBytes?: number;
  subformat?: 'dynamic' | 'fixed';
  /** Default 1 MiB. */
  logBytes?: number;
  /** A differencing image: name of the parent as it is found from the image, and its DataWriteGuid. */
  parent?: { path: string; guid: string };
}

const wrong = (what: string): Error => blockError('VHDX_OPTION', `vhdx: ${what}`);

/** As QEMU chooses it. */
const usualBlock = (size: number): number =>
  (size > 32 * 2 ** 40 ? 64 : size > 100 * 2 ** 30 ? 32 : size > 2 ** 30 ? 16 : 8) * MiB;

const SECTOR_BYTES = 512;
const ITEMS_AT = 0x1_0000;

/** @param fd is emptied, when nothing is wrong with the options. @throws VHDX_OPTION, or the host's error */
export function createVhdx(io: HostIo, fd: number, o: VhdxCreateOptions): void {
  const { size, subformat = 'dynamic', logBytes = MiB, parent } = o;
  const blockBytes = o.blockBytes ?? (parent ? 2 * MiB : usualBlock(size));
  if (size <= 0 || size % SECTOR_BYTES !== 0 || size > Limit.size)
    throw wrong(`a disk of ${size} bytes, expected up to 64 TiB in whole sectors`);
  if (!Number.isInteger(Math.log2(blockBytes)) || blockBytes < Limit.minBlock || blockBytes > Limit.maxBlock)
    throw wrong(`blocks of ${blockBytes} bytes, expected a power of two from 1M to 256M`);
  if (logBytes % MiB !== 0 || logBytes < MiB || logBytes > Limit.replayedLog)
    throw wrong(`a log of ${logBytes} bytes, expected whole MiB up to 64M`);
  if (parent && subformat === 'fixed') throw wrong('an image with a parent is not fixed');

  const chunkRatio = (2 ** 23 * SECTOR_BYTES) / blockBytes;
  const blocks = Math.ceil(size / blockBytes);
  const chunks = Math.ceil(blocks / chunkRatio);
  const entries = parent ? chunks * (chunkRatio + 1) : blocks + Math.max(0, chunks - 1);
  const logAt = MiB;
  const metadataAt = logAt + logBytes;
  const batAt = metadataAt + MiB;
  const batBytes = Math.ceil((entries * 8) / MiB) * MiB;
  const dataAt = batAt + batBytes;
  io.truncate(fd, 0);
  io.truncate(fd, subformat === 'fixed' ? dataAt + blocks * blockBytes : dataAt);

  const write = (v: DataView, at: number): void =>
    writeAll(io, fd, v.buffer as ArrayBuffer, 0, v.byteLength, at);
  const identifier = new DataView(new ArrayBuffer(520));
  identifier.setUint32(0, Signature.identifierLo, true);
  identifier.setUint32(4, Signature.identifierHi, true);
  for (const [i, c] of [...'Nyx'].entries()) identifier.setUint16(8 + 2 * i, c.charCodeAt(0), true);
  write(identifier, Place.identifier);

  const regions = new DataView(new ArrayBuffer(regionTableBytes));
  regions.setUint32(0, Signature.regionTable, true);
  regions.setUint32(8, 2, true);
  for (const [i, [guid, at, bytes]] of (
    [
      [Guid.bat, batAt, batBytes],
      [Guid.metadata, metadataAt, MiB],
    ] as const
  ).entries()) {
    putGuid(regions, 16 + 32 * i, guid);
    put64(regions, 32 + 32 * i, at);
    regions.setUint32(40 + 32 * i, bytes, true);
    regions.setUint32(44 + 32 * i, 1, true);
  }
  seal(regions);
  for (const at of Place.regionTables) write(regions, at);

  write(metadata(size, blockBytes, subformat === 'fixed', parent), metadataAt);
  if (subformat === 'fixed') {
    const table = new DataView(new ArrayBuffer(batBytes));
    for (let b = 0; b < blocks; b++)
      putEntry(table, 8 * (b + Math.floor(b / chunkRatio)), BlockState.present, dataAt + b * blockBytes);
    write(table, batAt);
  }
  const header = {
    index: 1 as 0 | 1,
    sequence: 0,
    fileWriteGuid: newGuid(),
    dataWriteGuid: newGuid(),
    logGuid: Guid.none,
    logOffset: logAt,
    logBytes,
  };
  // Both of them.
  writeFileHeader(io, fd, header);
  writeFileHeader(io, fd, header);
}

/** Makes the disk of an image larger, as far as its table of blocks has room. @throws VHDX_OPTION, or the host's error */
export function growVhdx(io: HostIo, fd: number, size: number): void {
  const tables = new Tables(io, fd, new Journal(new ArrayBuffer(4096)));
  const { geometry: g } = tables.image;
  if (size % g.logicalSector !== 0 || size < g.size || size > Limit.size)
    throw wrong(`from ${g.size} to ${size} bytes: an image can only grow, by whole sectors, up to 64 TiB`);
  const chunks = Math.ceil(Math.ceil(size / g.blockBytes) / g.chunkRatio);
  if (chunks * (g.chunkRatio + 1) * 8 > g.batBytes || g.leaveAllocated)
    throw wrong(
      g.leaveAllocated
        ? 'a fixed image does not grow: convert it'
        : `the table of blocks has ${g.batBytes} bytes, too few for ${size}: convert it`,
    );
  tables.touch();
  const metadataAt = g.regions.find((r) => r.guid === Guid.metadata)!.offset;
  const table = readerOf(io, fd)(metadataAt, 0x1_0000);
  for (let at = 32; at < 32 + 32 * table.getUint16(10, true); at += 32) {
    if (guidAt(table, at) !== Guid.diskSize) continue;
    const v = new DataView(new ArrayBuffer(8));
    put64(v, 0, size);
    writeAll(io, fd, v.buffer as ArrayBuffer, 0, 8, metadataAt + table.getUint32(at + 16, true));
  }
  io.fdatasync(fd);
  tables.close();
}

/** 2.6: the table, then the items. */
function metadata(
  size: number,
  blockBytes: number,
  fixed: boolean,
  parent: VhdxCreateOptions['parent'],
): DataView {
  const items: [guid: string, flags: number, data: DataView][] = [];
  const item = (guid: string, flags: number, bytes: number): DataView => {
    const v = new DataView(new ArrayBuffer(bytes));
    items.push([guid, flags, v]);
    return v;
  };
  const [disk, required] = [2, 4];
  const parameters = item(Guid.fileParameters, required, 8);
  parameters.setUint32(0, blockBytes, true);
  parameters.setUint32(4, (fixed ? FileFlag.leaveAllocated : 0) | (parent ? FileFlag.hasParent : 0), true);
  put64(item(Guid.diskSize, required | disk, 8), 0, size);
  putGuid(item(Guid.diskId, required | disk, 16), 0, newGuid());
  item(Guid.logicalSector, required | disk, 4).setUint32(0, SECTOR_BYTES, true);
  item(Guid.physicalSector, required | disk, 4).setUint32(0, 4096, true);
  if (parent) {
    const keys = [
      ['parent_linkage', `{${parent.guid}}`],
      ['relative_path', parent.path.replaceAll('/', '\\')],
    ] as const;
    const bytes = 20 + 12 * keys.length + keys.reduce((n, [k, v]) => n + 2 * (k.length + v.length), 0);
    if (bytes > 0xffff) throw wrong('the name of the parent is too long');
    const v = item(Guid.parentLocator, required, bytes);
    putGuid(v, 0, Guid.parentLocatorVhdx);
    v.setUint16(18, keys.length, true);
    let at = 20 + 12 * keys.length;
    const put = (text: string): number => {
      for (let i = 0; i < text.length; i++) v.setUint16(at + 2 * i, text.charCodeAt(i), true);
      at += 2 * text.length;
      return at - 2 * text.length;
    };
    for (const [i, [key, value]] of keys.entries()) {
      v.setUint32(20 + 12 * i, put(key), true);
      v.setUint32(24 + 12 * i, put(value), true);
      v.setUint16(28 + 12 * i, 2 * key.length, true);
      v.setUint16(30 + 12 * i, 2 * value.length, true);
    }
  }
  const bytes = items.reduce((n, [, , v]) => n + v.byteLength, ITEMS_AT);
  const table = new DataView(new ArrayBuffer(Math.ceil(bytes / 4096) * 4096));
  table.setUint32(0, Signature.metadataLo, true);
  table.setUint32(4, Signature.metadataHi, true);
  table.setUint16(10, items.length, true);
  let next = ITEMS_AT;
  for (const [i, [guid, flags, v]] of items.entries()) {
    putGuid(table, 32 + 32 * i, guid);
    table.setUint32(48 + 32 * i, next, true);
    table.setUint32(52 + 32 * i, v.byteLength, true);
    table.setUint32(56 + 32 * i, flags, true);
    new Uint8Array(table.buffer, next, v.byteLength).set(new Uint8Array(v.buffer));
    next += v.byteLength;
  }
  return table;
}
