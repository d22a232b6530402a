/** How often something is started again, and how it is noticed that something hangs. */
import type { Recovery } from '@nyx/protocol/spec';

/**
 * When something may be started again: at most `budget` times within `window` seconds; the first three times at once, then
 * each after twice as long a wait as the one before. Pure: the clock is an argument.
 */
export class RestartPolicy {
  readonly #times: number[] = [];

  /** `rules` may be changed; what has happened counts for the new ones. */
  constructor(public rules: Pick<Recovery, 'budget' | 'window' | 'backoff' | 'maxBackoff'>) {}

  /** Restarts within the window that ends at `now` (ms). */
  recent(now: number): number {
    while (this.#times.length > 0 && this.#times[0]! <= now - this.rules.window * 1000) this.#times.shift();
    return this.#times.length;
  }

  /** It failed at `now` (ms): milliseconds to wait before its restart, or undefined when the budget is spent. */
  died(now: number): number | undefined {
    const n = this.recent(now);
    if (n >= this.rules.budget) return undefined;
    this.#times.push(now);
    // An endless budget needs no memory of all.
    if (this.#times.length > mostRemembered) this.#times.shift();
    return n < 3 ? 0 : Math.min(this.rules.backoff * 2 ** Math.min(n - 3, 30), this.rules.maxBackoff) * 1000;
  }
}

const mostRemembered = 10_000;

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
