/**
 * Flushes of an image whose changes go through a journal in memory: one commit at a time makes stable all that was acknowledged
 * before it. What a commit does, and in which order, is the format's.
 */
import type { BlockRequest } from './block.ts';
import type { Ops } from './ops.ts';

/** Acknowledged changes wait at most this long for their place in the image, ms. */
const IDLE_COMMIT_MS = 1000;

/** A journal of two halves: one takes changes while the other is written out. */
export interface Halves {
  /** Changes that fit into the active half, and into an empty one. */
  readonly room: number;
  readonly capacity: number;
  readonly active: number;
  count(half: number): number;
  swap(): void;
}

export interface CommitEvents {
  /** A flush is over. */
  report(r: BlockRequest): void;
  /** There is room in the journal again, or in the image. */
  wake(): void;
}

export abstract class CommitQueue {
  /** Flushes and forced writes: those of the commit under way, and those that came later. */
  #flushing: BlockRequest[] = [];
  #flushes: BlockRequest[] = [];
  #committing = false;
  #wanted = false;
  #idle: NodeJS.Timeout | undefined;
  /** Half of the journal that is written out, -1: none. */
  protected sealed = -1;

  /** @param journal undefined: nothing is ever written */
  constructor(
    protected readonly ops: Ops,
    private readonly journal: Halves | undefined,
    private readonly flushes: Pick<CommitEvents, 'report'>,
  ) {}

  /** Starts a commit, which ends by `report` and `next`. */
  protected abstract begin(): void;

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
    const journal = this.journal!;
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
    this.begin();
  }

  /** What changed since the last commit becomes the sealed half; false: there is one already, or nothing changed. */
  protected seal(): boolean {
    const { journal } = this;
    if (!journal || this.sealed >= 0 || journal.count(journal.active) === 0) return false;
    this.sealed = journal.active;
    journal.swap();
    return true;
  }

  /** The flushes of this commit are over. */
  protected report(result: number): void {
    for (const r of this.#flushing) {
      r.result = result;
      this.flushes.report(r);
    }
    this.#flushing.length = 0;
  }

  /** The commit is over; the next one begins if it is wanted. */
  protected next(): void {
    this.#committing = false;
    if (this.#wanted || this.#flushes.length > 0) this.commit();
    this.ops.kick();
  }

  close(): void {
    clearTimeout(this.#idle);
  }
}
