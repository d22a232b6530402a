/**
 * From acknowledged to stable: flushes, and the journal's way into the tables.
 *
 *     commit -> data stable -> entries into the tables -> tables stable -> what was replaced is free
 */
import { ioOp } from '@nyx/native';
import { type BlockRequest, BlockResult } from '../block.ts';
import type { Ops } from '../ops.ts';
import type { Tables } from './tables.ts';

/** Acknowledged changes wait at most this long for their place in the tables, ms. */
const IDLE_COMMIT_MS = 1000;

export interface CommitEvents {
  /** A flush is over. */
  report(r: BlockRequest): void;
  /** Room in the journal, and in the image. */
  wake(): void;
  /** The image must not be written any more. */
  broken(): void;
}

export class Commits {
  /** Flushes and forced writes: those of the commit under way, and those that came later. */
  #flushing: BlockRequest[] = [];
  #flushes: BlockRequest[] = [];
  /** Half that is written out, -1: none. */
  #sealed = -1;
  #committing = false;
  #commitWanted = false;
  /** Epoch whose operations must end before the sealed half's clusters are free. */
  #freeAfter = 0;
  /** The sealed half is in the tables, which are stable. */
  #stable = false;
  #idle: NodeJS.Timeout | undefined;
  counted = 0;

  /**
   * @param tables undefined: nothing is ever written
   * @param tags of the two syncs: of data, of tables
   */
  constructor(
    private readonly ops: Ops,
    private readonly fd: number,
    private readonly tables: Tables | undefined,
    private readonly tags: { data: number; table: number },
    private readonly events: CommitEvents,
  ) {}

  get idle(): boolean {
    return !this.#committing;
  }

  /** `r` is over when everything before is stable. */
  flush(r: BlockRequest): void {
    this.#flushes.push(r);
    this.commit();
  }

  /** Acknowledged changes do not stay in the journal for ever. */
  later(): void {
    if (this.tables!.journal.room < this.tables!.journal.capacity / 4) this.commit();
    if (this.#idle !== undefined) return;
    this.#idle = setTimeout(() => {
      this.#idle = undefined;
      this.commit();
      this.ops.kick();
    }, IDLE_COMMIT_MS);
    this.#idle.unref();
  }

  commit(): void {
    if (this.#committing) {
      this.#commitWanted = true;
      return;
    }
    this.#committing = true;
    this.#commitWanted = false;
    this.counted++;
    [this.#flushing, this.#flushes] = [this.#flushes, this.#flushing];
    if (this.tables && this.#sealed < 0) {
      const { journal } = this.tables;
      if (journal.count(journal.active) > 0) {
        this.#sealed = journal.active;
        journal.swap();
        this.#freeAfter = this.ops.epoch++;
      }
    }
    if (!this.tables) this.#committed(BlockResult.ok);
    else this.#sync(this.tags.data);
  }

  #sync(tag: number): void {
    this.ops.start(this.ops.take(ioOp.fdatasync, tag, this.fd, 0));
  }

  synced(tag: number, result: number): void {
    if (result !== BlockResult.ok || this.#sealed < 0 || tag === this.tags.table) {
      this.#committed(result, tag === this.tags.table);
      return;
    }
    try {
      this.tables!.writeEntries(this.#sealed);
    } catch (e) {
      if ((e as { code?: string }).code === undefined) throw e;
      this.#committed(BlockResult.io);
      return;
    }
    this.#sync(this.tags.table);
  }

  #committed(result: number, stable = false): void {
    const list = this.#flushing;
    for (const r of list) {
      r.result = result;
      this.events.report(r);
    }
    list.length = 0;
    // A failed half stays as it is, and is written again by the next commit.
    if (stable && result === BlockResult.ok) {
      this.#stable = true;
      this.#tryFree();
    } else this.#nextCommit();
  }

  /** Replaced clusters become free when nobody that began before reads or writes them any more. */
  #tryFree(): void {
    if (this.ops.inEpoch[this.#freeAfter & 1]! > 0) return;
    this.#stable = false;
    try {
      this.tables!.finish(this.#sealed);
    } catch (e) {
      if ((e as { code?: string }).code === undefined) throw e;
      this.events.broken();
    }
    this.#sealed = -1;
    this.#nextCommit();
    this.events.wake();
  }

  #nextCommit(): void {
    this.#committing = false;
    if (this.#commitWanted || this.#flushes.length > 0) this.commit();
    this.ops.kick();
  }

  /** An operation is over. */
  look(): void {
    if (this.#stable) this.#tryFree();
  }

  close(): void {
    clearTimeout(this.#idle);
  }
}
