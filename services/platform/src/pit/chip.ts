/** The three counters, their latches and byte order, and port 0x61. */
import { withEdges, withLevel } from '@nyx/device';
import type { View } from '@nyx/layout';
import {
  advance,
  type Channel,
  count,
  edgesBetween,
  load,
  nextEdge,
  output,
  program,
  setGate,
  stop,
} from './counter.ts';
import { Control, type PitState, Port61, ReadBack } from './regs.ts';

/** Counter 0 shorter than this many ticks (50 us) is told in lots: a guest must not keep the host busy with timers. */
const shortest = 60;
/** Memory refresh toggles once in 15 us. */
const refreshTicks = 18;

export class Pit {
  /** @param tick the current tick of 1.193182 MHz */
  constructor(
    readonly s: View<typeof PitState>,
    readonly tick: () => number,
  ) {}

  #channel(i: number): Channel {
    return this.s.channels.at(i);
  }

  /** Brings counts and the edges of counter 0 up to date. */
  catchUp(): number {
    const { s } = this;
    const tick = this.tick();
    const c = this.#channel(0);
    const account = (to: number): void => {
      const edges = edgesBetween(c, s.accounted, to);
      if (edges > 0) s.irq = withEdges(s.irq, edges);
      s.accounted = to;
    };
    advance(c, tick, account);
    account(Math.max(tick, s.accounted));
    s.irq = ((s.irq & ~1) | (output(c, tick) ? 1 : 0)) >>> 0;
    advance(this.#channel(1), tick);
    advance(this.#channel(2), tick);
    return tick;
  }

  /** A write changed counter 0: its output may have risen by that alone. */
  #changed(tick: number): void {
    this.s.irq = withLevel(this.s.irq, output(this.#channel(0), tick));
  }

  /** Tick at which counter 0 needs attention; Infinity: never. */
  get nextTick(): number {
    const { s } = this;
    const c = this.#channel(0);
    const next = nextEdge(c, s.accounted);
    return c.n < shortest ? Math.max(next, s.accounted + shortest) : next;
  }

  read(i: number): number {
    const tick = this.catchUp();
    const c = this.#channel(i);
    if (c.statusLatched) {
      c.statusLatched = 0;
      return c.status;
    }
    if (c.latched > 0) {
      const high = c.rw === 2 || (c.rw === 3 && c.latched === 1);
      c.latched--;
      return high ? c.latch >>> 8 : c.latch & 0xff;
    }
    const value = count(c, tick);
    const high = c.rw === 2 || (c.rw === 3 && c.readStage === 1);
    if (c.rw === 3) c.readStage ^= 1;
    return high ? value >>> 8 : value & 0xff;
  }

  write(i: number, value: number): void {
    const tick = this.catchUp();
    const c = this.#channel(i);
    if (c.rw === 1) load(c, tick, value);
    else if (c.rw === 2) load(c, tick, value << 8);
    else if (c.writeStage === 0) {
      c.writeLow = value;
      c.writeStage = 1;
      if (c.mode === 0) stop(c);
    } else {
      c.writeStage = 0;
      load(c, tick, c.writeLow | (value << 8));
    }
    if (i === 0) this.#changed(tick);
  }

  control(value: number): void {
    const tick = this.catchUp();
    const select = value >>> 6;
    if (select === Control.readBack) {
      for (let i = 0; i < 3; i++) {
        if (!(value & (2 << i))) continue;
        const c = this.#channel(i);
        if (!(value & ReadBack.noCount)) this.#latch(c, tick);
        if (!(value & ReadBack.noStatus) && !c.statusLatched) {
          const unloaded = !c.loaded || c.nextN !== 0;
          c.status =
            (output(c, tick) ? 0x80 : 0) | (unloaded ? 0x40 : 0) | (c.rw << 4) | (c.mode << 1) | c.bcd;
          c.statusLatched = 1;
        }
      }
      return;
    }
    const c = this.#channel(select);
    const rw = (value & Control.rw) >>> 4;
    if (rw === 0) this.#latch(c, tick);
    else {
      program(c, (value & Control.mode) >>> 1, rw, value & Control.bcd);
      if (select === 0) this.#changed(tick);
    }
  }

  /** A second latch command before the count was read is ignored. */
  #latch(c: Channel, tick: number): void {
    if (c.latched > 0) return;
    c.latch = count(c, tick);
    c.latched = c.rw === 3 ? 2 : 1;
  }

  readPort61(): number {
    const tick = this.catchUp();
    const refresh = Math.floor(tick / refreshTicks) & 1 ? Port61.refresh : 0;
    return this.s.port61 | refresh | (output(this.#channel(2), tick) ? Port61.out2 : 0);
  }

  writePort61(value: number): void {
    const tick = this.catchUp();
    this.s.port61 = value & Port61.stored;
    setGate(this.#channel(2), tick, value & Port61.gate2);
  }

  /** Power-on: the counters are undefined; the gates of 0 and 1 are tied high, counter 2's is low. */
  reset(): void {
    const { s } = this;
    s.accounted = this.tick();
    s.irq = withLevel(s.irq, false);
    for (let i = 0; i < 2; i++) this.#channel(i).gate = 1;
  }
}
