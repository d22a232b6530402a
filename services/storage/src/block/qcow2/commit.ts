/**
 * From acknowledged to stable: flushes, and the journal's way into the tables.
 *
 *     commit -> data stable -> entries into the tables -> tables stable -> what was replaced is free
 */
import { ioOp } from '@nyx/native';
import { BlockResult } from '../block.ts';
import { type CommitEvents, CommitQueue } from '../commit-queue.ts';
import type { Ops } from '../ops.ts';
import type { Tables } from './tables.ts';

export interface TableEvents extends CommitEvents {
  /** The image must not be written any more. */
  broken(): void;
}

export class Commits extends CommitQueue {
  /** Epoch whose operations must end before the sealed half's clusters are free. */
  #freeAfter = 0;
  /** The sealed half is in the tables, which are stable. */
  #stable = false;
  counted = 0;

  /**
   * @param tables undefined: nothing is ever written
   * @param tags of the two syncs: of data, of tables
   */
  constructor(
    ops: Ops,
    private readonly fd: number,
    private readonly tables: Tables | undefined,
    private readonly tags: { data: number; table: number },
    private readonly events: TableEvents,
  ) {
    super(ops, tables?.journal, events);
  }

  protected begin(): void {
    this.counted++;
    if (this.seal()) this.#freeAfter = this.ops.epoch++;
    if (!this.tables) this.#committed(BlockResult.ok);
    else this.#sync(this.tags.data);
  }

  #sync(tag: number): void {
    this.ops.start(this.ops.take(ioOp.fdatasync, tag, this.fd, 0));
  }

  synced(tag: number, result: number): void {
    if (result !== BlockResult.ok || this.sealed < 0 || tag === this.tags.table) {
      this.#committed(result, tag === this.tags.table);
      return;
    }
    try {
      this.tables!.writeEntries(this.sealed);
    } catch (e) {
      if ((e as { code?: string }).code === undefined) throw e;
      this.#committed(BlockResult.io);
      return;
    }
    this.#sync(this.tags.table);
  }

  #committed(result: number, stable = false): void {
    this.report(result);
    // A failed half stays as it is, and is written again by the next commit.
    if (stable && result === BlockResult.ok) {
      this.#stable = true;
      this.#tryFree();
    } else this.next();
  }

  /** Replaced clusters become free when nobody that began before reads or writes them any more. */
  #tryFree(): void {
    if (this.ops.inEpoch[this.#freeAfter & 1]! > 0) return;
    this.#stable = false;
    try {
      this.tables!.finish(this.sealed);
    } catch (e) {
      if ((e as { code?: string }).code === undefined) throw e;
      this.events.broken();
    }
    this.sealed = -1;
    this.next();
    this.events.wake();
  }

  /** An operation is over. */
  look(): void {
    if (this.#stable) this.#tryFree();
  }
}
