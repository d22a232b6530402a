/**
 * A fault on purpose, as the supervisor tells it to a device process: one rule, checked and complete. What a user
 * writes, with defaults and ranges, is `fault-plan.ts`; this file has no dependencies, for device processes load it.
 *
 * A rule sees a stream of *matches*: exits, memory accesses, interrupts or backend requests that fit its selectors,
 * numbered from 1 for the life of the machine (the count is in shared memory and outlives the process). Whether
 * match k is made a fault is a function of the rule, its seed and k alone.
 */

/** Where faults can be made, and what can be made there. */
export const faultVerbs = {
  /** An exit has come in and its handler has not run. */
  exit: ['drop', 'delay', 'corrupt', 'duplicate', 'error', 'hang', 'kill'],
  /** Its answer goes out. */
  reply: ['drop', 'delay', 'corrupt', 'error', 'hang', 'kill'],
  /** The device looks up guest memory for DMA. */
  dma: ['error', 'corrupt', 'delay', 'hang', 'kill'],
  /** An interrupt source of the device is about to be published. */
  interrupt: ['drop', 'delay', 'duplicate', 'reorder', 'hang', 'kill'],
  /** A request to the backend (disk). */
  io: ['drop', 'delay', 'corrupt', 'duplicate', 'reorder', 'error', 'short', 'hang', 'kill'],
  /** The process as a whole, at any exit. */
  process: ['delay', 'hang', 'kill'],
} as const;

export type FaultPoint = keyof typeof faultVerbs;
export type FaultVerb = (typeof faultVerbs)[FaultPoint][number];

/** Places in the life of an exit at which `process` rules strike. */
export const faultPlaces = ['handler', 'commit', 'reply', 'tail', 'settle', 'done'] as const;
export type FaultPlace = (typeof faultPlaces)[number];

/** Request types by which `exit`, `reply` and `io` rules select. */
export const faultTypes = {
  exit: [
    'read',
    'write',
    'readBurst',
    'writeBurst',
    'configRead',
    'configWrite',
    'intAck',
    'eoi',
    'line',
    'reset',
  ],
  io: ['read', 'write', 'flush', 'discard', 'writeZeroes'],
} as const;

export interface FaultRule {
  /** Place of its counters in the fault page: 0..63. */
  slot: number;
  point: FaultPoint;
  verb: FaultVerb;
  /** Device name; for `process`, the process that it is in. '*': every device. */
  device: string;
  /** Request types; absent: all. */
  types?: string[];
  /** Region of the device (exit, reply). For configuration space: the function. */
  region?: number;
  /** First and last offset (exit, reply: in the region; io: bytes on the disk). */
  from?: number;
  to?: number;
  /** Interrupt source of the device. */
  source?: number;
  /** process: where in the exit. */
  place: FaultPlace;
  /** Matches that are let pass first. */
  after: number;
  /** Then every n-th. */
  every: number;
  /** Faults at most; 0: without end. */
  count: number;
  /** 0..1 */
  probability: number;
  /** 32 bits; mixed with what the rule says. */
  seed: number;
  /** Nanoseconds of a delay. */
  delayNs: number;
  /** corrupt: bits to turn over; 0: drawn from the seed. */
  mask: number;
  /** short: bytes that are done. */
  bytes: number;
  /** kill, hang: strikes again when a successor executes the same exit again. */
  again: boolean;
}

/** What a rule has done so far. */
export interface FaultCount {
  matches: number;
  fired: number;
}

/** Supervisor to device process, at any time after the role: these rules and no others. */
export interface FaultMessage {
  type: 'faults';
  rules: FaultRule[];
}

/** How the role names what injection needs. */
export interface RoleFaults {
  /** Descriptor of the fault page of the process. */
  page: number;
  rules: FaultRule[];
  /** Descriptor of the file that gets the transcript of all exits (libs/device/src/faults/transcript.ts). */
  transcript?: number;
}
