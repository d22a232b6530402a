/** Time, Clock and their epoch (part 1, 36). All in milliseconds. */
import { randomBytes } from 'node:crypto';
import { LIMIT } from '../spec/constants.ts';

const { hrtime } = process;
const monotonic = () => {
  const [seconds, nanoseconds] = hrtime();
  return seconds * 1000 + Math.floor(nanoseconds / 1_000_000);
};

/** Fine, medium and coarse steps of TPM2_ClockRateAdjust, in millionths. */
const steps: Record<number, number> = { 253: -30_000, 254: -3_000, 255: -300, 1: 300, 2: 3_000, 3: 30_000 };
const rateLimit = 150_000;

const newEpoch = () => randomBytes(8).readBigUInt64BE();

/** A clock under way: whole milliseconds, but `clockPart` and `time` with a fraction. */
export interface ClockState {
  time: number;
  clock: bigint;
  clockPart: number;
  /** Host time as of which that is so. */
  seen: number;
  epoch: bigint;
  rate: number;
  safe: number;
}

export class Clock {
  private readonly now: () => number;
  /** Host time of the last look. */
  private seen: number;
  /** Since power on. */
  time = 0;
  /** Clock is `base` (any 64-bit value: ClockSet may say so) and what has passed since. */
  private base: bigint;
  private part = 0;
  safe: number;
  /** Changes when Time may have jumped: timeouts of an older epoch are void. */
  epoch = newEpoch();
  private rate = 0;
  private written: bigint;

  constructor(now: (() => number) | undefined, saved: { clock: bigint; safe: number } | undefined) {
    this.now = now ?? monotonic;
    this.seen = this.now();
    this.base = saved?.clock ?? 0n;
    this.safe = saved?.safe ?? 1;
    this.written = this.base;
  }

  powerOn(): void {
    this.tick();
    this.time = 0;
    this.epoch = newEpoch();
  }

  /** Brings Time and Clock up to date; before every command. */
  tick(): void {
    const now = this.now();
    const passed = Math.max(0, now - this.seen);
    this.seen = now;
    this.time += passed;
    this.part += passed * (1 + this.rate / 1_000_000);
  }

  /** Whether the stored Clock is so old that it must be written. */
  due(): boolean {
    return this.part >= LIMIT.clockUpdateMs && this.now64() - this.written >= BigInt(LIMIT.clockUpdateMs);
  }
  record(): { clock: bigint; safe: number } {
    const clock = this.now64();
    this.part -= Number(clock - this.base);
    this.base = clock;
    this.written = clock;
    return { clock, safe: this.safe };
  }
  now64(): bigint {
    return BigInt.asUintN(64, this.base + BigInt(Math.floor(this.part)));
  }
  time64(): bigint {
    return BigInt(Math.floor(this.time));
  }

  set(to: bigint): void {
    this.base = to;
    this.part = 0;
  }
  adjust(by: number): void {
    this.rate = Math.max(-rateLimit, Math.min(rateLimit, this.rate + (steps[by] ?? 0)));
  }

  save(): ClockState {
    const { time, base, part, seen, epoch, rate, safe } = this;
    return { time, clock: base, clockPart: part, seen, epoch, rate, safe };
  }
  /**
   * Goes on from `s`. `sameHost`: the host's clock is the one that `s` was saved with, so what has passed since counts;
   * else time stood still.
   */
  restore(s: ClockState, sameHost: boolean): void {
    this.time = s.time;
    this.base = s.clock;
    this.part = s.clockPart;
    this.epoch = s.epoch;
    this.rate = s.rate;
    this.safe = s.safe;
    this.seen = sameHost ? s.seen : this.now();
  }
}
