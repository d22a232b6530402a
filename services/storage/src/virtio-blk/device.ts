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
import type { RegisterBank } from '@nyx/layout';
import { type BlockDriver, BlockOp, BlockResult, type OpenBlock } from '../block/block.ts';
import { layered } from '../block/stack.ts';
import { BlkChip, BlkRequest, configBank, offeredFeatures, Verdict } from './chip.ts';
import { BlkFeature, BlkLimit, BlkState, BlkStatus, blkConfig } from './regs.ts';

export interface BlkConfig {
  /** 1..8 (default 1). */
  queues?: number;
  /** Up to 20 ASCII characters (default: the device's name). */
  serial?: string;
  readOnly?: boolean;
  /** Logical block size, 512 (default) or 4096. */
  blockBytes?: number;
  /** Offer discard to the guest (default true). */
  discard?: boolean;
  /** The descriptor is open with O_DIRECT. */
  direct?: boolean;
  /** Bytes, for a block device; default: the size of the file. */
  size?: number;
  /** Files of an image, the topmost first; without it one raw file. */
  layers?: { format: string; size: number }[];
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
  const { layers = [] } = config;
  if (
    !Array.isArray(layers) ||
    layers.some((l) => !Number.isSafeInteger(l.size) || !/^(raw|qcow2)$/.test(l.format))
  )
    wrong("layers, expected a list of { format: 'raw' or 'qcow2', size }");
  if (typeof serial !== 'string' || !/^[\x20-\x7e]{0,20}$/.test(serial))
    wrong(`serial ${JSON.stringify(serial)}, expected at most 20 printable ASCII characters`);
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
  readonly #disk: BlockDriver;
  readonly #chip: BlkChip;
  readonly #config: RegisterBank<string>;
  /** One per slot. */
  readonly #requests: readonly BlkRequest[];
  /** Taken, or with a range to go on with, not yet submitted. transient: a successor runs every slot again. */
  readonly #ready: BlkRequest[] = [];
  /** transient: as above. */
  #readyCount = 0;
  /** Reported by the disk, not yet part of an event. transient: a successor runs every slot again. */
  readonly #done: BlkRequest[] = [];
  /** transient: as above. */
  #doneCount = 0;
  /** transient: of the call under way. */
  #depth = 0;
  /** transient: of the call under way. */
  #draining = false;
  readonly #trace: boolean;
  readonly #complete = (): void => this.#completeAll();

  constructor(ctx: DeviceContext<typeof BlkState>, config: BlkConfig, open: OpenBlock) {
    checkConfig(ctx.name, config);
    const { queues = 1, serial = ctx.name.slice(0, 20), blockBytes = 512, trace = false } = config;
    const options = { queues, serial, blockBytes };
    this.#ctx = ctx;
    this.queues = queues;
    this.#trace = trace;
    this.#disk = open(ctx.memory.buffer, (requests, count) => {
      for (let i = 0; i < count; i++) this.#done[this.#doneCount++] = requests[i] as BlkRequest;
      if (this.#draining) this.#completeAll();
      else ctx.event(this.#complete);
    });
    // A predecessor may have died with requests under way; none of them may take effect after ours.
    this.#disk.fence();
    this.features = offeredFeatures(this.#disk, options);
    this.#chip = new BlkChip(this.#disk, options);
    this.#config = configBank(this.#disk, options, {
      get: () => ctx.state.writeback,
      set: (v) => {
        ctx.state.writeback = v;
      },
    });
    this.#requests = Array.from({ length: BlkLimit.slots }, (_, slot) => new BlkRequest(slot));
    this.pci = new VirtioPci(ctx, ctx.state as unknown as VirtioView, this);
  }

  configRead(offset: number, width: number): number {
    return this.#config.read(offset, width);
  }

  /** `writeback` is the driver's only with CONFIG_WCE (5.2.5). */
  configWrite(offset: number, width: number, value: number): void {
    if (this.pci.features & (1 << BlkFeature.configWce)) this.#config.write(offset, width, value);
  }

  /** 5.2.5.2: without FLUSH, CONFIG_WCE begins in writethrough. */
  accepted(features: number): void {
    const flush = (features & (1 << BlkFeature.flush)) !== 0;
    this.#ctx.state.writeback = features & (1 << BlkFeature.configWce) && !flush ? 0 : 1;
  }

  take(slot: number, _queue: number, chain: Chain): void {
    const r = this.#requests[slot]!;
    const { state } = this.#ctx;
    const verdict = this.#chip.translate(r, chain, this.pci.features, state.writeback);
    if (verdict === Verdict.submit) {
      if (r.op === BlockOp.read) this.#dirty(r);
      this.#ready[this.#readyCount++] = r;
    } else if (verdict === Verdict.answer) this.#answer(r);
    else this.pci.refuse(slot, 'request without header or status byte');
  }

  /** Tells that DMA writes the pieces of a read: before it begins, and again when the bytes are there. */
  #dirty(r: BlkRequest): void {
    const { memory } = this.#ctx;
    for (let i = 0; i < r.count; i++) memory.dirty(r.offsets[i]!, r.lengths[i]!);
  }

  /** Status byte and used element. In a handler. */
  #answer(r: BlkRequest): void {
    const { memory } = this.#ctx;
    if (this.#trace)
      this.#ctx.log('trace', `blk ${r.id}: type ${r.type} at ${r.position}+${r.bytes} status ${r.status}`);
    memory.dirty(r.statusAt, 1);
    memory.view.setUint8(r.statusAt, r.status);
    this.pci.finish(r.id, r.written);
  }

  submit(): void {
    if (this.#readyCount === 0) return;
    for (let i = 0; i < this.#readyCount; i++) this.#disk.submit(this.#ready[i]!);
    this.#readyCount = 0;
    this.#disk.kick();
    // What the page cache answered is there already. Its event settles and may come back here: not without end.
    if (this.#depth >= MOST_POLLS) return;
    this.#depth++;
    this.#disk.poll();
    this.#depth--;
  }

  /** The disk reported a batch: an event of its own. */
  #completeAll(): void {
    for (let i = 0; i < this.#doneCount; i++) {
      const r = this.#done[i]!;
      if (this.#draining) this.pci.finish(r.id, 0);
      else if (r.result === BlockResult.ok && r.advance()) this.#ready[this.#readyCount++] = r;
      else {
        r.status = BlkChip.statusOf(r.result);
        if (r.op === BlockOp.read) {
          this.#dirty(r);
          // 2.7.8.2: `len` bytes from the start are valid; after a failed read none are.
          if (r.status !== BlkStatus.ok) r.written = 0;
        }
        this.#answer(r);
      }
    }
    this.#doneCount = 0;
    if (!this.#draining) this.pci.finished();
  }

  reset(): void {
    this.#ctx.state.writeback = 1;
  }

  drain(): boolean {
    this.#draining = true;
    for (let i = 0; i < this.#readyCount; i++) this.pci.finish(this.#ready[i]!.id, 0);
    this.#readyCount = 0;
    const done = this.#disk.drain(DRAIN_MS);
    this.#draining = false;
    return done;
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
    stateVersion: 1,
    state: BlkState,
    keep: virtioKeep,
    regions: [
      { name: 'virtio', size: VirtioLayout.bytes, table: virtioRegion },
      { name: 'msix', size: MsixLayout.bytes },
    ],
    ranges: rangesOf(virtioBars),
    irqs: () => 1 + BlkLimit.queues + 1,
    create: (ctx, config): Device => new VirtioBlk(ctx, config, layered(ctx, {}, open(ctx, config))).pci,
  });
