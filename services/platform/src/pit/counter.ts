/**
 * One counter of an 8254 (data sheet 231164), as a function of the tick. A count that is written is loaded at the next
 * tick. Between events nothing runs: outputs, counts and edges are computed from `start`.
 */
import type { View } from '@nyx/layout';
import type { ChannelState } from './regs.ts';

export type Channel = View<typeof ChannelState>;

const periodic = (c: Channel): boolean => c.mode === 2 || c.mode === 3;
const triggered = (c: Channel): boolean => c.mode === 1 || c.mode === 5;

/** Ticks since the count was loaded. */
export const elapsed = (c: Channel, tick: number): number =>
  c.running ? Math.max(0, tick - c.start) : c.held;

/** Rising edges of the output within the first `e` ticks. */
function rises(c: Channel, e: number): number {
  if (!c.loaded) return 0;
  if (periodic(c)) return c.n > 1 ? Math.floor(e / c.n) : 0;
  return e >= (c.mode >= 4 ? c.n + 1 : c.n) ? 1 : 0;
}

/** Rising edges after tick `from`, up to and with tick `to`, that counting made. Only valid after `advance(to)`. */
export const edgesBetween = (c: Channel, from: number, to: number): number =>
  c.running ? rises(c, elapsed(c, to)) - rises(c, elapsed(c, Math.min(from, to))) : 0;

/** The tick of the next rising edge after `tick`; Infinity when there is none. */
export function nextEdge(c: Channel, tick: number): number {
  if (!c.running || !c.loaded) return Number.POSITIVE_INFINITY;
  const e = elapsed(c, tick);
  if (periodic(c)) return c.n > 1 ? c.start + (Math.floor(e / c.n) + 1) * c.n : Number.POSITIVE_INFINITY;
  const at = c.mode >= 4 ? c.n + 1 : c.n;
  return e < at ? c.start + at : Number.POSITIVE_INFINITY;
}

/** Loads a count that was waiting for the end of its period. Calls `boundary` before, with the tick of that end. */
export function advance(c: Channel, tick: number, boundary?: (at: number) => void): void {
  if (c.nextN === 0 || c.nextAt === 0 || tick < c.nextAt) return;
  boundary?.(c.nextAt);
  c.start = c.nextAt;
  c.n = c.nextN;
  c.nextN = 0;
  c.nextAt = 0;
}

export function output(c: Channel, tick: number): boolean {
  if (!c.loaded) return c.mode !== 0;
  const e = elapsed(c, tick);
  switch (c.mode) {
    case 0:
      return e >= c.n;
    case 1:
      return !c.running || e >= c.n;
    case 2:
      return !c.running || e % c.n !== c.n - 1;
    case 3:
      return !c.running || e % c.n < (c.n + 1) >>> 1;
    default:
      return !c.running || e !== c.n;
  }
}

/** What the counting element holds, 0..65535, in BCD when the counter counts so. */
export function count(c: Channel, tick: number): number {
  const e = elapsed(c, tick);
  const modulus = c.bcd ? 10_000 : 65_536;
  let value: number;
  if (!c.loaded || (triggered(c) && !c.running)) value = c.n;
  else if (c.mode === 2) value = c.n - (e % c.n);
  else if (c.mode === 3) {
    // Down by two, twice a period; an odd count gives the extra tick to the high half.
    const high = (c.n + 1) >>> 1;
    const at = e % c.n;
    value = (c.n & ~1) - 2 * (at < high ? at : at - high);
    if (value < 0) value = 0;
  } else value = (((c.n - e) % modulus) + modulus) % modulus;
  value %= modulus;
  return c.bcd ? toBcd(value) : value;
}

const toBcd = (v: number): number =>
  (Math.floor(v / 1000) << 12) |
  ((Math.floor(v / 100) % 10) << 8) |
  ((Math.floor(v / 10) % 10) << 4) |
  (v % 10);
/** A nibble above nine counts as what it is worth. */
const fromBcd = (v: number): number =>
  (v >>> 12) * 1000 + ((v >>> 8) & 15) * 100 + ((v >>> 4) & 15) * 10 + (v & 15);

/** A whole count was written. */
export function load(c: Channel, tick: number, raw: number): void {
  const value = c.bcd ? fromBcd(raw) % 10_000 : raw;
  const n = value || (c.bcd ? 10_000 : 65_536);
  const first = !c.loaded;
  c.loaded = 1;
  if (triggered(c)) {
    if (first) c.n = n;
    c.nextN = n;
    c.nextAt = 0;
  } else if (periodic(c) && c.running && !first) {
    const period = Math.floor(elapsed(c, tick) / c.n) + 1;
    c.nextN = n;
    c.nextAt = c.start + period * c.n;
  } else {
    c.n = n;
    c.nextN = 0;
    c.nextAt = 0;
    c.held = 0;
    c.running = c.gate;
    c.start = tick + 1;
  }
}

/** A control word: the counter waits for its count. */
export function program(c: Channel, mode: number, rw: number, bcd: number): void {
  c.mode = mode > 5 ? mode - 4 : mode;
  c.rw = rw;
  c.bcd = bcd;
  c.writeStage = 0;
  c.readStage = 0;
  c.latched = 0;
  c.statusLatched = 0;
  c.loaded = 0;
  c.running = 0;
  c.held = 0;
  c.nextN = 0;
  c.nextAt = 0;
}

/** Counting is disabled while the high byte of a new count is awaited (mode 0). */
export function stop(c: Channel): void {
  c.loaded = 0;
  c.running = 0;
  c.held = 0;
}

export function setGate(c: Channel, tick: number, gate: number): void {
  if (gate === c.gate) return;
  const e = elapsed(c, tick);
  c.gate = gate;
  if (triggered(c)) {
    if (!gate || !c.loaded) return;
    if (c.nextN !== 0) c.n = c.nextN;
    c.nextN = 0;
    c.running = 1;
    c.start = tick + 1;
  } else if (!c.loaded) return;
  else if (!gate) {
    // Bounded: nothing depends on how long ago a count ran out.
    c.held = periodic(c) ? e % c.n : Math.min(e, 0x1_0000 + (e % 0x1_0000));
    c.running = 0;
  } else {
    if (c.nextN !== 0) {
      c.n = c.nextN;
      c.nextN = 0;
      c.nextAt = 0;
    }
    c.start = periodic(c) ? tick + 1 : Math.max(0, tick - c.held);
    c.running = 1;
  }
}
