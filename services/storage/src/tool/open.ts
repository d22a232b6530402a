/** Opens disks by their paths, for tools; whoever runs them chose the files. */
import { closeSync, constants, existsSync, fstatSync, openSync, readSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { fileSize } from '@nyx/native';
import { type DiskFormat, isDiskFormat } from '@nyx/protocol/disk-formats';
import { lockImage, unlockImage } from '@nyx/protocol/image-lock';
import { type BlockDriver, BlockOp, BlockRequest, BlockResult, type Completed } from '../block/block.ts';
import { blockError, hostIo } from '../block/host.ts';
import { type DiskSource, openDisk } from '../block/open.ts';
import { qcow2Magic, readHeader } from '../block/qcow2/header.ts';
import { parentPaths } from '../block/vhdx/header.ts';
import { VhdxImage } from '../block/vhdx/image.ts';

export type Format = DiskFormat;

/** What the first bytes say. Only where nobody's guest depends on it: information, and tools that were not told. */
export function probe(fd: number): Format {
  const b = Buffer.alloc(8);
  const n = readSync(fd, b, 0, 8, 0);
  if (n === 8 && b.toString('latin1') === 'vhdxfile') return 'vhdx';
  return n >= 4 && b.readUInt32BE(0) === qcow2Magic ? 'qcow2' : 'raw';
}

const MOST_LAYERS = 64;

/** Opens a regular file or a block device; never waits for the other end of a FIFO. @throws FILE_KIND, or the host's error */
export function openFile(path: string, flags: number): number {
  const wrongKind = (is: string): Error =>
    blockError('FILE_KIND', `${path} is ${is}, expected a file or a block device`);
  let fd: number;
  try {
    fd = openSync(path, flags | constants.O_NONBLOCK, 0o644);
  } catch (e) {
    const { code } = e as { code?: string };
    throw code === 'EISDIR'
      ? wrongKind('a directory')
      : code === 'ENXIO'
        ? wrongKind('a FIFO or a socket')
        : (e as Error);
  }
  const s = fstatSync(fd);
  if (s.isFile() || s.isBlockDevice()) return fd;
  closeSync(fd);
  throw wrongKind(s.isDirectory() ? 'a directory' : s.isFIFO() ? 'a FIFO' : 'a character device');
}

/** Opens a file of an image, locked as what is to be done with it needs. @throws NyxError FILE_IN_USE, or the host's error */
export function openLocked(path: string, write: boolean, forceShare = false): number {
  const fd = openFile(path, write ? constants.O_RDWR : constants.O_RDONLY);
  try {
    lockImage(fd, path, { write, forceShare });
    return fd;
  } catch (e) {
    closeSync(fd);
    throw e;
  }
}

/** Path and format of an image and all below it, the topmost first. @throws coded errors */
export function chainOf(path: string, format?: Format): { path: string; format: Format }[] {
  const list: { path: string; format: Format }[] = [];
  const seen = new Set<string>();
  for (let next: string | undefined = path, known = format; next !== undefined; ) {
    const fd = openFile(next, constants.O_RDONLY);
    try {
      const { dev, ino } = fstatSync(fd);
      if (seen.has(`${dev}:${ino}`) || list.length === MOST_LAYERS)
        throw blockError('QCOW2_CHAIN', `${path}: the chain of backing files does not end (${next})`);
      seen.add(`${dev}:${ino}`);
      const is: Format = known ?? probe(fd);
      list.push({ path: next, format: is });
      if (is === 'raw') break;
      if (is === 'vhdx') {
        next = parentOf(next, fd);
        known = 'vhdx';
        continue;
      }
      const { backing, backingFormat } = readHeader(hostIo, fd);
      if (backingFormat !== undefined && !isDiskFormat(backingFormat))
        throw blockError('QCOW2_UNSUPPORTED', `${next}: a backing file of format '${backingFormat}'`);
      if (backing !== undefined && /^(?!file:)[a-z][a-z0-9+-]*:/i.test(backing))
        throw blockError(
          'QCOW2_UNSUPPORTED',
          `${next}: its backing file is '${backing}', expected a file of this host`,
        );
      known = backingFormat as Format | undefined;
      next = backing === undefined ? undefined : resolve(dirname(next), backing.replace(/^file:/, ''));
    } finally {
      closeSync(fd);
    }
  }
  return list;
}

/** Where the parent of a VHDX image is; undefined without one. @throws VHDX_* */
function parentOf(path: string, fd: number): string | undefined {
  const { geometry } = new VhdxImage(hostIo, fd, 4096 * 8);
  if (!geometry.hasParent) return undefined;
  const places = parentPaths(geometry).map((p) => resolve(dirname(path), p));
  const found = places.find((p) => existsSync(p));
  if (found === undefined)
    throw blockError('VHDX_CHAIN', `${path}: its parent is not at ${places.join(' or ') || 'any place'}`);
  return found;
}

/** A file of a disk that is open. */
export interface Layer {
  fd: number;
  format: Format;
}

/** Opens files to read them, locked, as long as `use` takes. @throws NyxError FILE_IN_USE, or the host's error */
export function withLayers<T>(
  files: readonly { path: string; format: Format }[],
  forceShare: boolean,
  use: (layers: readonly Layer[]) => T,
): T {
  const layers: Layer[] = [];
  try {
    for (const { path, format } of files) layers.push({ fd: openLocked(path, false, forceShare), format });
    return use(layers);
  } finally {
    for (const { fd } of layers) {
      unlockImage(fd);
      closeSync(fd);
    }
  }
}

/** What lies under a qcow2 image, as its driver wants it. */
export const layersOf = (layers: readonly Layer[]): { fd: number; qcow2: boolean; layer?: VhdxImage }[] =>
  layers.map(({ fd, format }) => ({
    fd,
    qcow2: format === 'qcow2',
    ...(format === 'vhdx' ? { layer: new VhdxImage(hostIo, fd) } : {}),
  }));

/** An export of an NBD server, connected. */
export interface Server {
  fd: number;
  exportName: string;
  size: number;
}

/** A disk and one request at a time on it. */
export class Opened {
  readonly buffer: ArrayBuffer;
  readonly disk!: BlockDriver;
  /** The files, the topmost first; of a server none. */
  readonly layers: readonly Layer[] = [];
  readonly #fds: number[] = [];
  #own = true;
  readonly #request = new BlockRequest(0);
  #finished = 0;

  /**
   * @param what a path, with everything under it; open files, which stay the caller's; or a server
   * @param bytes of the buffer
   */
  constructor(
    what:
      | { path: string; format?: Format | undefined; forceShare?: boolean | undefined }
      | { layers: readonly Layer[] }
      | { server: Server },
    write: boolean,
    bytes: number,
  ) {
    this.buffer = new ArrayBuffer(bytes);
    const done: Completed = () => void this.#finished++;
    if ('server' in what) {
      const { fd, exportName, size } = what.server;
      const layers = [{ format: 'nbd', size }];
      // A connection that is lost is lost.
      const config = { readOnly: !write, layers, exportName, reconnectDelay: 0 };
      const source = { fd: () => fd, has: () => true, bulk: () => new ArrayBuffer(0) };
      this.disk = openDisk(source, config)(this.buffer, done);
      return;
    }
    let chain: readonly { format: Format }[];
    if ('layers' in what) {
      chain = what.layers;
      this.#own = false;
      this.#fds.push(...what.layers.map((l) => l.fd));
    } else {
      const found = chainOf(what.path, what.format);
      chain = found;
      for (const [i, l] of found.entries())
        this.#fds.push(openLocked(l.path, write && i === 0, what.forceShare));
    }
    const source: DiskSource = {
      fd: (name) => this.#fds[name === 'file' ? 0 : Number(name.slice('layer'.length))]!,
      has: () => false,
      bulk: () => new ArrayBuffer(0),
    };
    this.layers = chain.map((l, i) => ({ format: l.format, fd: this.#fds[i]! }));
    const layers = chain.map((l, i) => ({ format: l.format, size: fileSize(this.#fds[i]!) }));
    const whole = chain[0]!.format === 'raw' ? {} : { layers };
    try {
      this.disk = openDisk(source, { readOnly: !write, ...whole })(this.buffer, done);
    } catch (e) {
      this.close();
      throw e;
    }
  }

  /** `bytes` at `position` from or to the start of `buffer`. @throws DISK_IO */
  do(op: number, position: number, bytes: number): void {
    // Drivers leave that to whoever has a guest; behind the end a write would be lost.
    if (position + bytes > this.disk.size)
      throw blockError('DISK_IO', `${bytes} bytes at ${position}: the disk ends at ${this.disk.size}`);
    const r = this.#request;
    r.start(op, position, bytes);
    if (op === BlockOp.read || op === BlockOp.write) r.add(0, bytes);
    r.unmap = op === BlockOp.writeZeroes;
    this.#finished = 0;
    this.disk.submit(r);
    const over = this.disk.drain(60_000) && this.#finished === 1;
    if (over && r.result === BlockResult.noSpace)
      throw blockError('ENOSPC', `no space left for ${bytes} bytes at ${position} of the disk`);
    if (!over || r.result !== BlockResult.ok)
      throw blockError(
        'DISK_IO',
        `${op === 0 ? 'reading' : 'writing'} ${bytes} bytes at ${position} failed (${r.result})`,
      );
  }

  close(): void {
    this.disk?.close();
    for (const fd of this.#own ? this.#fds.splice(0) : []) {
      // The kernel may hold the file a moment longer than we do.
      unlockImage(fd);
      closeSync(fd);
    }
  }
}
