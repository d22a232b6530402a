/**
 * Limits of requests and bytes a second (QEMU's names, its docs/throttle): leaky buckets. A bucket fills by what is done
 * and leaks `avg` a second; while it is fuller than its size requests wait. Without `max` the size is a tenth of a second;
 * with it, bursts of `max` a second are let through for `max-length` seconds.
 *
 * How full they are is not kept: after a death of the process the buckets are empty.
 */
import type { Throttle } from '@nyx/protocol/disk-options';
import { BlockOp, type BlockRequest, type Completed, type OpenBlock } from './block.ts';
import { Filter } from './filter.ts';

/** One limit. Pure: time is an argument, in seconds. */
export class Bucket {
  #level = 0;
  #burst = 0;
  #at = 0;

  constructor(
    readonly avg: number,
    readonly max: number,
    readonly seconds: number,
  ) {}

  /** Seconds until the next request may go. */
  wait(now: number): number {
    const passed = Math.max(0, now - this.#at);
    this.#at = now;
    this.#level = Math.max(0, this.#level - this.avg * passed);
    this.#burst = Math.max(0, this.#burst - this.max * passed);
    const size = this.max > 0 ? this.max * this.seconds : this.avg / 10;
    let wait = (this.#level - size) / this.avg;
    // Within a long burst its own rate holds.
    if (this.max > 0 && this.seconds > 1) wait = Math.max(wait, (this.#burst - this.max / 10) / this.max);
    return Math.max(0, wait);
  }

  /** So much is done. */
  take(units: number): void {
    this.#level += units;
    this.#burst += units;
  }
}

type Kind = 'total' | 'read' | 'write';
const bucketsOf = (o: Throttle, unit: 'iops' | 'bps', kinds: readonly Kind[]): Bucket[] =>
  kinds.flatMap((kind) => {
    const avg = o[`${unit}-${kind}`];
    return avg === undefined
      ? []
      : [new Bucket(avg, o[`${unit}-${kind}-max`] ?? 0, o[`${unit}-${kind}-max-length`] ?? 1)];
  });

/** Requests of one direction, which wait in their order. */
class Lane {
  readonly waiting: BlockRequest[] = [];
  constructor(
    readonly iops: readonly Bucket[],
    readonly bps: readonly Bucket[],
  ) {}

  wait(now: number): number {
    let most = 0;
    for (const b of this.iops) most = Math.max(most, b.wait(now));
    for (const b of this.bps) most = Math.max(most, b.wait(now));
    return most;
  }
  take(r: BlockRequest, opBytes: number): void {
    const ops = opBytes > 0 && r.bytes > opBytes ? r.bytes / opBytes : 1;
    for (const b of this.iops) b.take(ops);
    for (const b of this.bps) b.take(r.bytes);
  }
}

export class ThrottledDisk extends Filter {
  readonly #lanes: readonly [read: Lane, write: Lane];
  readonly #opBytes: number;
  #turn: 0 | 1 = 0;
  #timer: NodeJS.Timeout | undefined;

  /** @param now seconds */
  constructor(
    options: Throttle,
    open: OpenBlock,
    memory: ArrayBuffer,
    completed: Completed,
    private readonly now: () => number = () => performance.now() / 1000,
  ) {
    super(open, memory, completed);
    const total = { iops: bucketsOf(options, 'iops', ['total']), bps: bucketsOf(options, 'bps', ['total']) };
    const lane = (kind: Kind): Lane =>
      new Lane(
        [...total.iops, ...bucketsOf(options, 'iops', [kind])],
        [...total.bps, ...bucketsOf(options, 'bps', [kind])],
      );
    this.#lanes = [lane('read'), lane('write')];
    this.#opBytes = options['iops-size'] ?? 0;
  }

  /** A flush is never held up. */
  override submit(r: BlockRequest): void {
    if (r.op === BlockOp.flush) this.inner.submit(r);
    else this.#lanes[r.op === BlockOp.read ? 0 : 1].waiting.push(r);
  }

  override kick(): void {
    this.#pass();
    this.inner.kick();
  }

  /** Passes on what may go, the directions in turn; for what is left there is the timer. */
  #pass(): void {
    const now = this.now();
    let soonest = Number.POSITIVE_INFINITY;
    for (let refused = 0; refused < 2; this.#turn = this.#turn === 0 ? 1 : 0) {
      const lane = this.#lanes[this.#turn]!;
      const wait = lane.waiting.length === 0 ? Number.POSITIVE_INFINITY : lane.wait(now);
      if (wait > 0) {
        soonest = Math.min(soonest, wait);
        refused++;
        continue;
      }
      refused = 0;
      soonest = Number.POSITIVE_INFINITY;
      const r = lane.waiting.shift()!;
      lane.take(r, this.#opBytes);
      this.inner.submit(r);
    }
    clearTimeout(this.#timer);
    if (soonest < Number.POSITIVE_INFINITY)
      this.#timer = setTimeout(
        () => {
          this.kick();
          this.inner.poll();
        },
        Math.ceil(soonest * 1000),
      );
  }

  /** Lets everything go. */
  override drain(timeoutMs: number): boolean {
    clearTimeout(this.#timer);
    for (const lane of this.#lanes) for (const r of lane.waiting.splice(0)) this.inner.submit(r);
    return this.inner.drain(timeoutMs);
  }

  override close(): void {
    clearTimeout(this.#timer);
    this.inner.close();
  }
}
