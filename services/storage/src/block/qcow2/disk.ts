/**
 * A disk in qcow2 images: requests of the guest become host I/O into its memory.
 *
 *     read   (read.ts)   -> lookup through the chain -> host reads, zeroes, decompressed clusters
 *     write  (write.ts)  -> cluster is ours: host write
 *                        -> else: take clusters, read what the write does not cover, write all of it, link (journal)
 *     zeroes (zero.ts)   -> table entries that say so
 *     flush  (commit.ts) -> data stable, journal into the tables, tables stable; then replaced clusters are free
 *
 * Metadata is read and written synchronously (it is in the page cache nearly always), data through the queue. A request
 * that touches a cluster being allocated waits for it.
 */
import { BlockOp, type BlockRequest, type Completed } from '../block.ts';
import { Chain, type Layer } from '../chain.ts';
import { blockError, type HostIo } from '../host.ts';
import { ImageDisk } from '../image-disk.ts';
import type { Op } from '../ops.ts';
import { Reader } from '../read.ts';
import { prepare } from './check.ts';
import { Commits } from './commit.ts';
import { Qcow2Image } from './image.ts';
import { Journal, journalBytes } from './journal.ts';
import { Tables } from './tables.ts';
import { Writer } from './write.ts';
import { zero } from './zero.ts';

const Tag = { part: 0, cowRead: 1, cowWrite: 2, dataSync: 3, tableSync: 4 } as const;

export interface Qcow2Options {
  /** The image, then what lies under it. Only the first is written. */
  files: readonly { fd: number; qcow2: boolean; size?: number; layer?: Layer }[];
  readOnly?: boolean;
  discard?: boolean;
  /** Bytes of the disk, when its header does not say so yet (resize.ts). */
  size?: number;
  depth?: number;
  /** Memory that outlives this process (journal.ts); default: of this process alone. */
  journal?: ArrayBuffer;
  cacheBytes?: number;
}

export class Qcow2Disk extends ImageDisk {
  readonly size: number;
  readonly readOnly: boolean;
  readonly physicalBytes: number;
  readonly canDiscard: boolean;
  readonly image: Qcow2Image;
  readonly #tables: Tables | undefined;
  readonly #reader: Reader;
  /** With tables. */
  readonly #writer: Writer | undefined;
  readonly #commits: Commits;
  readonly #later = (): void => this.#commits.later();

  /** @throws QCOW2_*, or the host's error */
  constructor(io: HostIo, o: Qcow2Options, memory: ArrayBuffer, completed: Completed) {
    super(io, memory, completed, o.depth);
    this.readOnly = o.readOnly ?? false;
    const [top, ...rest] = o.files;
    if (!top?.qcow2) throw blockError('QCOW2_INVALID', 'the topmost file is not a qcow2 image');
    if (this.readOnly) this.image = new Qcow2Image(io, top.fd, o.cacheBytes);
    else {
      const journal = new Journal(o.journal ?? new ArrayBuffer(journalBytes));
      prepare(io, top.fd);
      this.#tables = new Tables(io, top.fd, journal, o.cacheBytes);
      this.#tables.punch = o.discard ?? true;
      this.image = this.#tables.image;
    }
    if (o.size !== undefined) this.image.header.size = o.size;
    const lower = rest.map(
      (f): Layer =>
        f.layer ?? (f.qcow2 ? new Qcow2Image(io, f.fd) : { fd: f.fd, size: f.size ?? io.size(f.fd) }),
    );
    this.size = Math.floor(this.image.size / 512) * 512;
    this.physicalBytes = Math.max(4096, Math.min(65536, this.image.granule));
    this.canDiscard = !this.readOnly && (o.discard ?? true);
    this.#reader = new Reader(new Chain([this.image, ...lower]), this.ops, this.ops.memory, Tag.part);
    const events = {
      report: (r: BlockRequest): void => this.report(r),
      partDone: (r: BlockRequest, result: number): void => this.partDone(r, result),
      wake: (): void => this.wake(),
      later: this.#later,
      broken: (): void => {
        this.broken = true;
      },
    };
    if (this.#tables)
      this.#writer = new Writer(
        this.#tables,
        this.#reader,
        { read: Tag.cowRead, write: Tag.cowWrite },
        events,
      );
    const tags = { data: Tag.dataSync, table: Tag.tableSync };
    this.#commits = new Commits(this.ops, this.image.fd, this.#tables, tags, events);
  }

  get counters(): { allocations: number; commits: number; blocked: number } {
    return {
      allocations: this.#writer?.counted ?? 0,
      commits: this.#commits.counted,
      blocked: this.blockedCount,
    };
  }

  protected read(r: BlockRequest): void {
    this.#reader.read(r);
  }
  protected change(r: BlockRequest, from: number): number {
    const writer = this.#writer!;
    return r.op === BlockOp.write
      ? writer.write(r, from, r.bytes - from, false)
      : zero(writer, r, from, this.#later);
  }
  protected flush(r: BlockRequest): void {
    this.#commits.flush(r);
  }
  protected commit(): void {
    this.#commits.commit();
  }
  protected get short(): boolean {
    return this.#tables!.journal.room < 16;
  }
  protected get settled(): boolean {
    return (this.#writer?.idle ?? true) && this.#commits.idle;
  }

  /** An image whose tables contradict each other is not written any more, by nobody. */
  protected override failing(code: string): void {
    if (code !== 'QCOW2_CORRUPT' || !this.#tables) return;
    this.broken = true;
    try {
      this.#tables.markCorrupt();
    } catch {
      // It stays unwritten by us.
    }
  }

  protected opDone(op: Op, result: number): void {
    if (op.tag === Tag.part) this.partDone(op.request!, result);
    else if (op.tag <= Tag.cowWrite) this.#writer!.opDone(op, result);
    else this.#commits.synced(op.tag, result);
    this.#commits.look();
  }

  override close(): void {
    this.#commits.close();
    super.close();
  }
}
