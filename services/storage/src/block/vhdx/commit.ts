/**
 * From acknowledged to stable: flushes, and the journal's way into the tables.
 *
 *     commit -> data stable -> changed sectors into the log -> log stable: flushes are over -> sectors into their places
 *
 * What is in its place is made stable by the next commit, before that writes to the log again.
 */
import { ioOp } from '@nyx/native';
import { type BlockRequest, BlockResult } from '../block.ts';
import type { Ops } from '../ops.ts';
import { mostSectors } from './log.ts';
import type { Tables } from './tables.ts';

/** Acknowledged changes wait at most this long for their place in the tables, ms. */
const IDLE_COMMIT_MS = 1000;

export interface CommitEvents {
  report(r: BlockRequest): void;
  /** Room in the journal. */
  wake(): void;
}

export class Commits {
  /** Those of the commit under way, and those that came later. */
  #flushing: BlockRequest[] = [];
  #flushes: BlockRequest[] = [];
  /** Half that is written out, -1: none. */
  #sealed = -1;
  #sectors: ReturnType<Tables['sectors']> = [];
  #next = 0;
  #committing = false;
  #wanted = false;
  #idle: NodeJS.Timeout | undefined;

  /**
   * @param tables undefined: nothing is ever written
   * @param tags of the syncs: of data (or places), of the log
   */
  constructor(
    private readonly ops: Ops,
    private readonly tables: Tables | undefined,
    private readonly tags: { data: number; log: number },
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
    const { journal } = this.tables!;
    if (journal.room < journal.capacity / 4) this.commit();
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
      this.#wanted = true;
      return;
    }
    this.#committing = true;
    this.#wanted = false;
    [this.#flushing, this.#flushes] = [this.#flushes, this.#flushing];
    if (!this.tables) {
      this.#over(BlockResult.ok);
      return;
    }
    const { journal } = this.tables;
    if (this.#sealed < 0 && journal.count(journal.active) > 0) {
      this.#sealed = journal.active;
      journal.swap();
    }
    this.#next = 0;
    this.#sectors = [];
    this.#sync(this.tags.data);
  }

  #sync(tag: number): void {
    this.ops.start(this.ops.take(ioOp.fdatasync, tag, this.tables!.fd, 0));
  }

  synced(tag: number, result: number): void {
    if (result !== BlockResult.ok) {
      // A half that failed stays as it is, and is written again by the next commit.
      this.#over(result);
      return;
    }
    const tables = this.tables!;
    try {
      if (tag === this.tags.data) {
        if (this.#next === 0 && this.#sealed >= 0) this.#sectors = tables.sectors(this.#sealed);
        if (this.#sectors.length === 0) this.#over(BlockResult.ok);
        else {
          tables.writeLog(this.#some());
          this.#sync(this.tags.log);
        }
        return;
      }
      tables.writePlaces(this.#some());
      this.#next += mostSectors;
      if (this.#next < this.#sectors.length) {
        this.#sync(this.tags.data);
        return;
      }
      tables.journal.clear(this.#sealed);
      this.#sealed = -1;
      this.#over(BlockResult.ok);
      this.events.wake();
    } catch (e) {
      if ((e as { code?: string }).code === undefined) throw e;
      this.#over(BlockResult.io);
    }
  }

  #some(): ReturnType<Tables['sectors']> {
    return this.#sectors.slice(this.#next, this.#next + mostSectors);
  }

  #over(result: number): void {
    for (const r of this.#flushing) {
      r.result = result;
      this.events.report(r);
    }
    this.#flushing.length = 0;
    this.#committing = false;
    if (this.#wanted || this.#flushes.length > 0) this.commit();
    this.ops.kick();
  }

  close(): void {
    clearTimeout(this.#idle);
  }
}
