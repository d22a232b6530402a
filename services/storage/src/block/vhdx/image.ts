/** The blocks of one VHDX image (2.5): from a position on the virtual disk to what is there. Reading only; disk.ts writes. */
import { SliceCache } from '../cache.ts';
import { type Extent, type ImageLayer, Kind } from '../extent.ts';
import type { HostIo } from '../host.ts';
import { BlockState, corrupt, MiB, SECTOR } from './format.ts';
import {
  type FileHeader,
  type Geometry,
  type Read,
  readerOf,
  readFileHeader,
  readGeometry,
} from './header.ts';
import { offsetOf, stateOf } from './journal.ts';
import { type Replay, readLog } from './log.ts';

export class VhdxImage implements ImageLayer {
  readonly header: FileHeader;
  readonly geometry: Geometry;
  readonly cache: SliceCache;
  /** A log that is not replayed yet: it lies over the file. */
  readonly pending: Replay | undefined;
  /** Blocks that have a place in the file which the table does not tell of yet: block to offset. */
  readonly fresh = new Map<number, number>();

  /**
   * @param loaded lies over a sector of metadata after it was read
   * @throws VHDX_*, or the host's error
   */
  constructor(
    readonly io: HostIo,
    readonly fd: number,
    cacheBytes = 1 << 20,
    loaded: (position: number, at: number) => void = () => {},
  ) {
    const plain = readerOf(io, fd);
    this.header = readFileHeader(plain);
    this.pending = readLog(io, fd, this.header);
    this.geometry = readGeometry(this.pending ? over(plain, this.pending) : plain, this.header);
    this.cache = new SliceCache(io, fd, SECTOR, Math.max(8, cacheBytes / SECTOR), (position, at) => {
      if (this.pending) lay(this.pending, position, new Uint8Array(this.cache.buffer, at, SECTOR));
      loaded(position, at);
    });
  }

  get size(): number {
    return this.geometry.size;
  }

  /** File position of the table entry of a payload block. */
  entryAt(block: number): number {
    const { batOffset, chunkRatio } = this.geometry;
    return batOffset + 8 * (block + Math.floor(block / chunkRatio));
  }
  /** Of the bitmap block of the chunk that a payload block is in. */
  bitmapEntryAt(block: number): number {
    const { batOffset, chunkRatio } = this.geometry;
    return batOffset + 8 * ((Math.floor(block / chunkRatio) + 1) * (chunkRatio + 1) - 1);
  }

  /** State and place of the entry at a file position. @throws VHDX_CORRUPT */
  entry(at: number): { state: number; offset: number } {
    const to = this.cache.at(at);
    const [state, offset] = [stateOf(this.cache.view, to), offsetOf(this.cache.view, to)];
    if (state === 4 || state === 5) throw corrupt(`a block in state ${state}`);
    if ((state === BlockState.present || state === BlockState.partial) && offset < MiB)
      throw corrupt(`a block at 0x${offset.toString(16)}, in the headers`);
    if (offset > Number.MAX_SAFE_INTEGER / 2) throw corrupt('a block behind the end of any file');
    return { state, offset };
  }

  lookup(position: number, bytes: number, out: Extent): void {
    const g = this.geometry;
    const block = Math.floor(position / g.blockBytes);
    const inBlock = position - block * g.blockBytes;
    out.fd = this.fd;
    out.bytes = Math.min(bytes, g.blockBytes - inBlock);
    let { state, offset } = this.entry(this.entryAt(block));
    const fresh = this.fresh.get(block);
    if (fresh !== undefined) {
      offset = fresh;
      state = g.hasParent && state === BlockState.notPresent ? BlockState.partial : BlockState.present;
    }
    if (state === BlockState.notPresent) out.kind = g.hasParent ? Kind.unallocated : Kind.zero;
    else if (state === BlockState.present || state === BlockState.partial) {
      out.kind = Kind.data;
      out.host = offset + inBlock;
      if (state === BlockState.partial) this.#partial(block, inBlock, out);
    } else out.kind = Kind.zero;
  }

  /** Sectors of ours and of the parent's: as many as are alike. */
  #partial(block: number, inBlock: number, out: Extent): void {
    const { logicalSector, blockBytes, chunkRatio, hasParent } = this.geometry;
    if (!hasParent) throw corrupt('a block that is partly here, without a parent');
    const bitmap = this.entry(this.bitmapEntryAt(block));
    if (bitmap.state !== BlockState.present) {
      if (this.fresh.has(block)) {
        out.kind = Kind.unallocated;
        return;
      }
      throw corrupt(`block ${block} is partly here, and nothing tells which part`);
    }
    const first = ((block % chunkRatio) * blockBytes + inBlock) / logicalSector;
    const sectors = Math.ceil((first % 1) + out.bytes / logicalSector);
    const bit = (n: number): boolean => {
      const at = this.cache.at(bitmap.offset + Math.floor(n / 8));
      return (this.cache.view.getUint8(at) & (1 << (n % 8))) !== 0;
    };
    const start = Math.floor(first);
    const ours = bit(start);
    let n = 1;
    while (n < sectors && bit(start + n) === ours) n++;
    out.bytes = Math.min(out.bytes, (start + n - first) * logicalSector);
    if (!ours) out.kind = Kind.unallocated;
  }
}

/** What a log that is not replayed does to a range of the file that was read. */
function lay(r: Replay, position: number, bytes: Uint8Array): void {
  for (const c of r.changes) {
    const length = 'content' in c ? SECTOR : c.zeroes;
    const from = Math.max(c.position, position);
    const to = Math.min(c.position + length, position + bytes.length);
    if (from >= to) continue;
    if ('content' in c) bytes.set(c.content.subarray(from - c.position, to - c.position), from - position);
    else bytes.fill(0, from - position, to - position);
  }
}

const over =
  (read: Read, r: Replay): Read =>
  (position, bytes) => {
    const v = read(position, bytes);
    lay(r, position, new Uint8Array(v.buffer));
    return v;
  };
