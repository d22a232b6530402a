/**
 * A disk in VHDX images (MS-VHDX): fixed, dynamic, differencing. Requests of the guest become host I/O into its memory.
 *
 *     read   -> lookup through the chain -> host reads, zeroes
 *     write  -> block has a place: host write
 *            -> else: the next place behind the end, host write, then the table tells of it (journal)
 *     flush  -> data stable, journal through the image's log into the tables (commit.ts)
 */
import { ioOp } from '@nyx/native';
import { BlockOp, type BlockRequest, BlockResult, type Completed } from '../block.ts';
import { Chain } from '../chain.ts';
import { Extent, type ImageLayer, Kind } from '../extent.ts';
import type { HostIo } from '../host.ts';
import { ImageDisk } from '../image-disk.ts';
import type { Op } from '../ops.ts';
import { Reader } from '../read.ts';
import { Commits } from './commit.ts';
import { BlockState, cannot } from './format.ts';
import { parentLinks } from './header.ts';
import { VhdxImage } from './image.ts';
import { Journal, journalBytes } from './journal.ts';
import { Tables } from './tables.ts';

const Tag = { part: 0, link: 1, dataSync: 2, logSync: 3 } as const;
/** Records that one write may need. */
const RECORDS = 3;

export interface VhdxOptions {
  /** The image, then its parents. Only the first is written. */
  files: readonly { fd: number }[];
  readOnly?: boolean;
  discard?: boolean;
  depth?: number;
  /** Memory that outlives this process (journal.ts); default: of this process alone. */
  journal?: ArrayBuffer;
  cacheBytes?: number;
}

export class VhdxDisk extends ImageDisk {
  readonly size: number;
  readonly readOnly: boolean;
  readonly physicalBytes: number;
  readonly canDiscard: boolean;
  readonly image: VhdxImage;
  readonly #tables: Tables | undefined;
  readonly #chain: Chain;
  readonly #reader: Reader;
  readonly #commits: Commits;
  readonly #extent = new Extent();
  /** Writes under way that will need records. */
  #linking = 0;

  /** @throws VHDX_*, or the host's error */
  constructor(io: HostIo, o: VhdxOptions, memory: ArrayBuffer, completed: Completed) {
    super(io, memory, completed, o.depth);
    this.readOnly = o.readOnly ?? false;
    const [top, ...rest] = o.files as [{ fd: number }, ...{ fd: number }[]];
    if (this.readOnly) this.image = new VhdxImage(io, top.fd, o.cacheBytes);
    else {
      this.#tables = new Tables(
        io,
        top.fd,
        new Journal(o.journal ?? new ArrayBuffer(journalBytes)),
        o.cacheBytes,
      );
      this.image = this.#tables.image;
    }
    const { geometry: g } = this.image;
    if (!this.readOnly && g.hasParent && g.logicalSector !== 512)
      throw cannot('a differencing image with sectors of 4096 bytes can only be read');
    const lower = rest.map((f) => new VhdxImage(io, f.fd));
    checkChain([this.image, ...lower]);
    this.size = Math.floor(this.image.size / 512) * 512;
    this.physicalBytes = g.physicalSector;
    this.canDiscard = !this.readOnly && (o.discard ?? true);
    this.#chain = new Chain([this.image, ...lower] as ImageLayer[]);
    this.#reader = new Reader(this.#chain, this.ops, this.ops.memory, Tag.part);
    const tags = { data: Tag.dataSync, log: Tag.logSync };
    this.#commits = new Commits(this.ops, this.#tables, tags, {
      report: (r) => this.report(r),
      wake: () => this.wake(),
    });
  }

  protected read(r: BlockRequest): void {
    this.#reader.read(r);
  }
  protected flush(r: BlockRequest): void {
    this.#commits.flush(r);
  }
  protected commit(): void {
    this.#commits.commit();
  }
  protected get short(): boolean {
    return !this.#hasRoom();
  }
  protected get settled(): boolean {
    return this.#commits.idle;
  }

  #hasRoom(): boolean {
    return this.#tables!.journal.room >= RECORDS * (this.#linking + 1);
  }

  protected change(r: BlockRequest, from: number): number {
    const g = this.image.geometry;
    const position = r.position + from;
    const block = Math.floor(position / g.blockBytes);
    const inBlock = position - block * g.blockBytes;
    const bytes = Math.min(r.bytes - from, g.blockBytes - inBlock);
    this.#tables!.touch();
    return r.op === BlockOp.write
      ? this.#write(r, from, block, inBlock, bytes, false)
      : this.#zero(r, from, block, inBlock, bytes);
  }

  #write(
    r: BlockRequest,
    from: number,
    block: number,
    inBlock: number,
    bytes: number,
    zero: boolean,
  ): number {
    const tables = this.#tables!;
    const { image } = this;
    const { state, offset } = image.entry(image.entryAt(block));
    if (state === BlockState.present) {
      this.#reader.part(ioOp.write, r, from, bytes, image.fd, offset + inBlock, zero);
      return bytes;
    }
    if (!this.#hasRoom()) return 0;
    // A block that reads as zeroes is whole when it has a place; one of the parent's is ours in parts.
    const parts =
      image.geometry.hasParent && (state === BlockState.notPresent || state === BlockState.partial);
    const place = state === BlockState.partial ? offset : tables.place(block);
    const op = this.ops.take(ioOp.write, Tag.link, image.fd, place + inBlock, r);
    op.from = from;
    op.middle = op.bytes = bytes;
    op.zero = zero;
    op.owner = { block, inBlock, bytes, whole: !parts || bytes === image.geometry.blockBytes };
    r.progress++;
    this.#linking++;
    this.ops.start(op);
    return bytes;
  }

  /** The data are written: the tables may tell of them. */
  #linked(op: Op, result: number): void {
    const { block, inBlock, bytes, whole } = op.owner as {
      block: number;
      inBlock: number;
      bytes: number;
      whole: boolean;
    };
    this.#linking--;
    if (result === BlockResult.ok)
      try {
        this.#tables!.link(block, inBlock, bytes, whole);
        this.#commits.later();
      } catch (e) {
        const { code } = e as { code?: string };
        if (code === undefined) throw e;
        result = code === 'ENOSPC' ? BlockResult.noSpace : BlockResult.io;
      }
    this.partDone(op.request!, result);
    this.wake();
  }

  #zero(r: BlockRequest, from: number, block: number, inBlock: number, bytes: number): number {
    const { image } = this;
    const tables = this.#tables!;
    const { hasParent, blockBytes, size, leaveAllocated } = image.geometry;
    const discard = r.op === BlockOp.discard;
    const { state, offset } = image.entry(image.entryAt(block));
    if (state === BlockState.present) {
      if (discard && leaveAllocated) return bytes;
      if (discard || (r.unmap && !leaveAllocated)) {
        try {
          this.io.punchHole(image.fd, offset + inBlock, bytes);
          return bytes;
        } catch (e) {
          if (discard) return bytes;
          if ((e as { code?: string }).code === undefined) throw e;
        }
      }
      return this.#write(r, from, block, inBlock, bytes, true);
    }
    // The bytes that a discard leaves are what was there.
    if (discard) return bytes;
    const e = this.#extent;
    this.#chain.lookup(0, r.position + from, bytes, e);
    if (e.kind === Kind.zero && !image.fresh.has(block)) return e.bytes;
    const whole = inBlock === 0 && (bytes === blockBytes || r.position + from + bytes === size);
    if (hasParent && whole && state === BlockState.notPresent && !image.fresh.has(block)) {
      if (!this.#hasRoom()) return 0;
      tables.zeroBlock(block);
      this.#commits.later();
      return bytes;
    }
    return this.#write(r, from, block, inBlock, bytes, true);
  }

  protected opDone(op: Op, result: number): void {
    if (op.tag === Tag.part) this.partDone(op.request!, result);
    else if (op.tag === Tag.link) this.#linked(op, result);
    else this.#commits.synced(op.tag, result);
  }

  override close(): void {
    this.#commits.close();
    super.close();
    if (!this.broken && this.#tables?.journal.empty)
      try {
        this.#tables.close();
      } catch {
        // The log is replayed by whoever opens it next.
      }
  }
}

/** Every image but the last has a parent, and it is the one that it was made for (2.6.2.6.1). @throws VHDX_CHAIN */
export function checkChain(chain: readonly VhdxImage[]): void {
  for (const [i, image] of chain.entries()) {
    const parent = chain[i + 1];
    const { geometry: g } = image;
    if (g.hasParent !== (parent !== undefined))
      throw Object.assign(
        new Error(
          g.hasParent
            ? 'vhdx: the parent of a differencing image is missing'
            : 'vhdx: an image without a parent was given one',
        ),
        { code: 'VHDX_CHAIN' },
      );
    if (parent === undefined) continue;
    const links = parentLinks(g);
    if (!links.includes(parent.header.dataWriteGuid))
      throw Object.assign(
        new Error(
          `vhdx: the parent was changed since the differencing image was made (it is ${parent.header.dataWriteGuid}, expected ${links.join(' or ') || 'none'})`,
        ),
        { code: 'VHDX_CHAIN' },
      );
  }
}
