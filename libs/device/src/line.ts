/**
 * Interrupt words (ARCHITECTURE.md, "Interrupts"). A line's word is rising edges << 1 | level: a pure value that
 * lives in device state, so that telling it again changes nothing. The edge count wraps at 31 bits.
 */

/** The word after the line took this level; a rise counts one edge. */
export const withLevel = (word: number, level: boolean): number =>
  level ? ((word & 1) !== 0 ? word : (word + 3) >>> 0) : (word & ~1) >>> 0;

/** The word after `edges` more rising edges that left the level as it was. */
export const withEdges = (word: number, edges: number): number => (word + edges * 2) >>> 0;

/** Rising edges between the word last seen and this one. */
export const edgesSince = (seen: number, word: number): number => ((word >>> 1) - (seen >>> 1)) & 0x7fffffff;

/** What a pin shared by two sources shows: edges add up, levels are ORed. */
export const merged = (a: number, b: number): number =>
  (((((a >>> 1) + (b >>> 1)) & 0x7fffffff) << 1) | ((a | b) & 1)) >>> 0;
