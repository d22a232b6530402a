/**
 * What `nyx storage serve` tells the process that is to be the back-end: one JSON text on descriptor 3, the descriptors
 * that it names beside it. Answers are JSON texts too.
 */
import type { DiskConfig } from '../block/open.ts';
import type { Lifetime } from '../virtio-blk/chip.ts';

export interface ServeRole {
  type: 'serve';
  disk: DiskConfig;
  /** Rings, 1..8. */
  queues: number;
  serial: string;
  blockBytes: number;
  /** Offer LIFETIME, with this as the answer. */
  lifetime?: Lifetime;
  /** Nanoseconds to look for work before sleeping; 0: never. */
  spinNs: number;
  /** The disk has another size than it had for the front-end before. */
  resized?: boolean;
  /** Name to descriptor index: `listen`, `file`, `layer1` ..., `journal`. */
  fds: Record<string, number>;
}

/** Later: finish, leave a clean image, and exit. */
export interface ServeOrder {
  type: 'end';
}

export type ServeReply =
  | { type: 'ready' }
  | { type: 'serving'; bytes: number; readOnly: boolean; missing: string[] }
  | { type: 'connected' | 'gone' }
  | { type: 'failed'; code: string; message: string }
  | { type: 'log'; level: string; message: string };
