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
import { type BlockDriver, BlockOp, type BlockRequest, BlockResult, type Completed } from '../block.ts';
import { blockError, type HostIo } from '../host.ts';
import { type Op, Ops } from '../ops.ts';
import { Chain, type Layer } from './chain.ts';
import { rebuild } from './check.ts';
import { Commits } from './commit.ts';
import { Incompatible } from './header.ts';
import { Qcow2Image } from './image.ts';
import { Journal, journalBytes } from './journal.ts';
import { Reader } from './read.ts';
import { Tables } from './tables.ts';
import { Writer } from './write.ts';
import { zero } from './zero.ts';

const Tag = { part: 0, cowRead: 1, cowWrite: 2, dataSync: 3, tableSync: 4 } as const;

export interface Qcow2Options {
  /** The image, then what lies under it. Only the first is written. */
  files: readonly { fd: number; qcow2: boolean; size?: number }[];
  readOnly?: boolean;
  discard?: boolean;
  depth?: number;
  /** Memory that outlives this process (journal.ts); default: of this process alone. */
  journal?: ArrayBuffer;
  cacheBytes?: number;
}

export class Qcow2Disk implements BlockDriver {
  readonly size: number;
  readonly readOnly: boolean;
  readonly physicalBytes: number;
  readonly canDiscard: boolean;
  readonly image: Qcow2Image;
  readonly #tables: Tables | undefined;
  readonly #ops: Ops;
  readonly #reader: Reader;
  /** With tables. */
  readonly #writer: Writer | undefined;
  readonly #commits: Commits;
  readonly #completed: Completed;
  readonly #done: BlockRequest[] = [];
  #doneCount = 0;
  #told = false;
  #polling = false;
  /** Requests that wait for an allocation, room in the journal or a buffer, and how far they are. */
  #blocked: BlockRequest[] = [];
  #blockedFrom: number[] = [];
  #blockedCount = 0;
  #broken = false;
  readonly #later = (): void => this.#commits.later();

  /** @throws QCOW2_*, or the host's error */
  constructor(
    readonly io: HostIo,
    o: Qcow2Options,
    memory: ArrayBuffer,
    completed: Completed,
  ) {
    this.readOnly = o.readOnly ?? false;
    const [top, ...rest] = o.files;
    if (!top?.qcow2) throw blockError('QCOW2_INVALID', 'the topmost file is not a qcow2 image');
    if (this.readOnly) this.image = new Qcow2Image(io, top.fd, o.cacheBytes);
    else {
      const journal = new Journal(o.journal ?? new ArrayBuffer(journalBytes));
      this.#tables = openTables(io, top.fd, journal, o.cacheBytes);
      this.#tables.punch = o.discard ?? true;
      this.image = this.#tables.image;
    }
    const lower = rest.map(
      (f): Layer => (f.qcow2 ? new Qcow2Image(io, f.fd) : { fd: f.fd, size: f.size ?? io.size(f.fd) }),
    );
    this.size = Math.floor(this.image.size / 512) * 512;
    this.physicalBytes = Math.max(4096, Math.min(65536, this.image.granule));
    this.canDiscard = !this.readOnly && (o.discard ?? true);
    this.#completed = completed;
    const bytes = new Uint8Array(memory);
    this.#ops = new Ops(
      io,
      memory,
      o.depth ?? 128,
      () => this.poll(),
      (op, result) => this.#opDone(op, result),
    );
    this.#ops.memory = bytes;
    this.#reader = new Reader(new Chain([this.image, ...lower]), this.#ops, bytes, Tag.part);
    const events = {
      report: (r: BlockRequest): void => this.#report(r),
      partDone: (r: BlockRequest, result: number): void => this.#partDone(r, result),
      wake: (): void => this.#wake(),
      later: this.#later,
      broken: (): void => {
        this.#broken = true;
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
    this.#commits = new Commits(this.#ops, this.image.fd, this.#tables, tags, events);
  }

  get counters(): { allocations: number; commits: number; blocked: number } {
    return {
      allocations: this.#writer?.counted ?? 0,
      commits: this.#commits.counted,
      blocked: this.#blockedCount,
    };
  }

  // ---- requests ----

  submit(r: BlockRequest): void {
    // Parts under way, and this one.
    r.progress = 1;
    r.result = BlockResult.ok;
    this.#go(r, 0);
  }

  #go(r: BlockRequest, from: number): void {
    try {
      switch (r.op) {
        case BlockOp.read:
          this.#reader.read(r);
          break;
        case BlockOp.flush:
          this.#commits.flush(r);
          return;
        default:
          if (!this.#writer || this.#broken) throw blockError('EROFS', 'not written');
          for (let at = from; at < r.bytes; ) {
            const n =
              r.op === BlockOp.write
                ? this.#writer.write(r, at, r.bytes - at, false)
                : zero(this.#writer, r, at, this.#later);
            if (n === 0) {
              this.#block(r, at);
              return;
            }
            at += n;
          }
      }
    } catch (e) {
      this.#failed(r, e);
    }
    this.#partDone(r, BlockResult.ok);
  }

  #failed(r: BlockRequest, e: unknown): void {
    const { code } = e as { code?: string };
    if (code === undefined) throw e;
    r.result = code === 'ENOSPC' || code === 'QCOW2_FULL' ? BlockResult.noSpace : BlockResult.io;
    if (code === 'QCOW2_CORRUPT' && r.op !== BlockOp.read && this.#tables) {
      this.#broken = true;
      try {
        this.#tables.markCorrupt();
      } catch {
        // It stays unwritten by us.
      }
    }
  }

  #block(r: BlockRequest, from: number): void {
    this.#blockedCount++;
    this.#blocked.push(r);
    this.#blockedFrom.push(from);
    if (this.#tables!.journal.room < 16) this.#commits.commit();
  }

  /** Something that requests waited for has changed. */
  #wake(): void {
    if (this.#blocked.length === 0) return;
    const [requests, from] = [this.#blocked, this.#blockedFrom];
    this.#blocked = [];
    this.#blockedFrom = [];
    for (const [i, r] of requests.entries()) this.#go(r, from[i]!);
    this.#ops.kick();
  }

  #partDone(r: BlockRequest, result: number): void {
    if (result !== BlockResult.ok && r.result === BlockResult.ok) r.result = result;
    if (--r.progress > 0) return;
    if (r.fua && r.result === BlockResult.ok && r.op !== BlockOp.read) {
      this.#commits.flush(r);
    } else this.#report(r);
  }

  #report(r: BlockRequest): void {
    this.#done[this.#doneCount++] = r;
    if (this.#told || this.#polling) return;
    // Nothing of the host may be under way that would call us.
    this.#told = true;
    setImmediate(this.#tell);
  }
  readonly #tell = (): void => {
    this.#told = false;
    this.poll();
  };
  // ---- completions ----

  #opDone(op: Op, result: number): void {
    if (op.tag === Tag.part) this.#partDone(op.request!, result);
    else if (op.tag <= Tag.cowWrite) this.#writer!.opDone(op, result);
    else this.#commits.synced(op.tag, result);
    this.#commits.look();
  }

  kick(): void {
    this.#ops.kick();
  }

  poll(): void {
    this.#polling = true;
    this.#ops.poll();
    this.#polling = false;
    if (this.#doneCount === 0) return;
    const count = this.#doneCount;
    this.#doneCount = 0;
    this.#completed(this.#done, count);
  }

  drain(timeoutMs: number): boolean {
    const end = Date.now() + timeoutMs;
    const pause = new Int32Array(new SharedArrayBuffer(4));
    for (;;) {
      this.kick();
      this.poll();
      if (
        this.#ops.idle &&
        (this.#writer?.idle ?? true) &&
        this.#blocked.length === 0 &&
        this.#commits.idle &&
        this.#doneCount === 0
      )
        return true;
      if (Date.now() > end) return false;
      if (!this.#ops.idle) Atomics.wait(pause, 0, 0, 1);
    }
  }

  fence(): void {}

  /** Writes out what was acknowledged, when nothing is under way. */
  close(): void {
    this.#commits.close();
    if (this.#tables && !this.#broken) {
      this.#commits.commit();
      this.drain(10_000);
    }
    this.#ops.queue.close();
  }
}

/** For writing: an image that says of itself that its refcounts may be wrong gets them anew. */
function openTables(io: HostIo, fd: number, journal: Journal, cacheBytes?: number): Tables {
  const { incompatible } = new Qcow2Image(io, fd, 4096 * 8).header;
  if (incompatible & Incompatible.corrupt)
    throw blockError(
      'QCOW2_CORRUPT',
      'qcow2: the image is marked as corrupt: check and repair it, or open it read-only',
    );
  if (incompatible & Incompatible.dirty) rebuild(io, fd);
  return new Tables(io, fd, journal, cacheBytes);
}
