/**
 * Exact conversions between guest nanoseconds and ticks of a chip's clock, in plain numbers. Whole seconds are
 * split off first, so every product stays below 2^53 and equals what the vCPU process computes in 128 bits.
 * Valid for clocks up to 8 MHz and for times below 2^53 ns (104 days).
 */
const NS = 1_000_000_000;

/** floor(ns * hz / 1e9). */
export const ticksAt = (ns: number, hz: number): number => {
  const seconds = Math.floor(ns / NS);
  return seconds * hz + Math.floor(((ns - seconds * NS) * hz) / NS);
};

/** The first nanosecond at which `ticksAt` gives at least `ticks`. */
export const nsOfTick = (ticks: number, hz: number): number => {
  const seconds = Math.floor(ticks / hz);
  return seconds * NS + Math.ceil(((ticks - seconds * hz) * NS) / hz);
};
