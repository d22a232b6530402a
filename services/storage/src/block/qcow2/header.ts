/**
 * The header of a qcow2 image, version 2 and 3 (QEMU's docs/interop/qcow2, "Header", "Header extensions"): read with
 * every field checked, since an image may come from anywhere. Limits beside those of the format are QEMU's own.
 */
import { blockError, type HostIo, readPadded } from '../host.ts';

export const qcow2Magic = 0x514649fb;

export const Incompatible = { dirty: 1, corrupt: 2, dataFile: 4, compression: 8, extendedL2: 16 } as const;
export const Compatible = { lazyRefcounts: 1 } as const;
export const Autoclear = { bitmaps: 1, rawData: 2 } as const;
export const Extension = {
  end: 0,
  backingFormat: 0xe2792aca,
  featureNames: 0x6803f857,
  bitmaps: 0x23852875,
  encryption: 0x0537be77,
  dataFile: 0x44415441,
} as const;

export const Limit = {
  minClusterBits: 9,
  maxClusterBits: 21,
  l1Bytes: 32 << 20,
  refcountTableBytes: 8 << 20,
  snapshots: 65536,
  snapshotTableBytes: 64 << 20,
  backingName: 1023,
} as const;

export interface HeaderExtension {
  type: number;
  data: Uint8Array;
}

export interface Qcow2Header {
  version: 2 | 3;
  clusterBits: number;
  /** Bytes of the virtual disk. */
  size: number;
  l1Entries: number;
  l1Offset: number;
  refcountTableOffset: number;
  refcountTableClusters: number;
  /** Width of a refcount is 1 << this, in bits. */
  refcountOrder: number;
  snapshots: number;
  snapshotsOffset: number;
  incompatible: number;
  compatible: number;
  autoclear: number;
  /** Bits above 31, not all zero. */
  autoclearUnknown: boolean;
  /** 0 zlib, 1 zstd. */
  compression: number;
  headerLength: number;
  extensions: HeaderExtension[];
  backing?: string;
  backingFormat?: string;
  dataFile?: string;
  bitmaps?: { count: number; directoryBytes: number; directoryOffset: number };
}

const invalid = (what: string): Error => blockError('QCOW2_INVALID', `qcow2 header: ${what}`);
const cannot = (what: string): Error => blockError('QCOW2_UNSUPPORTED', `qcow2: ${what}`);

/** A 64-bit number that is exact as a double. */
function u64(view: DataView, at: number, what: string): number {
  const n = view.getUint32(at) * 4294967296 + view.getUint32(at + 4);
  if (n > Number.MAX_SAFE_INTEGER) throw invalid(`${what} is ${n}, larger than any file`);
  return n;
}

const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);

/** Reads and checks the header. @throws QCOW2_INVALID, QCOW2_UNSUPPORTED, or the host's error */
export function readHeader(io: HostIo, fd: number): Qcow2Header {
  const head = new ArrayBuffer(512);
  readPadded(io, fd, head, 0, 512, 0);
  const clusterBits = new DataView(head).getUint32(20);
  if (new DataView(head).getUint32(0) !== qcow2Magic) throw invalid("does not begin with 'QFI\\xfb'");
  if (clusterBits < Limit.minClusterBits || clusterBits > Limit.maxClusterBits)
    throw invalid(
      `cluster_bits is ${clusterBits}, expected ${Limit.minClusterBits}..${Limit.maxClusterBits}`,
    );
  const first = new ArrayBuffer(1 << clusterBits);
  readPadded(io, fd, first, 0, first.byteLength, 0);
  return parseHeader(new Uint8Array(first));
}

/** @param bytes the first cluster */
export function parseHeader(bytes: Uint8Array): Qcow2Header {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const version = view.getUint32(4);
  if (version !== 2 && version !== 3) throw cannot(`version ${version}, expected 2 or 3`);
  const clusterBits = view.getUint32(20);
  const cluster = 1 << clusterBits;
  const crypt = view.getUint32(32);
  if (crypt !== 0) throw cannot(`the image is encrypted (${crypt === 2 ? 'LUKS' : `method ${crypt}`})`);
  const v3 = version === 3;
  if (v3 && bytes.length < 104) throw invalid('shorter than 104 bytes');
  const headerLength = v3 ? view.getUint32(100) : 72;
  if (v3 && (headerLength < 104 || headerLength % 8 !== 0 || headerLength > cluster))
    throw invalid(`header_length is ${headerLength}, expected a multiple of 8 from 104 to ${cluster}`);
  const incompatible = v3 ? view.getUint32(76) : 0;
  if (v3 && (view.getUint32(72) !== 0 || incompatible & ~0x1f))
    throw cannot(`incompatible features 0x${incompatible.toString(16)}: at least one is unknown`);
  if (incompatible & Incompatible.dataFile)
    throw cannot(
      'the image keeps its data in an external file: `qemu-img convert -O qcow2` makes one that is whole',
    );
  const compression = v3 && headerLength > 104 ? view.getUint8(104) : 0;
  if (((incompatible & Incompatible.compression) !== 0) !== (compression !== 0))
    throw invalid(`compression type ${compression} contradicts the incompatible features`);
  if (compression > 1)
    throw cannot(`clusters are compressed with method ${compression}; zlib (0) and zstd (1) can be read`);
  if (incompatible & Incompatible.extendedL2 && clusterBits < 14)
    throw invalid(`cluster_bits is ${clusterBits}, extended L2 entries need 14 or more`);
  const refcountOrder = v3 ? view.getUint32(96) : 4;
  if (refcountOrder > 6) throw invalid(`refcount_order is ${refcountOrder}, at most 6`);

  const h: Qcow2Header = {
    version,
    clusterBits,
    size: u64(view, 24, 'size'),
    l1Entries: view.getUint32(36),
    l1Offset: u64(view, 40, 'l1_table_offset'),
    refcountTableOffset: u64(view, 48, 'refcount_table_offset'),
    refcountTableClusters: view.getUint32(56),
    refcountOrder,
    snapshots: view.getUint32(60),
    snapshotsOffset: u64(view, 64, 'snapshots_offset'),
    incompatible,
    compatible: v3 ? view.getUint32(84) : 0,
    autoclear: v3 ? view.getUint32(92) : 0,
    autoclearUnknown: v3 && (view.getUint32(88) !== 0 || (view.getUint32(92) & ~3) !== 0),
    compression,
    headerLength,
    extensions: [],
  };
  const aligned = (offset: number, what: string): void => {
    if (offset % cluster !== 0) throw invalid(`${what} is 0x${offset.toString(16)}, not at a cluster`);
  };
  aligned(h.l1Offset, 'l1_table_offset');
  aligned(h.refcountTableOffset, 'refcount_table_offset');
  aligned(h.snapshotsOffset, 'snapshots_offset');
  if (h.l1Entries * 8 > Limit.l1Bytes)
    throw invalid(`l1_size is ${h.l1Entries}, a table of more than 32 MiB`);
  const needed = l1EntriesFor(h, h.size);
  if (h.l1Entries < needed)
    throw invalid(`l1_size is ${h.l1Entries}, a disk of ${h.size} bytes needs ${needed}`);
  if (h.l1Entries > 0 && h.l1Offset === 0) throw invalid('l1_table_offset is 0');
  if (h.refcountTableClusters * cluster > Limit.refcountTableBytes)
    throw invalid(`refcount_table_clusters is ${h.refcountTableClusters}, a table of more than 8 MiB`);
  if (h.refcountTableClusters === 0 || h.refcountTableOffset === 0) throw invalid('no refcount table');
  if (h.snapshots > Limit.snapshots) throw invalid(`${h.snapshots} snapshots, at most ${Limit.snapshots}`);

  readExtensions(h, bytes, view);
  const backingOffset = u64(view, 8, 'backing_file_offset');
  const backingSize = view.getUint32(16);
  if (backingOffset !== 0 && backingSize !== 0) {
    if (backingSize > Limit.backingName || backingOffset + backingSize > cluster)
      throw invalid(
        `backing file name of ${backingSize} bytes at ${backingOffset} is not in the first cluster`,
      );
    h.backing = text(bytes.subarray(backingOffset, backingOffset + backingSize));
  }
  return h;
}

function readExtensions(h: Qcow2Header, bytes: Uint8Array, view: DataView): void {
  let at = h.headerLength;
  const backingOffset = view.getUint32(12);
  const end =
    view.getUint32(8) === 0 && backingOffset >= at && backingOffset <= bytes.length
      ? backingOffset
      : bytes.length;
  while (at + 8 <= end) {
    const type = view.getUint32(at);
    const length = view.getUint32(at + 4);
    if (type === Extension.end) return;
    if (length > end - at - 8)
      throw invalid(`extension 0x${type.toString(16)} of ${length} bytes has no room`);
    const data = bytes.slice(at + 8, at + 8 + length);
    h.extensions.push({ type, data });
    if (type === Extension.backingFormat) h.backingFormat = text(data);
    else if (type === Extension.dataFile) h.dataFile = text(data);
    else if (type === Extension.bitmaps) {
      if (length !== 24) throw invalid(`bitmaps extension of ${length} bytes, expected 24`);
      const v = new DataView(data.buffer);
      h.bitmaps = {
        count: v.getUint32(0),
        directoryBytes: u64(v, 8, 'bitmap_directory_size'),
        directoryOffset: u64(v, 16, 'bitmap_directory_offset'),
      };
    }
    at += 8 + Math.ceil(length / 8) * 8;
  }
}

export const l2EntryBytes = (h: Pick<Qcow2Header, 'incompatible'>): number =>
  h.incompatible & Incompatible.extendedL2 ? 16 : 8;

/** Entries that an L1 table needs for a disk of `size` bytes. */
export function l1EntriesFor(h: Pick<Qcow2Header, 'incompatible' | 'clusterBits'>, size: number): number {
  const cluster = 2 ** h.clusterBits;
  return Math.ceil(size / (cluster * (cluster / l2EntryBytes(h))));
}
