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
