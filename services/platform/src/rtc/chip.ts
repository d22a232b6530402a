/**
 * MC146818A. Time is computed, not counted: `seconds` at `at`, and guest time since. Update, periodic and alarm flags
 * are brought up to date when someone looks or an enabled interrupt is due.
 */
import { withLevel } from '@nyx/device';
import type { View } from '@nyx/layout';
import { decode, decodeHour, timeOf, timeRegister } from './calendar.ts';
import { A, B, C, Reg, type RtcState, validRam } from './regs.ts';

const SECOND = 1_000_000_000;
/** UIP rises 244 us before the update. */
const updateAhead = 244_141;
/** The first update comes half a second after the divider was released. */
const half = SECOND / 2;
const day = 86_400;

/** Indices 0, 2, 4, 6..9 tell the time; 1, 3, 5 are the alarm. */
const timeRegisters = 0x3d5;
const isTime = (index: number): boolean =>
  (index <= Reg.year ? (timeRegisters >>> index) & 1 : 0) !== 0 || index === Reg.century;

export class Rtc {
  constructor(
    readonly s: View<typeof RtcState>,
    readonly now: () => number,
  ) {}

  /** The clock runs: divider on, and not being set. */
  get running(): boolean {
    const { s } = this;
    return (s.a & A.divider) <= A.running && !(s.b & B.set);
  }

  #seconds(ns: number): number {
    const { s } = this;
    return s.seconds + Math.max(0, Math.floor((ns - s.at) / SECOND));
  }

  /** Sets the flags for everything that happened since the last time, and the line. */
  catchUp(): number {
    const { s } = this;
    const now = this.now();
    const from = s.caught;
    if (now > from) {
      s.caught = now;
      if (this.running) {
        const before = this.#seconds(from);
        const after = this.#seconds(now);
        if (after > before) {
          s.c |= C.update;
          if (this.#nextAlarm(before) <= after) s.c |= C.alarm;
        }
      }
      const period = this.#period();
      if (period > 0 && Math.floor(now / period) > Math.floor(from / period)) s.c |= C.periodic;
    }
    s.irq = withLevel(s.irq, (s.c & s.b & 0x70) !== 0);
    return now;
  }

  /** Nanoseconds of the periodic interrupt (table 5); 0: off. Phase: that of the guest clock. */
  #period(): number {
    const { s } = this;
    if ((s.a & A.divider) > A.running) return 0;
    const rate = s.a & A.rate;
    if (rate === 0) return 0;
    return ((1 << ((rate <= 2 ? rate + 7 : rate) - 1)) * SECOND) / 32_768;
  }

  /** The first second after `seconds` that the alarm registers match. 0xC0..0xFF match anything. */
  #nextAlarm(seconds: number): number {
    const { s } = this;
    const want = (index: number): number =>
      s.cmos.get(index) >= 0xc0
        ? -1
        : index === Reg.hourAlarm
          ? decodeHour(s.cmos.get(index), s.b)
          : decode(s.cmos.get(index), s.b);
    const [h, m, sec] = [want(Reg.hourAlarm), want(Reg.minuteAlarm), want(Reg.secondAlarm)];
    if (h > 23 || m > 59 || sec > 59) return Number.POSITIVE_INFINITY;
    let t = seconds + 1;
    // Each round moves to the next candidate of the coarsest field that does not match.
    for (let i = 0; i < 8; i++) {
      const rest = t % day;
      const hour = Math.floor(rest / 3600);
      const minute = Math.floor(rest / 60) % 60;
      if (h >= 0 && hour !== h) t += ((h - hour + 24) % 24) * 3600 - (rest % 3600);
      else if (m >= 0 && minute !== m) t += ((m - minute + 60) % 60) * 60 - (rest % 60);
      else if (sec >= 0 && rest % 60 !== sec) t += (sec - (rest % 60) + 60) % 60;
      else return t;
    }
    return t;
  }

  /** Guest ns at which an enabled interrupt is due; Infinity: none. */
  get next(): number {
    const { s } = this;
    // One that is pending already needs no second.
    const wanted = s.b & ~s.c;
    let at = Number.POSITIVE_INFINITY;
    const period = this.#period();
    if (wanted & B.periodic && period > 0) at = Math.ceil((Math.floor(s.caught / period) + 1) * period);
    if (this.running) {
      const seconds = this.#seconds(s.caught);
      if (wanted & B.update) at = Math.min(at, s.at + (seconds + 1 - s.seconds) * SECOND);
      if (wanted & B.alarm) at = Math.min(at, s.at + (this.#nextAlarm(seconds) - s.seconds) * SECOND);
    }
    return at;
  }

  read(index: number): number {
    const { s } = this;
    const i = index === Reg.centuryPs2 ? Reg.century : index;
    switch (i) {
      case Reg.a: {
        const now = this.now();
        return s.a | (this.running && (now - s.at) % SECOND >= SECOND - updateAhead ? A.uip : 0);
      }
      case Reg.b:
        return s.b;
      case Reg.c: {
        this.catchUp();
        const value = s.c | (s.c & s.b ? C.irq : 0);
        s.c = 0;
        s.irq = withLevel(s.irq, false);
        return value;
      }
      case Reg.d:
        return validRam;
    }
    return isTime(i) && this.running ? timeRegister(this.#seconds(this.now()), i, s.b) : s.cmos.get(i);
  }

  write(index: number, value: number): void {
    const { s } = this;
    const i = index === Reg.centuryPs2 ? Reg.century : index;
    const now = this.catchUp();
    if (i === Reg.a) this.#change(now, value & ~A.uip, s.b);
    // SET takes the update interrupt's enable away.
    else if (i === Reg.b) this.#change(now, s.a, value & B.set ? value & ~B.update : value);
    else if (i === Reg.c || i === Reg.d) return;
    else if (isTime(i) && this.running) {
      this.#freeze(now);
      s.cmos.set(i, value);
      // The fraction of the second goes on.
      this.#setTime(now - ((now - s.at) % SECOND));
    } else s.cmos.set(i, value);
    s.irq = withLevel(s.irq, (s.c & s.b & 0x70) !== 0);
  }

  /** New A and B: the clock may stop, start, or change its format. */
  #change(now: number, a: number, b: number): void {
    const { s } = this;
    const was = this.running;
    if (was) this.#freeze(now);
    const held = (s.a & A.divider) > A.running;
    const phase = Math.max(0, now - s.at) % SECOND;
    const seconds = this.#seconds(now);
    s.a = a;
    s.b = b;
    if (!this.running) return;
    if (was) {
      // Format bits may have changed: the time itself goes on.
      s.seconds = seconds;
      s.at = Math.max(0, now - phase);
    } else this.#setTime(held ? now + half - SECOND : now - phase);
  }

  /** Stores the time in the registers. */
  #freeze(now: number): void {
    const { s } = this;
    const seconds = this.#seconds(now);
    for (let i = 0; i <= Reg.year; i++) if (isTime(i)) s.cmos.set(i, timeRegister(seconds, i, s.b));
    s.cmos.set(Reg.century, timeRegister(seconds, Reg.century, s.b));
  }

  /** Takes the time from the registers: it holds since `at`. */
  #setTime(at: number): void {
    const { s } = this;
    const seconds = timeOf((i) => s.cmos.get(i), s.b);
    // Before guest time 0 began: the same clock, told from a later second.
    const late = at < 0 ? 1 : 0;
    s.seconds = seconds + late;
    s.at = at + late * SECOND;
  }

  /** Power-on of the board; the battery kept the rest. */
  reset(wallClock: number): void {
    const { s } = this;
    const now = this.now();
    if (!s.valid) {
      s.valid = 1;
      s.seconds = wallClock;
      s.at = 0;
    }
    s.caught = Math.max(s.caught, now);
    // RESET clears the interrupt enables and flags (MC146818A, "RESET").
    s.b &= ~(B.periodic | B.alarm | B.update | B.square);
    s.c = 0;
    s.irq = withLevel(s.irq, false);
  }
}
