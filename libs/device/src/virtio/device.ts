/** What a virtio device is to the transport. */
import type { Struct, View } from '@nyx/layout';
import type { DeviceOrder } from '@nyx/protocol';
import type { Chain } from './chain.ts';
import type { virtioFields } from './regs.ts';

/** The part of a device's state that is virtio's. */
export type VirtioView = View<Struct<ReturnType<typeof virtioFields>>>;
export interface VirtioDevice {
  /** Virtio device type, e.g. 2. */
  readonly type: number;
  readonly classCode: number;
  /** Queues offered, 1..queues of the state. */
  readonly queues: number;
  /** Most entries of a queue: power of two up to 256. */
  readonly queueSize: number;
  /** Device feature bits 0..23 that are offered. */
  readonly features: number;
  /** Bytes of the device configuration structure. */
  readonly configBytes: number;
  /** As Device.order. */
  order?(order: DeviceOrder['order'], fds: readonly number[]): void;
  /** As Device.attach. */
  attach?(): void;
  configRead(offset: number, width: number): number;
  configWrite(offset: number, width: number, value: number): void;
  /** The driver accepted these (bits 0..23). In a handler. */
  accepted?(features: number): void;
  /** Request in `slot`: the chain is valid only during the call. Ends with `finish(slot)`, now or later. In a handler. */
  take(slot: number, queue: number, chain: Chain): void;
  /** Starts what `take` prepared; nothing to do when nothing was. In settle. */
  submit(): void;
  /** Device reset: own registers to their reset values; nothing is in flight. In a handler. */
  reset(): void;
  /** Waits for, and drops, everything in flight; false when that took too long. */
  drain(): boolean;
}
