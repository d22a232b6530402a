/**
 * The life of a request of a virtio block device, between whoever moves chains (PCI function, vhost-user back-end) and
 * the disk: one copy for both.
 *
 *   take -> translated -> submit -> disk -> completed: an event -> the next range, or status byte and used element
 */
import type { Chain, GuestMemory } from '@nyx/device';
import type { RegisterBank } from '@nyx/layout';
import { type BlockDriver, BlockOp, BlockResult, type OpenBlock } from '../block/block.ts';
import { BlkChip, type BlkOptions, BlkRequest, configBank, offeredFeatures, Verdict } from './chip.ts';
import { BlkFeature, BlkStatus } from './regs.ts';

/** Who moves the chains. */
export interface BlkTransport {
  readonly memory: GuestMemory;
  /** Accepted features, bits 0..31. */
  readonly features: number;
  /** The request is done, `written` bytes of its writable part are valid. In a handler. */
  finish(slot: number, written: number): void;
  /** After a batch of `finish`. */
  finished(): void;
  /** The chain has no place for an answer. In a handler, within `take`. */
  refuse(slot: number, reason: string): void;
  /** Runs `change` as an event: requests became done. */
  event(change: () => void): void;
  trace?(message: string): void;
}

/** Where the driver's choice of writeback is kept. */
export interface Writeback {
  get(): number;
  set(v: number): void;
}

export class BlkRequests {
  readonly features: number;
  readonly disk: BlockDriver;
  readonly #transport: BlkTransport;
  readonly #writeback: Writeback;
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
  #draining = false;
  readonly #complete = (): void => this.#completeAll();

  constructor(
    transport: BlkTransport,
    options: BlkOptions,
    slots: number,
    open: OpenBlock,
    writeback: Writeback,
  ) {
    this.#transport = transport;
    this.#writeback = writeback;
    this.disk = open(transport.memory.buffer, (requests, count) => {
      for (let i = 0; i < count; i++) this.#done[this.#doneCount++] = requests[i] as BlkRequest;
      if (this.#draining) this.#completeAll();
      else transport.event(this.#complete);
    });
    this.features = offeredFeatures(this.disk, options);
    this.#chip = new BlkChip(this.disk, options);
    this.#config = configBank(this.disk, options, writeback);
    this.#requests = Array.from({ length: slots }, (_, slot) => new BlkRequest(slot));
  }

  configRead(offset: number, width: number): number {
    return this.#config.read(offset, width);
  }

  /** `writeback` is the driver's only with CONFIG_WCE (5.2.5). */
  configWrite(offset: number, width: number, value: number): void {
    if (this.#transport.features & (1 << BlkFeature.configWce)) this.#config.write(offset, width, value);
  }

  /** 5.2.5.2: without FLUSH, CONFIG_WCE begins in writethrough. */
  accepted(features: number): void {
    const flush = (features & (1 << BlkFeature.flush)) !== 0;
    this.#writeback.set(features & (1 << BlkFeature.configWce) && !flush ? 0 : 1);
  }

  /** In a handler. */
  take(slot: number, chain: Chain): void {
    const r = this.#requests[slot]!;
    const t = this.#transport;
    const verdict = this.#chip.translate(r, chain, t.features, this.#writeback.get());
    if (verdict === Verdict.submit) {
      if (r.op === BlockOp.read) this.#dirty(r);
      this.#ready[this.#readyCount++] = r;
    } else if (verdict === Verdict.answer) this.#answer(r);
    else t.refuse(slot, 'request without header or status byte');
  }

  /** Tells that DMA writes the pieces of a read: before it begins, and again when the bytes are there. */
  #dirty(r: BlkRequest): void {
    const { memory } = this.#transport;
    for (let i = 0; i < r.count; i++) memory.dirty(r.offsets[i]!, r.lengths[i]!);
  }

  /** Status byte and used element. In a handler. */
  #answer(r: BlkRequest): void {
    const { memory, trace } = this.#transport;
    if (trace) trace(`blk ${r.id}: type ${r.type} at ${r.position}+${r.bytes} status ${r.status}`);
    memory.dirty(r.statusAt, 1);
    memory.view.setUint8(r.statusAt, r.status);
    this.#transport.finish(r.id, r.written);
  }

  /** Hands what was taken to the disk. False when there was nothing. */
  submit(): boolean {
    if (this.#readyCount === 0) return false;
    for (let i = 0; i < this.#readyCount; i++) this.disk.submit(this.#ready[i]!);
    this.#readyCount = 0;
    this.disk.kick();
    return true;
  }

  /** The disk reported a batch: an event of its own. */
  #completeAll(): void {
    for (let i = 0; i < this.#doneCount; i++) {
      const r = this.#done[i]!;
      if (this.#draining) this.#transport.finish(r.id, 0);
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
    if (!this.#draining) this.#transport.finished();
  }

  /** Drops everything under way: waits for the disk, answers nothing. False after `timeoutMs`. */
  drain(timeoutMs: number): boolean {
    this.#draining = true;
    for (let i = 0; i < this.#readyCount; i++) this.#transport.finish(this.#ready[i]!.id, 0);
    this.#readyCount = 0;
    const done = this.disk.drain(timeoutMs);
    this.#draining = false;
    return done;
  }

  /** Ends everything under way, with answers. False after `timeoutMs`. */
  quiesce(timeoutMs: number): boolean {
    const end = Date.now() + timeoutMs;
    do {
      this.submit();
      if (!this.disk.drain(Math.max(0, end - Date.now()))) return false;
    } while (this.#readyCount > 0);
    return true;
  }
}
