/** Attachment of the virtio block device: PCI function and queues of the virtio kit on one side, a disk on the other. */
import {
  type Chain,
  type Device,
  type DeviceContext,
  type DeviceKind,
  defineDevice,
  MsixLayout,
  rangesOf,
  type VirtioDevice,
  VirtioLayout,
  VirtioPci,
  type VirtioView,
  virtioBars,
  virtioKeep,
  virtioRegion,
} from '@nyx/device';
import type { DeviceOrder } from '@nyx/protocol';
import type { OpenBlock } from '../block/block.ts';
import { badLayers, type DiskLayer } from '../block/open.ts';
import { type LayerConfig, layered } from '../block/stack.ts';
import { isLifetime, type Lifetime } from './chip.ts';
import { BlkLimit, BlkState, blkConfig } from './regs.ts';
import { BlkRequests, type BlkTransport } from './requests.ts';

export interface BlkConfig extends LayerConfig {
  /** 1..8 (default 1). */
  queues?: number;
  /** Up to 20 ASCII characters (default: the device's name). */
  serial?: string;
  readOnly?: boolean;
  /** Logical block size, 512 (default) or 4096. */
  blockBytes?: number;
  /** Offer discard to the guest (default true). */
  discard?: boolean;
  /** Bytes, for a block device; default: the size of the file. */
  size?: number;
  /** Files of an image, the topmost first; without it one raw file. */
  layers?: DiskLayer[];
  /** Offer LIFETIME, with this as the answer: see Lifetime. */
  lifetime?: Lifetime;
  /** Log every request at level trace. */
  trace?: boolean;
}

/** @throws coded error CONFIG_INVALID */
export function checkConfig(name: string, config: BlkConfig): void {
  const wrong = (what: string): never => {
    throw Object.assign(new Error(`${name}: ${what}`), { code: 'CONFIG_INVALID' });
  };
  const { queues = 1, serial = '', blockBytes = 512 } = config;
  if (!Number.isInteger(queues) || queues < 1 || queues > BlkLimit.queues)
    wrong(`queues is ${queues}, expected 1..${BlkLimit.queues}`);
  const bad = badLayers(config.layers);
  if (bad !== undefined) wrong(bad);
  if (typeof serial !== 'string' || !/^[\x20-\x7e]{0,20}$/.test(serial))
    wrong(`serial ${JSON.stringify(serial)}, expected at most 20 printable ASCII characters`);
  if (config.lifetime !== undefined && !isLifetime(config.lifetime))
    wrong('lifetime, expected [0..3, 0..11, 0..11]');
  if (blockBytes !== 512 && blockBytes !== 4096) wrong(`blockBytes is ${blockBytes}, expected 512 or 4096`);
}

class VirtioBlk implements VirtioDevice {
  readonly type = 2;
  /** Mass storage, SCSI: what the firmware of PCs expects of a virtio disk. */
  readonly classCode = 0x010000;
  readonly queues: number;
  readonly queueSize = BlkLimit.queueSize;
  readonly features: number;
  readonly configBytes = blkConfig.size;
  readonly pci: VirtioPci;
  readonly #ctx: DeviceContext<typeof BlkState>;
  readonly #requests: BlkRequests;
  /** transient: of the call under way. */
  #depth = 0;
  /** transient: a successor looks again. */
  #looked = false;

  constructor(ctx: DeviceContext<typeof BlkState>, config: BlkConfig, open: OpenBlock) {
    checkConfig(ctx.name, config);
    const { queues = 1, serial = ctx.name.slice(0, 20), blockBytes = 512, lifetime, trace = false } = config;
    this.#ctx = ctx;
    this.queues = queues;
    const pci = (): VirtioPci => this.pci;
    const transport: BlkTransport = {
      memory: ctx.memory,
      get features() {
        return pci().features;
      },
      finish: (slot, written) => pci().finish(slot, written),
      finished: () => pci().finished(),
      refuse: (slot, reason) => pci().refuse(slot, reason),
      event: (change) => ctx.event(change),
      ...(trace ? { trace: (message: string) => ctx.log('trace', message) } : {}),
    };
    const options = { queues, serial, blockBytes, ...(lifetime ? { lifetime } : {}) };
    this.#requests = new BlkRequests(transport, options, BlkLimit.slots, open, {
      get: () => ctx.state.writeback,
      set: (v) => {
        ctx.state.writeback = v;
      },
    });
    this.features = this.#requests.features;
    this.pci = new VirtioPci(ctx, ctx.state as unknown as VirtioView, this);
  }

  attach(): void {
    // A predecessor may have died with requests under way; none of them may take effect after ours.
    this.#requests.disk.fence();
  }

  configRead(offset: number, width: number): number {
    return this.#requests.configRead(offset, width);
  }
  configWrite(offset: number, width: number, value: number): void {
    this.#requests.configWrite(offset, width, value);
  }
  accepted(features: number): void {
    this.#requests.accepted(features);
  }
  take(slot: number, _queue: number, chain: Chain): void {
    this.#requests.take(slot, chain);
  }

  /** A disk that has another size than its predecessor's had: the driver is told once (5.2.4), whoever dies in between. */
  #resized(): void {
    const { state } = this.#ctx;
    const [lo, hi] = this.#sectors;
    if (state.capacityLo === lo && state.capacityHi === hi) return;
    this.#ctx.event(() => {
      state.capacityLo = lo;
      state.capacityHi = hi;
      this.pci.configChanged();
    });
  }

  get #sectors(): [lo: number, hi: number] {
    const sectors = this.#requests.disk.size / 512;
    return [sectors >>> 0, Math.floor(sectors / 4294967296)];
  }

  submit(): void {
    if (!this.#looked) {
      this.#looked = true;
      this.#resized();
    }
    if (!this.#requests.submit()) return;
    // What the page cache answered is there already. Its event settles and may come back here: not without end.
    if (this.#depth >= MOST_POLLS) return;
    this.#depth++;
    this.#requests.disk.poll();
    this.#depth--;
  }

  order(order: DeviceOrder['order'], fds: readonly number[]): void {
    this.#requests.disk.order?.(order, fds);
  }

  reset(): void {
    const { state } = this.#ctx;
    state.writeback = 1;
    [state.capacityLo, state.capacityHi] = this.#sectors;
  }

  drain(): boolean {
    return this.#requests.drain(DRAIN_MS);
  }
}

/** Submissions within submissions. */
const MOST_POLLS = 3;

/** Longest wait for the backend at a machine reset. */
const DRAIN_MS = 2000;

/** The device kind over disks that `open` opens. */
export const virtioBlk = (
  open: (ctx: DeviceContext<typeof BlkState>, config: BlkConfig) => OpenBlock,
): DeviceKind<typeof BlkState, BlkConfig> =>
  defineDevice({
    kind: 'virtio-blk',
    stateVersion: 2,
    state: BlkState,
    keep: virtioKeep,
    regions: [
      { name: 'virtio', size: VirtioLayout.bytes, table: virtioRegion },
      { name: 'msix', size: MsixLayout.bytes },
    ],
    ranges: rangesOf(virtioBars),
    irqs: () => 1 + BlkLimit.queues + 1,
    // An image's tables are read when it is opened; a raw file has nothing that could change.
    early: (config) => config.layers === undefined,
    create: (ctx, config): Device => new VirtioBlk(ctx, config, layered(ctx, config, open(ctx, config))).pci,
  });
