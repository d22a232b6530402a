/**
 * From acknowledged to stable: flushes, and the journal's way into the tables.
 *
 *     commit -> data stable -> changed sectors into the log -> log stable -> sectors into their places: flushes are over
 *                    ^--------------- more sectors than one entry of the log takes ---------------'
 *
 * The log makes them durable: what is in its place is made stable by the next commit only, before that writes to the log again.
 * (Flushes wait for the places too: nothing reads the log but a machine that opens the image after a failure of power.)
 */
import { ioOp } from '@nyx/native';
import { BlockResult } from '../block.ts';
import { type CommitEvents, CommitQueue } from '../commit-queue.ts';
import type { Ops } from '../ops.ts';
import { mostSectors } from './log.ts';
import type { Tables } from './tables.ts';

export class Commits extends CommitQueue {
  #sectors: ReturnType<Tables['sectors']> = [];
  #next = 0;

  /**
   * @param tables undefined: nothing is ever written
   * @param tags of the syncs: of data (or places), of the log
   */
  constructor(
    ops: Ops,
    private readonly tables: Tables | undefined,
    private readonly tags: { data: number; log: number },
    private readonly events: CommitEvents,
  ) {
    super(ops, tables?.journal, events);
  }

  protected begin(): void {
    if (!this.tables) {
      this.#over(BlockResult.ok);
      return;
    }
    this.seal();
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
        if (this.#next === 0 && this.sealed >= 0) this.#sectors = tables.sectors(this.sealed);
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
      tables.journal.clear(this.sealed);
      this.sealed = -1;
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
    this.report(result);
    this.next();
  }
}
