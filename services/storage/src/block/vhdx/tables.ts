/**
 * The tables of a VHDX image that is written: places for new blocks, changes through the journal, and writing the journal
 * out through the image's own log, in the order that stands every death.
 */
import { type HostIo, readPadded, writeAll } from '../host.ts';
import { BlockState, blockFull, corrupt, Guid, MiB, newGuid, SECTOR } from './format.ts';
import { writeFileHeader } from './header.ts';
import { VhdxImage } from './image.ts';
import { hasPlace, type Journal, putEntry, setBits } from './journal.ts';
import { LogWriter, mostSectors, replay } from './log.ts';

/** A file that is larger is not looked through for its end: 2 million entries. */
const MOST_SCANNED = 16 * MiB;

interface Sector {
  position: number;
  content: Uint8Array;
}

export class Tables {
  readonly image: VhdxImage;
  /** Where the next block goes: the end of the file. */
  #end: number;
  #log: LogWriter | undefined;

  /** Opens for writing; finishes what a predecessor left in the log and in `journal`. @throws coded errors */
  constructor(
    readonly io: HostIo,
    readonly fd: number,
    readonly journal: Journal,
    cacheBytes?: number,
  ) {
    const first = new VhdxImage(io, fd, 4096 * 8);
    if (first.pending) replay(io, fd, first.pending);
    if (first.header.logGuid !== Guid.none) {
      first.header.logGuid = Guid.none;
      writeFileHeader(io, fd, first.header);
    }
    this.image = new VhdxImage(io, fd, cacheBytes, (position, at) => this.#overlay(position, at));
    this.#end = this.#usedEnd();
    if (!journal.empty) this.#recover();
    else this.#cut();
  }

  #overlay(position: number, at: number): void {
    const { journal, image } = this;
    if (image === undefined) return;
    for (const half of [journal.active ^ 1, journal.active])
      journal.apply(half, position, image.cache.view, at);
  }

  /** Behind the last thing that the image refers to. @throws VHDX_CORRUPT */
  #usedEnd(): number {
    const { header, geometry: g } = this.image;
    let end = header.logOffset + header.logBytes;
    for (const r of g.regions) end = Math.max(end, r.offset + r.bytes);
    const size = this.io.size(this.fd);
    if (g.batBytes > MOST_SCANNED) return Math.max(end, Math.ceil(size / MiB) * MiB);
    const chunks = Math.ceil(g.blocks / g.chunkRatio);
    const look = (at: number, bytes: number): void => {
      const { state, offset } = this.image.entry(at);
      if (hasPlace(state)) end = Math.max(end, offset + bytes);
    };
    for (let b = 0; b < g.blocks; b++) look(this.image.entryAt(b), g.blockBytes);
    for (let c = 0; g.hasParent && c < chunks; c++) look(this.image.bitmapEntryAt(c * g.chunkRatio), MiB);
    if (end > size + g.blockBytes + MiB) throw corrupt(`blocks up to ${end}, the file ends at ${size}`);
    return end;
  }

  /** What requests that nobody finished left behind the end goes: new blocks have to be empty. */
  #cut(): void {
    if (this.io.size(this.fd) > this.#end && this.image.geometry.batBytes <= MOST_SCANNED)
      this.io.truncate(this.fd, this.#end);
  }

  /** A place of zeroes for a new block. @throws the host's error */
  #take(bytes: number): number {
    const at = this.#end;
    if (at + bytes > Number.MAX_SAFE_INTEGER / 2) throw blockFull();
    this.io.truncate(this.fd, at + bytes);
    this.#end = at + bytes;
    return at;
  }

  /** A place for a payload block, which the table does not tell of before `link`. @throws the host's error */
  place(block: number): number {
    let at = this.image.fresh.get(block);
    if (at === undefined) {
      at = this.#take(this.image.geometry.blockBytes);
      this.image.fresh.set(block, at);
    }
    return at;
  }

  /** Before the first change of what a guest sees: the image is another one from now on (2.2.2). */
  touch(): void {
    if (this.#log) return;
    const { header } = this.image;
    header.fileWriteGuid = newGuid();
    header.dataWriteGuid = newGuid();
    header.logGuid = newGuid();
    writeFileHeader(this.io, this.fd, header);
    this.#log = new LogWriter(this.io, this.fd, header);
  }

  #entry(at: number, state: number, offset: number): void {
    const { journal, image } = this;
    journal.entry(at, state, offset);
    const to = image.cache.peek(at);
    if (to >= 0) putEntry(image.cache.view, to, state, offset);
  }

  /** A block has data of ours: all of it, or without `whole` sectors of it. At most 3 records. @throws coded errors */
  link(block: number, inBlock: number, bytes: number, whole: boolean): void {
    const { image, journal } = this;
    const { geometry: g } = image;
    const now = image.entry(image.entryAt(block));
    const at = image.fresh.get(block) ?? now.offset;
    if (whole) {
      if (now.state !== BlockState.present) this.#entry(image.entryAt(block), BlockState.present, at);
      image.fresh.delete(block);
      return;
    }
    // Another write had all of it.
    if (now.state === BlockState.present) return;
    const mapAt = image.bitmapEntryAt(block);
    let { state, offset } = image.entry(mapAt);
    if (state !== BlockState.present) {
      offset = this.#take(MiB);
      state = BlockState.present;
      this.#entry(mapAt, state, offset);
    }
    // Bits without their block would be taken for those of the next one that gets a place there: they come last.
    if (now.state !== BlockState.partial) this.#entry(image.entryAt(block), BlockState.partial, at);
    image.fresh.delete(block);
    const first = ((block % g.chunkRatio) * g.blockBytes + inBlock) / g.logicalSector;
    const count = bytes / g.logicalSector;
    journal.bits(offset, first, count);
    const end = offset + Math.floor((first + count - 1) / 8);
    for (let s = Math.floor((offset + Math.floor(first / 8)) / SECTOR) * SECTOR; s <= end; s += SECTOR) {
      const to = image.cache.peek(s);
      if (to >= 0) setBits(image.cache.view, to, (offset - s) * 8 + first, count);
    }
  }

  /** A block of a differencing image that reads as zeroes, whatever the parent has. */
  zeroBlock(block: number): void {
    this.#entry(this.image.entryAt(block), BlockState.zero, 0);
  }

  // ---- writing the journal out ----

  /**
   * The sectors of a half as they become, in an order in which any first part of them makes sense: entries of bitmaps, which
   * are behind those of their blocks, entries of blocks, bits.
   */
  sectors(half: number): Sector[] {
    const { batOffset, batBytes } = this.image.geometry;
    const isTable = (at: number): boolean => at >= batOffset && at < batOffset + batBytes;
    const all = this.journal.sectors(half);
    const order = [...all.filter(isTable).sort((a, b) => b - a), ...all.filter((at) => !isTable(at))];
    return order.map((position) => {
      const content = new ArrayBuffer(SECTOR);
      readPadded(this.io, this.fd, content, 0, SECTOR, position);
      this.journal.apply(half, position, new DataView(content), 0);
      return { position, content: new Uint8Array(content) };
    });
  }
  /** To the log; not yet stable. @param sectors at most `mostSectors` */
  writeLog(sectors: readonly Sector[]): void {
    this.touch();
    this.#log!.write(sectors);
  }
  /** To their places; the log has them. Not yet stable. */
  writePlaces(sectors: readonly Sector[]): void {
    for (const { position, content } of sectors)
      writeAll(this.io, this.fd, content.buffer as ArrayBuffer, 0, SECTOR, position);
  }

  /** What a predecessor acknowledged. */
  #recover(): void {
    const { io, fd, journal } = this;
    io.fdatasync(fd);
    for (const half of [journal.active ^ 1, journal.active]) {
      const all = this.sectors(half);
      for (let i = 0; i < all.length; i += mostSectors) {
        const some = all.slice(i, i + mostSectors);
        this.writeLog(some);
        io.fdatasync(fd);
        this.writePlaces(some);
        io.fdatasync(fd);
      }
      journal.clear(half);
    }
    this.#end = this.#usedEnd();
    this.#cut();
  }

  /** Nothing is left to be replayed. */
  close(): void {
    if (!this.#log) return;
    const { header } = this.image;
    header.logGuid = Guid.none;
    writeFileHeader(this.io, this.fd, header);
  }
}
