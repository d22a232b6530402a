/**
 * Virtio over PCI (VIRTIO 1.2 section 4.1), version 1 only: registers, status machine, interrupts, and the life of a
 * request. A device (`VirtioDevice`) supplies its configuration structure and what its requests do.
 *
 *   doorbell -> take chains into slots (state) -> commit -> settle: the device submits what was taken
 *   completion -> status and used element into guest memory -> slot freed (state) -> commit -> settle: used idx, interrupt
 *
 * A request is in flight from the commit that put it in a slot to the commit that freed it. A process that attaches
 * finds the slots of its predecessor and runs those requests again; all their effects can be repeated. What it
 * cannot know (a doorbell that it did not see, a driver that asked for an interrupt meanwhile) it looks up itself.
 *
 * Longer than other files: every reset touches registers, interrupts and requests together, in an order that matters.
 */
import { RegisterBank, resetValues, type View } from '@nyx/layout';
import type { DeviceOrder } from '@nyx/protocol';
import type { Device, DeviceContext } from '../device.ts';
import { Msix, PciFunction } from '../pci/index.ts';
import { Chain } from './chain.ts';
import { commonBank, offeredFeatures } from './common.ts';
import type { VirtioDevice, VirtioView } from './device.ts';
import { accessRegisters, Irq, Region, virtioBars, virtioFunction } from './pci.ts';
import { Virtqueue } from './queue.ts';
import { Isr, noVector, QueueState, VirtioFeature, VirtioLayout, VirtioState, VirtioStatus } from './regs.ts';
import { Slots } from './slots.ts';

type Context = Pick<
  DeviceContext,
  'replyHi' | 'memory' | 'setRange' | 'line' | 'message' | 'timerAt' | 'event' | 'log' | 'raise' | 'isolated'
>;

/** Chains taken by one event at most; a driver that feeds faster than that waits for the next one. */
const BUDGET = 512;

export class VirtioPci implements Device {
  readonly fn: PciFunction;
  readonly msix: Msix;
  readonly queues: readonly Virtqueue[];
  /** For tracing and tests; since this process attached. */
  readonly counters = {
    kicks: 0,
    taken: 0,
    finished: 0,
    notifications: 0,
    failures: 0,
    recovered: 0,
    rechecks: 0,
  };
  readonly #ctx: Context;
  readonly #v: View<typeof VirtioState>;
  readonly #device: VirtioDevice;
  readonly #chain: Chain;
  readonly #common: RegisterBank<string>;
  readonly #slots: Slots;
  /**
   * Queues with used elements that no decision about an interrupt was made for; a bit each.
   * transient: of the handler under way, decided before its commit.
   */
  #touched = 0;
  /** Slots ran out: a completion must look at the queues again. transient: a successor looks at all at once. */
  #starved = false;
  /** transient: false in a successor, which then recovers. */
  #recovered = false;
  /** transient: a successor looks at all queues. */
  #again = false;
  readonly #recoverEvent = (): void => this.#recover();
  readonly #decideEvent = (): void => {
    for (const q of this.queues) if (q.state.enabled) this.#decide(q);
  };

  constructor(ctx: Context, state: VirtioView, device: VirtioDevice) {
    this.#ctx = ctx;
    this.#v = state.virtio.at(0);
    this.#device = device;
    this.#chain = new Chain(ctx.memory);
    this.#slots = new Slots(state);
    const vectors = state.vectors.length;
    const { type, classCode, configBytes } = device;
    const { spec, accessAt } = virtioFunction({ type, classCode, vectors, configBytes });
    const table = accessRegisters(accessAt);
    const bank = new RegisterBank(
      table,
      this.#v,
      {
        read: { cfgData: () => this.#accessRead() },
        write: { cfgData: (value) => this.#accessWrite(value) },
      },
      0,
    );
    this.fn = new PciFunction(
      spec,
      state.pci.at(0),
      ctx,
      { changed: () => this.#pciChanged(), msixChanged: () => this.#pciChanged(), flr: () => this.#flr() },
      { table, bank },
    );
    this.msix = new Msix(this.fn, state.vectors, state.counts, Irq.message);
    this.queues = Array.from(
      { length: device.queues },
      (_, i) => new Virtqueue(i, device.queueSize, state.queues.at(i), ctx.memory),
    );
    this.#common = commonBank(state, this.queues, device, {
      status: (value) => this.#writeStatus(value),
      shown: () => this.#shownStatus,
      enable: (q) => this.#enableQueue(q),
      reset: (q) => this.#resetQueue(q),
    });
  }

  /** Features the driver accepted and the device confirmed, bits 0..31. */
  get features(): number {
    return this.#v.driverFeaturesLo;
  }
  get #eventIdx(): boolean {
    return (this.#v.driverFeaturesLo & (1 << VirtioFeature.eventIdx)) !== 0;
  }
  /** 2.1.2: a device that was taken out says so, but for the zero that ends a reset. */
  get #shownStatus(): number {
    const { status } = this.#v;
    return this.#ctx.isolated && status !== 0 ? status | VirtioStatus.needsReset : status;
  }
  get #live(): boolean {
    const { status, resetting } = this.#v;
    if (this.#ctx.isolated) return false;
    return (
      (status & (VirtioStatus.driverOk | VirtioStatus.needsReset)) === VirtioStatus.driverOk && !resetting
    );
  }
  /** Requests that this process has under way. */
  get inFlight(): number {
    return this.#slots.begunCount;
  }
  busy(): boolean {
    return this.inFlight > 0;
  }

  order(order: DeviceOrder['order'], fds: readonly number[]): void {
    this.#device.order?.(order, fds);
  }

  attach(): void {
    this.#device.attach?.();
  }

  // ---- accesses ----

  configRead(_fn: number, register: number, width: number): number {
    return this.fn.read(register, width);
  }
  configWrite(_fn: number, register: number, width: number, value: number): void {
    this.fn.write(register, width, value);
  }

  read(region: number, offset: number, width: number): number {
    if (width === 8) {
      this.#ctx.replyHi = this.read(region, offset + 4, 4);
      return this.read(region, offset, 4);
    }
    if (region === Region.msix) {
      const word = this.msix.read(offset & ~3);
      return width === 4 ? word : ((word >>> (8 * (offset & 3))) & (width === 1 ? 0xff : 0xffff)) >>> 0;
    }
    switch (offset & ~0xfff) {
      case VirtioLayout.common:
        return this.#common.read(offset, width);
      case VirtioLayout.isr:
        return offset === VirtioLayout.isr ? this.#readIsr() : 0;
      case VirtioLayout.device:
        return this.#device.configRead(offset - VirtioLayout.device, width);
      default:
        return 0;
    }
  }

  write(region: number, offset: number, width: number, value: number, valueHi: number): void {
    if (width === 8) {
      this.write(region, offset, 4, value, 0);
      this.write(region, offset + 4, 4, valueHi, 0);
      return;
    }
    if (region === Region.msix) {
      // 6.8.2: software writes whole words; anything else is undefined and has no effect here.
      if (width === 4 && offset % 4 === 0) this.msix.write(offset, value);
      return;
    }
    if (offset >= VirtioLayout.notify) this.#kick((offset - VirtioLayout.notify) >>> 2);
    else if (offset >= VirtioLayout.device)
      this.#device.configWrite(offset - VirtioLayout.device, width, value);
    else if (offset < VirtioLayout.isr) this.#common.write(offset, width, value);
  }

  /** 4.1.4.5.1: reading resets it and takes back the interrupt. */
  #readIsr(): number {
    const { isr } = this.#v;
    this.#v.isr = 0;
    this.#updateIntx();
    return isr;
  }

  /** 4.1.4.9: a register of a BAR through configuration space. */
  #accessTarget(): { region: number; width: number } | undefined {
    const { cfgBar, cfgOffset, cfgLength } = this.#v;
    const bar = virtioBars.find((b) => b.index === cfgBar);
    if (!bar || (cfgLength !== 1 && cfgLength !== 2 && cfgLength !== 4)) return undefined;
    if (cfgOffset % cfgLength !== 0 || cfgOffset + cfgLength > bar.size) return undefined;
    return { region: bar.region, width: cfgLength };
  }
  #accessRead(): number {
    const target = this.#accessTarget();
    return target ? this.read(target.region, this.#v.cfgOffset, target.width) : 0;
  }
  #accessWrite(value: number): void {
    const target = this.#accessTarget();
    if (!target) return;
    const mask = target.width === 4 ? 0xffffffff : (1 << (8 * target.width)) - 1;
    this.write(target.region, this.#v.cfgOffset, target.width, (value & mask) >>> 0, 0);
  }

  // ---- status machine, 3.1 ----

  #writeStatus(value: number): void {
    const v = this.#v;
    if (value === 0) {
      this.#reset();
      return;
    }
    if (v.resetting) return;
    const { status } = v;
    // 2.1.1: the driver only adds bits; NEEDS_RESET is the device's.
    let next = status | (value & ~VirtioStatus.needsReset);
    if (next & ~status & VirtioStatus.featuresOk) {
      const { driverFeaturesLo: lo, driverFeaturesHi: hi } = v;
      const offered = offeredFeatures(this.#device);
      // There is nobody behind a device that was taken out: a driver learns it here.
      const fits =
        !this.#ctx.isolated && (lo & ~offered.lo) === 0 && (hi & ~offered.hi) === 0 && (hi & 1) !== 0;
      if (fits) this.#device.accepted?.(lo & 0xffffff);
      else next &= ~VirtioStatus.featuresOk;
      this.#ctx.log(
        fits ? 'debug' : 'warn',
        `virtio: driver features ${hi.toString(16)}:${lo.toString(16)} ${fits ? 'accepted' : 'refused'}`,
      );
    }
    if (!(next & VirtioStatus.featuresOk)) next &= ~VirtioStatus.driverOk;
    v.status = next;
    if (next & ~status & VirtioStatus.driverOk) {
      this.#ctx.log('info', `virtio: driver ok, queues ${this.queues.filter((q) => q.state.enabled).length}`);
      this.#drainAll();
    }
  }

  /** 2.1.2: an error from which only a reset leads out. */
  #fail(reason: string): void {
    const v = this.#v;
    this.counters.failures++;
    this.#ctx.log('warn', `virtio: needs reset: ${reason}`);
    this.#ctx.raise?.('queueError', { what: reason });
    if (v.status & VirtioStatus.needsReset) return;
    v.status |= VirtioStatus.needsReset;
    if (v.status & VirtioStatus.driverOk) this.configChanged();
  }

  /** Tells the driver that the configuration or the status changed (4.1.5.4). In a handler. */
  configChanged(): void {
    const v = this.#v;
    v.configGeneration = (v.configGeneration + 1) & 0xff;
    v.isr |= Isr.config;
    if (this.msix.enabled) {
      if (v.configVector !== noVector) this.msix.signal(v.configVector);
    } else this.#updateIntx();
  }

  #enableQueue(q: Virtqueue): void {
    if (q.state.enabled || q.state.resetting || this.#v.resetting) return;
    const s = q.state;
    s.enabled = 1;
    s.availIdx = 0;
    s.usedIdx = 0;
    s.signalled = 0;
    if (!q.map()) this.#fail(`rings of queue ${q.index} are not in memory`);
  }

  #resetQueue(q: Virtqueue): void {
    if (!q.state.enabled || !(this.#v.driverFeaturesHi & (1 << (VirtioFeature.ringReset - 32)))) return;
    q.state.enabled = 0;
    q.state.resetting = 1;
    this.#finishQueueResets();
  }

  #finishQueueResets(): void {
    for (const q of this.queues) {
      if (!q.state.resetting) continue;
      let busy = false;
      for (let slot = 0; slot < this.#slots.length; slot++) {
        if (this.#slots.queueOf(slot) !== q.index) continue;
        if (this.#slots.isBegun(slot) || !this.#recovered) busy = true;
        else this.#slots.release(slot);
      }
      if (busy) continue;
      q.unmap();
      const root = q.state.$root;
      resetValues(QueueState, root.mem, root.base + q.state.$offset);
    }
  }

  /** Device reset (2.1, 4.1.4.3.1). The status keeps its value until nothing is in flight, then reads 0. */
  #reset(): void {
    this.#v.resetting = 1;
    if (this.#slots.begunCount === 0) this.#finishReset();
  }

  #finishReset(): void {
    const v = this.#v;
    resetValues(VirtioState, v.$root.mem, v.$root.base + v.$offset);
    for (const q of this.queues) {
      q.unmap();
      resetValues(QueueState, v.$root.mem, v.$root.base + q.state.$offset);
    }
    this.#slots.releaseAll();
    this.#touched = 0;
    this.#device.reset();
    this.#updateIntx();
  }

  #flr(): void {
    this.msix.reset();
    this.#reset();
  }

  /** Machine reset: the state has its reset values; what is in flight must not reach guest memory any more. */
  reset(): void {
    if (!this.#device.drain()) this.#ctx.log('error', 'virtio: requests in flight outlive a machine reset');
    for (const q of this.queues) q.unmap();
    this.#touched = 0;
    this.#starved = false;
    this.#recovered = true;
    this.msix.invalidate();
    this.#device.reset();
    this.fn.reset();
  }

  // ---- interrupts ----

  #updateIntx(): void {
    this.fn.interrupt(!this.msix.enabled && this.#v.isr !== 0);
  }

  /** Command, BARs or MSI-X control changed. */
  #pciChanged(): void {
    this.msix.update();
    this.#updateIntx();
    if (this.#live && this.fn.busMaster) this.#drainAll();
  }

  /** Used buffer notification (2.7.7.2, 4.1.5.3), when the driver wants one. */
  #decide(q: Virtqueue): void {
    if (!q.mapped) return;
    q.remember();
    if (!q.wants(this.#eventIdx)) return;
    q.signal();
    this.counters.notifications++;
    if (this.msix.enabled) {
      if (q.state.vector !== noVector) this.msix.signal(q.state.vector);
    } else {
      this.#v.isr |= Isr.queue;
      this.#updateIntx();
    }
  }

  #decideTouched(): void {
    for (let bits = this.#touched; bits !== 0; bits &= bits - 1)
      this.#decide(this.queues[31 - Math.clz32(bits & -bits)]!);
    this.#touched = 0;
  }

  // ---- requests ----

  #kick(index: number): void {
    this.counters.kicks++;
    const q = this.queues[index];
    if (!q) return;
    this.#drain(q);
    if (this.#touched) this.#decideTouched();
  }

  #drainAll(): void {
    for (const q of this.queues) this.#drain(q);
    this.#decideTouched();
  }

  /** Takes the chains that are available. */
  #drain(q: Virtqueue): void {
    if (!this.#live || !q.state.enabled || !this.fn.busMaster) return;
    if (!q.mapped && !q.map()) {
      this.#fail(`rings of queue ${q.index} are not in memory`);
      return;
    }
    const eventIdx = this.#eventIdx;
    for (let budget = BUDGET; ; ) {
      for (;;) {
        if (budget-- <= 0) {
          this.#again = true;
          return;
        }
        const slot = this.#slots.free();
        if (slot < 0) {
          this.#starved = true;
          return;
        }
        const head = q.next();
        if (head === -1) break;
        if (head === -2) {
          this.#fail(`queue ${q.index}: available ring is broken`);
          return;
        }
        this.#slots.hold(slot, q.index, head);
        if (!this.#begin(slot, q, head)) return;
      }
      if (!q.listen(eventIdx)) return;
    }
  }

  /** Reads the chain of a slot and hands it to the device. */
  #begin(slot: number, q: Virtqueue, head: number): boolean {
    const indirect = (this.#v.driverFeaturesLo & (1 << VirtioFeature.indirectDesc)) !== 0;
    if (!this.#chain.read(q, head, indirect)) {
      this.#slots.release(slot);
      this.#fail(`queue ${q.index} head ${head}: ${this.#chain.error}`);
      return false;
    }
    this.#slots.begin(slot);
    this.counters.taken++;
    this.#device.take(slot, q.index, this.#chain);
    return true;
  }

  /** The request is done and `written` bytes from the start of its writable part are valid. In a handler. */
  finish(slot: number, written: number): void {
    this.#slots.end(slot);
    this.counters.finished++;
    const q = this.queues[this.#slots.queueOf(slot)];
    if (!q) return;
    this.#slots.release(slot);
    if (this.#v.resetting || q.state.resetting || !q.mapped) return;
    q.push(this.#slots.head(slot), written);
    this.#touched |= 1 << q.index;
  }

  /** The request cannot be answered: its chain has no room for an answer. In a handler, within `take`. */
  refuse(slot: number, reason: string): void {
    this.#slots.end(slot);
    this.#slots.release(slot);
    this.#fail(reason);
  }

  /** After a batch of `finish`, in the same handler. */
  finished(): void {
    if (this.#v.resetting && this.#slots.begunCount === 0) this.#finishReset();
    this.#finishQueueResets();
    if (this.#starved) {
      this.#starved = false;
      for (const q of this.queues) this.#drain(q);
    }
    this.#decideTouched();
  }

  // ---- attach, settle ----

  /** Runs again what the predecessor had in flight, oldest first, and looks for doorbells nobody heard. */
  #recover(): void {
    this.#recovered = true;
    const slots = this.#slots.leftover();
    if (slots.length > 0) this.#ctx.log('info', `virtio: ${slots.length} requests in flight are run again`);
    for (const slot of slots) {
      const q = this.queues[this.#slots.queueOf(slot)];
      if (this.#v.resetting || !q || !q.state.enabled || (!q.mapped && !q.map())) this.#slots.release(slot);
      else {
        this.counters.recovered++;
        this.#begin(slot, q, this.#slots.head(slot));
      }
    }
    this.finished();
    this.#drainAll();
  }

  /** A driver fed chains faster than one event may take. */
  timer(): void {
    this.#again = false;
    this.#drainAll();
  }

  settle(): void {
    const ctx = this.#ctx;
    if (ctx.isolated) {
      this.#settleIsolated();
      return;
    }
    let decide = false;
    if (this.#v.status & VirtioStatus.driverOk) {
      const eventIdx = this.#eventIdx;
      for (const q of this.queues) {
        if (!q.state.enabled || (!q.mapped && !q.map())) continue;
        if (q.settle(eventIdx)) decide = true;
      }
    }
    this.msix.settle(ctx);
    ctx.line(Irq.intx, this.fn.state.intxWord);
    ctx.timerAt(this.#again ? 0 : Number.POSITIVE_INFINITY);
    this.#device.submit();
    // An event may run at once and settle again: it comes last.
    if (!this.#recovered && this.#leftover()) ctx.event(this.#recoverEvent);
    else if (decide) {
      this.counters.rechecks++;
      ctx.event(this.#decideEvent);
    }
  }

  /** The driver hears once that the device needs a reset; requests stay in their slots for whoever heals it. */
  #settleIsolated(): void {
    const ctx = this.#ctx;
    this.msix.settle(ctx);
    ctx.line(Irq.intx, this.fn.state.intxWord);
    ctx.timerAt(Number.POSITIVE_INFINITY);
    if (this.#recovered) return;
    this.#recovered = true;
    if (this.#v.status & VirtioStatus.driverOk) ctx.event(() => this.configChanged());
  }

  /** Whether a predecessor may have left something to do. */
  #leftover(): boolean {
    if (this.#live || this.#v.resetting) return true;
    if (this.#slots.leftover().length > 0) return true;
    this.#recovered = this.queues.every((q) => !q.state.resetting);
    return !this.#recovered;
  }
}
