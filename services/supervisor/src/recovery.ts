/**
 * When to start a device process again. Pure: the clock is an argument. A process may be restarted `budget` times within
 * `window` seconds; the first three restarts are at once, then each waits twice as long as the one before.
 */
import type { Recovery } from '@nyx/protocol/spec';

export class RestartPolicy {
  readonly #times: number[] = [];

  constructor(readonly rules: Pick<Recovery, 'budget' | 'window' | 'backoff' | 'maxBackoff'>) {}

  /** Restarts within the window that ends at `now` (ms). */
  recent(now: number): number {
    while (this.#times.length > 0 && this.#times[0]! <= now - this.rules.window * 1000) this.#times.shift();
    return this.#times.length;
  }

  /** A process died at `now` (ms): milliseconds to wait before its restart, or undefined when the budget is spent. */
  died(now: number): number | undefined {
    const n = this.recent(now);
    if (n >= this.rules.budget) return undefined;
    this.#times.push(now);
    return n < 3 ? 0 : Math.min(this.rules.backoff * 2 ** (n - 3), this.rules.maxBackoff) * 1000;
  }

  /** Forgets: the machine was reset, everything gets another chance. */
  clear(): void {
    this.#times.length = 0;
  }
}

/** What a process shows of itself in shared memory. */
export interface Vital {
  heartbeat: number;
  /** Per ring: sequences of the newest request and of the newest answer. */
  rings: { head: number; tail: number }[];
}

/**
 * Tells a process that hangs from one that is idle or slow: no heartbeat for `timeout`, or a ring with requests whose
 * tail stood still for that long. A gap between looks (the host slept, we were stopped) starts the measurement anew.
 */
export class HangDetector {
  #last = Number.NaN;
  #heartbeat = -1;
  #since = 0;
  #tails: { tail: number; since: number }[] = [];

  /** @param timeout milliseconds */
  constructor(readonly timeout: number) {}

  /** Looks at `now` (ms): what hangs, or undefined. */
  look(now: number, v: Vital): string | undefined {
    const gap = !(now - this.#last < Math.min(1000, this.timeout));
    this.#last = now;
    if (gap || v.heartbeat !== this.#heartbeat) {
      this.#heartbeat = v.heartbeat;
      this.#since = now;
    }
    let stuck: string | undefined;
    v.rings.forEach((r, i) => {
      const seen = this.#tails[i];
      if (gap || !seen || seen.tail !== r.tail || r.head === r.tail)
        this.#tails[i] = { tail: r.tail, since: now };
      else if (now - seen.since >= this.timeout)
        stuck ??= `hangs: request ${r.tail + 1} of ring ${i} is not answered`;
    });
    if (now - this.#since >= this.timeout) return 'hangs: no heartbeat';
    return stuck;
  }

  /** Another process took over. */
  restart(): void {
    this.#last = Number.NaN;
    this.#tails = [];
  }
}
