/** What an image says of itself: identifier, headers, regions, metadata (2.2, 2.6), with every field checked. */
import { type HostIo, readPadded, writeAll } from '../host.ts';
import {
  cannot,
  checksum,
  FileFlag,
  Guid,
  guidAt,
  headerBytes,
  invalid,
  Limit,
  MiB,
  Place,
  put64,
  putGuid,
  regionTableBytes,
  Signature,
  seal,
  u64,
} from './format.ts';

/** Reads bytes of the file as they are meant: a log that could not be replayed lies over them. */
export type Read = (position: number, bytes: number) => DataView;

export const readerOf =
  (io: HostIo, fd: number): Read =>
  (position, bytes) => {
    const buffer = new ArrayBuffer(bytes);
    readPadded(io, fd, buffer, 0, bytes, position);
    return new DataView(buffer);
  };

/** 2.2.2; the newer of the two. */
export interface FileHeader {
  /** Which of the two it is. */
  index: 0 | 1;
  sequence: number;
  fileWriteGuid: string;
  dataWriteGuid: string;
  logGuid: string;
  logOffset: number;
  logBytes: number;
}

/** @throws VHDX_INVALID, VHDX_UNSUPPORTED */
export function readFileHeader(read: Read): FileHeader {
  const id = read(Place.identifier, 8);
  if (id.getUint32(0, true) !== Signature.identifierLo || id.getUint32(4, true) !== Signature.identifierHi)
    throw invalid("does not begin with 'vhdxfile'");
  let best: FileHeader | undefined;
  for (const index of [0, 1] as const) {
    const v = read(Place.headers[index], headerBytes);
    if (v.getUint32(0, true) !== Signature.header || checksum(v) !== v.getUint32(4, true)) continue;
    const sequence = v.getUint32(12, true) * 4294967296 + v.getUint32(8, true);
    if (best !== undefined && sequence <= best.sequence) continue;
    if (v.getUint16(66, true) !== 1) throw cannot(`version ${v.getUint16(66, true)}, expected 1`);
    best = {
      index,
      sequence,
      fileWriteGuid: guidAt(v, 16),
      dataWriteGuid: guidAt(v, 32),
      logGuid: guidAt(v, 48),
      logBytes: v.getUint32(68, true),
      logOffset: u64(v, 72, 'LogOffset'),
    };
    if (best.logGuid !== Guid.none && v.getUint16(64, true) !== 0)
      throw cannot(`a log of version ${v.getUint16(64, true)}, expected 0`);
  }
  if (best === undefined) throw invalid('neither header is whole');
  const { logOffset, logBytes } = best;
  if (logOffset % MiB !== 0 || logBytes % MiB !== 0 || logOffset < MiB)
    throw invalid(
      `a log of ${logBytes} bytes at 0x${logOffset.toString(16)}: not in whole MiB behind the headers`,
    );
  return best;
}

/** Writes the other header, which is the newer one then (2.2.2.1). Both before and after everything is stable. */
export function writeFileHeader(io: HostIo, fd: number, h: FileHeader): void {
  const v = new DataView(new ArrayBuffer(headerBytes));
  const index = h.index === 0 ? 1 : 0;
  v.setUint32(0, Signature.header, true);
  put64(v, 8, h.sequence + 1);
  putGuid(v, 16, h.fileWriteGuid);
  putGuid(v, 32, h.dataWriteGuid);
  putGuid(v, 48, h.logGuid);
  v.setUint16(66, 1, true);
  v.setUint32(68, h.logBytes, true);
  put64(v, 72, h.logOffset);
  seal(v);
  io.fdatasync(fd);
  writeAll(io, fd, v.buffer as ArrayBuffer, 0, headerBytes, Place.headers[index]);
  io.fdatasync(fd);
  // One that failed is tried again in the same place: the other one is good.
  h.index = index;
  h.sequence++;
}

export interface Region {
  guid: string;
  offset: number;
  bytes: number;
}

/** What a disk is made of; fixed when it was created. */
export interface Geometry {
  regions: Region[];
  batOffset: number;
  batBytes: number;
  blockBytes: number;
  leaveAllocated: boolean;
  hasParent: boolean;
  size: number;
  logicalSector: number;
  physicalSector: number;
  /** Keys of the parent locator. */
  parent: Map<string, string>;
  /** Payload blocks that one block of sector bitmap tells of (2.5). */
  chunkRatio: number;
  blocks: number;
}

/** 2.2.3. @throws VHDX_INVALID, VHDX_UNSUPPORTED */
function readRegions(read: Read): Region[] {
  for (const place of Place.regionTables) {
    const v = read(place, regionTableBytes);
    if (v.getUint32(0, true) !== Signature.regionTable || checksum(v) !== v.getUint32(4, true)) continue;
    const count = v.getUint32(8, true);
    if (count > Limit.regions) throw invalid(`${count} regions, at most ${Limit.regions}`);
    return Array.from({ length: count }, (_, i): Region => {
      const at = 16 + 32 * i;
      const r = {
        guid: guidAt(v, at),
        offset: u64(v, at + 16, 'a region'),
        bytes: v.getUint32(at + 24, true),
      };
      if (r.offset % MiB !== 0 || r.bytes % MiB !== 0 || r.offset < MiB || r.bytes === 0)
        throw invalid(`region ${r.guid}: ${r.bytes} bytes at 0x${r.offset.toString(16)}, not in whole MiB`);
      if (v.getUint32(at + 28, true) & 1 && r.guid !== Guid.bat && r.guid !== Guid.metadata)
        throw cannot(`region ${r.guid} is required and unknown`);
      return r;
    });
  }
  throw invalid('neither region table is whole');
}

const itemBytes: Record<string, number> = {
  [Guid.fileParameters]: 8,
  [Guid.diskSize]: 8,
  [Guid.diskId]: 16,
  [Guid.logicalSector]: 4,
  [Guid.physicalSector]: 4,
};

/** 2.6.1: items by GUID. @throws VHDX_INVALID, VHDX_UNSUPPORTED */
function readMetadata(read: Read, { offset, bytes }: Region): Map<string, DataView> {
  const table = read(offset, 0x1_0000);
  if (table.getUint32(0, true) !== Signature.metadataLo || table.getUint32(4, true) !== Signature.metadataHi)
    throw invalid("the metadata table does not begin with 'metadata'");
  const count = table.getUint16(10, true);
  if (count > Limit.metadataItems) throw invalid(`${count} metadata items, at most ${Limit.metadataItems}`);
  const items = new Map<string, DataView>();
  for (let i = 0; i < count; i++) {
    const at = 32 + 32 * i;
    const guid = guidAt(table, at);
    const [start, length] = [table.getUint32(at + 16, true), table.getUint32(at + 20, true)];
    const [user, required] = [table.getUint32(at + 24, true) & 1, table.getUint32(at + 24, true) & 4];
    const want = itemBytes[guid];
    if (user || (want === undefined && guid !== Guid.parentLocator)) {
      if (required) throw cannot(`metadata item ${guid} is required and unknown`);
      continue;
    }
    if (length > Limit.locatorBytes || (length > 0 && (start < 0x1_0000 || start + length > bytes)))
      throw invalid(`metadata item ${guid}: ${length} bytes at ${start} of ${bytes}`);
    if (want !== undefined && length < want) throw invalid(`metadata item ${guid} of ${length} bytes`);
    if (items.has(guid)) throw invalid(`metadata item ${guid} twice`);
    items.set(guid, read(offset + start, length));
  }
  return items;
}

/** 2.6.2.6. @throws VHDX_INVALID, VHDX_UNSUPPORTED */
function readLocator(v: DataView | undefined): Map<string, string> {
  if (v === undefined || v.byteLength < 20) throw invalid('a differencing image without a parent locator');
  if (guidAt(v, 0) !== Guid.parentLocatorVhdx) throw cannot(`a parent locator of type ${guidAt(v, 0)}`);
  const text = (at: number, bytes: number): string => {
    if (at + bytes > v.byteLength || bytes % 2) throw invalid('a parent locator that ends beyond its end');
    return new TextDecoder('utf-16le').decode(new Uint8Array(v.buffer, v.byteOffset + at, bytes));
  };
  const keys = new Map<string, string>();
  const count = v.getUint16(18, true);
  for (let i = 0; i < count; i++) {
    const at = 20 + 12 * i;
    if (at + 12 > v.byteLength) throw invalid('a parent locator that ends beyond its end');
    keys.set(
      text(v.getUint32(at, true), v.getUint16(at + 8, true)),
      text(v.getUint32(at + 4, true), v.getUint16(at + 10, true)),
    );
  }
  return keys;
}

const powerOfTwo = (n: number): boolean => n > 0 && 2 ** Math.round(Math.log2(n)) === n;

/** @throws VHDX_INVALID, VHDX_UNSUPPORTED, or the host's error */
export function readGeometry(read: Read, log: Pick<FileHeader, 'logOffset' | 'logBytes'>): Geometry {
  const regions = readRegions(read);
  const find = (guid: string, what: string): Region => {
    const found = regions.filter((r) => r.guid === guid);
    if (found.length !== 1) throw invalid(`${found.length} ${what} regions`);
    return found[0]!;
  };
  const bat = find(Guid.bat, 'allocation table');
  const metadata = find(Guid.metadata, 'metadata');
  const spans = [...regions, { guid: 'the log', offset: log.logOffset, bytes: log.logBytes }].sort(
    (a, b) => a.offset - b.offset,
  );
  for (const [i, s] of spans.entries())
    if (i > 0 && spans[i - 1]!.offset + spans[i - 1]!.bytes > s.offset)
      throw invalid(`${spans[i - 1]!.guid} and ${s.guid} overlap`);
  const items = readMetadata(read, metadata);
  const item = (guid: string, what: string): DataView => {
    const v = items.get(guid);
    if (v === undefined) throw invalid(`no ${what} in the metadata`);
    return v;
  };
  const parameters = item(Guid.fileParameters, 'file parameters');
  const blockBytes = parameters.getUint32(0, true);
  const flags = parameters.getUint32(4, true);
  const size = u64(item(Guid.diskSize, 'disk size'), 0, 'the disk size');
  const logicalSector = item(Guid.logicalSector, 'logical sector size').getUint32(0, true);
  const physicalSector = item(Guid.physicalSector, 'physical sector size').getUint32(0, true);
  if (!powerOfTwo(blockBytes) || blockBytes < Limit.minBlock || blockBytes > Limit.maxBlock)
    throw invalid(`blocks of ${blockBytes} bytes, expected a power of two from 1 to 256 MiB`);
  for (const s of [logicalSector, physicalSector])
    if (s !== 512 && s !== 4096) throw invalid(`sectors of ${s} bytes, expected 512 or 4096`);
  if (size > Limit.size || size % logicalSector !== 0)
    throw invalid(`a disk of ${size} bytes, expected at most 64 TiB in whole sectors`);
  const hasParent = (flags & FileFlag.hasParent) !== 0;
  const chunkRatio = (2 ** 23 * logicalSector) / blockBytes;
  const blocks = Math.ceil(size / blockBytes);
  const chunks = Math.ceil(blocks / chunkRatio);
  const entries = hasParent ? chunks * (chunkRatio + 1) : blocks + Math.max(0, chunks - 1);
  if (entries * 8 > bat.bytes || bat.bytes > Limit.batBytes)
    throw invalid(`an allocation table of ${bat.bytes} bytes; ${entries} entries are needed`);
  return {
    regions,
    batOffset: bat.offset,
    batBytes: bat.bytes,
    blockBytes,
    leaveAllocated: (flags & FileFlag.leaveAllocated) !== 0,
    hasParent,
    size,
    logicalSector,
    physicalSector,
    parent: hasParent ? readLocator(items.get(Guid.parentLocator)) : new Map(),
    chunkRatio,
    blocks,
  };
}

/** Where the parent of a differencing image may be, most likely first. Backslashes are directories. */
export const parentPaths = (g: Geometry): string[] =>
  ['relative_path', 'absolute_win32_path', 'volume_path'].flatMap((key) => {
    const path = g.parent.get(key);
    return path === undefined ? [] : [path.replaceAll('\\', '/')];
  });

/** DataWriteGuids that the parent may have: those of when this image was made. */
export const parentLinks = (g: Geometry): string[] =>
  ['parent_linkage', 'parent_linkage2'].flatMap((key) => {
    const link = g.parent.get(key);
    return link === undefined ? [] : [link.toLowerCase().replace(/[{}]/g, '')];
  });
