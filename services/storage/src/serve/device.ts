/** The virtio block device behind a vhost-user back-end. */
import type { BackendDevice, BackendTransport } from '@nyx/vhost-user';
import type { OpenBlock } from '../block/block.ts';
import type { BlkOptions } from '../virtio-blk/chip.ts';
import { BlkRequests } from '../virtio-blk/requests.ts';

export class VhostBlk implements BackendDevice {
  readonly queues: number;
  readonly features: number;
  readonly requests: BlkRequests;
  /** As the driver set it; the front-end sets it again after a death. */
  #writeback = 1;

  constructor(transport: BackendTransport, options: BlkOptions, slots: number, open: OpenBlock) {
    this.queues = options.queues;
    this.requests = new BlkRequests(transport, options, slots, open, {
      get: () => this.#writeback,
      set: (v) => {
        this.#writeback = v;
      },
    });
    this.features = this.requests.features;
    this.requests.disk.fence();
  }

  configRead(offset: number, width: number): number {
    return this.requests.configRead(offset, width);
  }
  configWrite(offset: number, width: number, value: number): void {
    this.requests.configWrite(offset, width, value);
  }
  accepted(features: number): void {
    this.requests.accepted(features);
  }
  take(slot: number, _queue: number, chain: Parameters<BlkRequests['take']>[1]): void {
    this.requests.take(slot, chain);
  }
  submit(): void {
    this.requests.submit();
  }
  poll(): void {
    this.requests.disk.poll();
  }
  quiesce(timeoutMs: number): boolean {
    return this.requests.quiesce(timeoutMs);
  }
  reset(): void {
    this.#writeback = 1;
  }
}
