/** `nyx disk convert`: the content of a disk into a new image, or into one that is there. */
import { readSync, statSync } from 'node:fs';
import { fileSize } from '@nyx/native';
import { connectNbd, isNbdUri, parseNbdUri } from '@nyx/protocol/nbd';
import { BlockOp } from '../block/block.ts';
import { Extent, Kind } from '../block/extent.ts';
import { blockError, hostIo } from '../block/host.ts';
import { Qcow2Image } from '../block/qcow2/image.ts';
import { Packer } from '../block/qcow2/pack.ts';
import { type CreateRequest, create, nbdInfo, type Progress, withFile } from './commands.ts';
import { extent } from './copy.ts';
import { type Format, Opened, type Server } from './open.ts';

const CHUNK = 1 << 20;

/** Connects to a server. @throws NBD_*, BACKEND_MISSING */
async function onServer(path: string): Promise<Server> {
  const size = (await nbdInfo(path))['virtual-size'] as number;
  const address = parseNbdUri(path)!;
  return { fd: await connectNbd(address), exportName: address.exportName, size };
}

type Convert = {
  from: string;
  format?: Format;
  forceShare?: boolean;
  to: CreateRequest;
  /** Into compressed clusters, qcow2. */
  compress?: boolean;
  /** The target is there, of that format, and at least as large. */
  existing?: boolean;
};

/**
 * Copies the content, not the shape: holes and zeroes take no space. Either side may be an export of an NBD server, as raw
 * bytes; one that is written is there already, and at least as large.
 */
export function convert(o: Convert, progress: Progress): { size: number } | Promise<{ size: number }> {
  const { format, path, preallocation, compression } = o.to;
  if (o.compress && (format !== 'qcow2' || isNbdUri(path) || o.existing || preallocation || compression))
    throw blockError(
      'QCOW2_OPTION',
      'what can be compressed is a new qcow2 file without preallocation, with zlib',
    );
  if (isNbdUri(o.from) || isNbdUri(o.to.path)) return convertOnServer(o, progress);
  const source = new Opened({ path: o.from, format: o.format, forceShare: o.forceShare }, false, CHUNK);
  try {
    const size = sizeOf(source);
    if (!o.existing) create({ ...o.to, size });
    if (o.compress) return packAll(source, o.to, progress);
    const target = new Opened({ path: o.to.path, format: o.to.format }, true, CHUNK);
    try {
      if (target.disk.size < size)
        throw blockError(
          'QCOW2_OPTION',
          `${o.to.path}: ${target.disk.size} bytes, ${size} are to be written`,
        );
      return copyAll(source, target, isFresh(o), progress);
    } finally {
      target.close();
    }
  } finally {
    source.close();
  }
}

async function convertOnServer(o: Convert, progress: Progress): Promise<{ size: number }> {
  const server = async (path: string, format: Format | undefined): Promise<Server | undefined> => {
    if (!isNbdUri(path)) return undefined;
    if (format !== undefined && format !== 'raw')
      throw blockError('NBD_URI', `${path}: what a server has is taken as raw, not as ${format}`);
    return onServer(path);
  };
  const [from, to] = [await server(o.from, o.format), await server(o.to.path, o.to.format)];
  const source = new Opened(
    from ? { server: from } : { path: o.from, format: o.format, forceShare: o.forceShare },
    false,
    CHUNK,
  );
  try {
    const size = sizeOf(source);
    if (to && to.size < size)
      throw blockError('NBD_URI', `${o.to.path}: ${to.size} bytes, ${size} are to be written`);
    if (!to && !o.existing) create({ ...o.to, size });
    const target = new Opened(to ? { server: to } : { path: o.to.path, format: o.to.format }, true, CHUNK);
    try {
      return copyAll(source, target, !to && isFresh(o), progress);
    } finally {
      target.close();
    }
  } finally {
    source.close();
  }
}

/** Bytes of the disk: a raw file that ends within a sector ends with it, as in QEMU. A guest of ours does not see such a sector. */
const sizeOf = ({ disk, layers: [top, under] }: Opened): number =>
  top?.format === 'raw' && under === undefined ? Math.ceil(fileSize(top.fd) / 512) * 512 : disk.size;

/** `bytes` at `position` to the start of the buffer; behind the end of a raw file there are zeroes. */
function read(source: Opened, position: number, bytes: number): void {
  const whole = Math.min(bytes, source.disk.size - position);
  if (whole > 0) source.do(BlockOp.read, position, whole);
  if (whole === bytes) return;
  const tail = Buffer.from(source.buffer, Math.max(0, whole), bytes - Math.max(0, whole)).fill(0);
  readSync(source.layers[0]!.fd, tail, 0, tail.length, source.disk.size);
}

/** What a source does not have need not be read, if it can tell. */
class Skips {
  readonly #maps: readonly (Qcow2Image | undefined)[];
  readonly #extent = new Extent();
  readonly #size: number;

  constructor(source: Opened) {
    // Others are read: a VHDX image may have a log that changes its tables.
    this.#maps = source.layers.map((l) => (l.format === 'qcow2' ? new Qcow2Image(hostIo, l.fd) : undefined));
    this.#size = sizeOf(source);
  }

  /** Where the next byte is, from `position` on, that may be something else than zero; the end of the disk if there is none. */
  from(position: number): number {
    if (this.#maps.length === 0) return position;
    for (let at = position; at < this.#size; ) {
      const n = extent(this.#maps, at, this.#size - at, this.#extent);
      if (this.#extent.kind !== Kind.unallocated && this.#extent.kind !== Kind.zero) return at;
      at += n;
    }
    return this.#size;
  }
}

/** With a backing file zeroes are stored like anything else. */
function packAll(source: Opened, to: CreateRequest, progress: Progress): { size: number } {
  const size = sizeOf(source);
  const from = Buffer.from(source.buffer);
  return withFile({ path: to.path }, true, (fd) => {
    const packer = new Packer(hostIo, fd);
    const { cluster } = packer;
    const piece = Buffer.alloc(cluster);
    const zero = Buffer.alloc(cluster);
    const skips = new Skips(source);
    for (let at = 0; at < size; at += cluster) {
      if (to.backing === undefined) at = Math.floor(skips.from(at) / cluster) * cluster;
      if (at >= size) break;
      const n = Math.min(cluster, size - at);
      for (let k = 0; k < n; k += CHUNK) {
        const part = Math.min(CHUNK, n - k);
        read(source, at + k, part);
        from.copy(piece, k, 0, part);
      }
      piece.fill(0, n);
      if (to.backing !== undefined || !piece.equals(zero)) packer.put(at / cluster, piece);
      progress((at + n) / size);
    }
    packer.finish();
    progress(1);
    return { size };
  });
}

/** Nothing is in the target, nor shows from below, nor is it a device, which cannot be emptied as a file is: it is all zeroes. */
const isFresh = ({ to, existing }: Convert): boolean =>
  !existing && to.backing === undefined && !(to.format === 'raw' && statSync(to.path).isBlockDevice());

/** @param fresh the target is all zeroes */
function copyAll(source: Opened, target: Opened, fresh: boolean, progress: Progress): { size: number } {
  const size = sizeOf(source);
  const [from, to] = [Buffer.from(source.buffer), Buffer.from(target.buffer)];
  const zero = Buffer.alloc(65536);
  const skips = new Skips(source);
  for (let at = 0; at < size; at += CHUNK) {
    // Of whole chunks, so that what is read is as before.
    if (fresh) at = Math.floor(skips.from(at) / CHUNK) * CHUNK;
    if (at >= size) break;
    const n = Math.min(CHUNK, size - at);
    read(source, at, n);
    // Runs of what is zero and what is not, in pieces of 64 KiB.
    const isZero = (k: number): boolean =>
      from.compare(zero, 0, Math.min(65536, n - k), k, Math.min(n, k + 65536)) === 0;
    for (let i = 0; i < n; ) {
      const none = isZero(i);
      let end = i + 65536;
      while (end < n && isZero(end) === none) end += 65536;
      end = Math.min(end, n);
      if (!none) {
        from.copy(to, 0, i, end);
        target.do(BlockOp.write, at + i, end - i);
      } else if (!fresh) target.do(BlockOp.writeZeroes, at + i, end - i);
      i = end;
    }
    progress((at + n) / size);
  }
  progress(1);
  // A server may hold it in memory.
  if (!fresh) target.do(BlockOp.flush, 0, 0);
  return { size };
}
