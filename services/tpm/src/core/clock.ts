/** Time, Clock and their epoch (part 1, 36). All in milliseconds. */
import { randomBytes } from 'node:crypto';
import { LIMIT } from '../spec/constants.ts';

const monotonic = () => Number(process.hrtime.bigint() / 1_000_000n);

/** Fine, medium and coarse steps of TPM2_ClockRateAdjust, in millionths. */
const steps: Record<number, number> = { 253: -30_000, 254: -3_000, 255: -300, 1: 300, 2: 3_000, 3: 30_000 };
const rateLimit = 150_000;

const newEpoch = () => randomBytes(8).readBigUInt64BE();

export class Clock {
  private readonly now: () => number;
  /** Host time of the last look. */
  private seen: number;
  /** Since power on. */
  time = 0;
  clock: number;
  safe: number;
  /** Changes when Time may have jumped: timeouts of an older epoch are void. */
  epoch = newEpoch();
  private rate = 0;
  private written: number;

  constructor(now: (() => number) | undefined, saved: { clock: bigint; safe: number } | undefined) {
    this.now = now ?? monotonic;
    this.seen = this.now();
    this.clock = Number(saved?.clock ?? 0n);
    this.safe = saved?.safe ?? 1;
    this.written = this.clock;
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
    this.clock += passed * (1 + this.rate / 1_000_000);
  }

  /** Whether the stored Clock is so old that it must be written. */
  due(): boolean {
    return this.clock - this.written >= LIMIT.clockUpdateMs;
  }
  record(): { clock: bigint; safe: number } {
    this.written = this.clock;
    return { clock: this.now64(), safe: this.safe };
  }
  now64(): bigint {
    return BigInt(Math.floor(this.clock));
  }
  time64(): bigint {
    return BigInt(Math.floor(this.time));
  }

  advance(to: bigint): void {
    this.clock = Number(to);
  }
  adjust(by: number): void {
    this.rate = Math.max(-rateLimit, Math.min(rateLimit, this.rate + (steps[by] ?? 0)));
  }
}
