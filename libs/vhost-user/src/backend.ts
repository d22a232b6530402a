/**
 * The back-end of vhost-user: what a front-end says on the socket, done to a device. One front-end at a time; when it
 * goes, the back-end is as new.
 *
 * The work is one loop (`#run`): take chains, let the device begin them, see what is done, show it. It goes on while
 * there is work and a little longer, because a doorbell costs the guest an exit and us a wake-up; then it asks for
 * doorbells, looks once more, and returns to the event loop.
 */
import { Chain, type GuestMemory, VirtioFeature } from '@nyx/device';
import { close, cpuCount, createSpinPolicy, fileSize, memfdCreate, mmap, munmap } from '@nyx/native';
import { type Connection, connect } from './connection.ts';
import { Inflight, inflightBytes } from './inflight.ts';
import { RegionMemory } from './memory.ts';
import {
  BackendRequest,
  check,
  configMessage,
  Flag,
  halves,
  inflightMessage,
  Limit,
  logBase,
  type Message,
  memRegion,
  memTable,
  ProtocolFeature,
  pack,
  packConfig,
  packHalves,
  packInflight,
  type RequestName,
  VhostFeature,
  vhostError,
  vringAddr,
  vringEvent,
  vringState,
} from './protocol.ts';
import { BackendRing } from './ring.ts';

/** What a device is to the back-end; a virtio device of the kit that needs no PCI function. */
export interface BackendDevice {
  readonly queues: number;
  /** Device feature bits 0..23. */
  readonly features: number;
  configRead(offset: number, width: number): number;
  configWrite(offset: number, width: number, value: number): void;
  accepted?(features: number): void;
  /** Request in `slot`: the chain is valid only during the call. Ends with `finish(slot)`, now or later. */
  take(slot: number, queue: number, chain: Chain): void;
  /** Starts what `take` prepared. */
  submit(): void;
  /** Reports what is done by now. */
  poll(): void;
  /** Ends everything that is under way; false when it took longer. */
  quiesce(timeoutMs: number): boolean;
  /** Registers to their reset values; nothing is under way. */
  reset(): void;
}

/** What the device is given. */
export interface BackendTransport {
  readonly memory: GuestMemory;
  /** Accepted features, bits 0..31. */
  readonly features: number;
  finish(slot: number, written: number): void;
  finished(): void;
  refuse(slot: number, reason: string): void;
  /** Something became done outside of `take`, `submit` and `poll`. */
  event(change: () => void): void;
}

export interface BackendOptions {
  make(transport: BackendTransport): BackendDevice;
  /** Requests under way at most. */
  slots: number;
  log(level: 'debug' | 'info' | 'warn' | 'error', message: string): void;
  /** The back-end cannot go on: what is under way does not end. */
  fatal(reason: string): never;
  /** Longest time to look for work before sleeping, ns (default 50,000; 0: never). */
  spinNs?: number;
}

/** Longest stay in the loop before the event loop has its turn, ms. */
const BUSY_MS = 1;
/** Chains taken from a ring at once. */
const BATCH = 64;
const QUIESCE_MS = 30_000;

let offeredProtocol = 0;
for (const bit of Object.values(ProtocolFeature)) offeredProtocol |= 1 << bit;

export class Backend {
  readonly memory = new RegionMemory();
  readonly device: BackendDevice;
  readonly rings: readonly BackendRing[];
  readonly counters = { requests: 0, batches: 0, calls: 0, sleeps: 0, recovered: 0 };
  readonly #o: BackendOptions;
  readonly #chain: Chain;
  readonly #free: Int32Array;
  #freeCount: number;
  readonly #ringOf: Uint8Array;
  readonly #headOf: Uint16Array;
  /** Features that were accepted, bits 0..31. */
  #lo = 0;
  #protocol = 0;
  #status = 0;
  #connection: Connection | undefined;
  #requests: Connection | undefined;
  #inflight: { buffer: ArrayBuffer } | undefined;
  readonly #spinNs: number;
  readonly #spin;
  #running = false;
  #scheduled = false;
  /** When the last work was done, ms. */
  #lastWork = 0;
  readonly #kicked = (): void => this.#run();

  constructor(o: BackendOptions) {
    this.#o = o;
    this.#spinNs = cpuCount() > 1 ? (o.spinNs ?? 50_000) : 0;
    this.#spin = createSpinPolicy(this.#spinNs);
    this.#chain = new Chain(this.memory);
    this.#free = Int32Array.from({ length: o.slots }, (_, i) => o.slots - 1 - i);
    this.#freeCount = o.slots;
    this.#ringOf = new Uint8Array(o.slots);
    this.#headOf = new Uint16Array(o.slots);
    const self = this;
    this.device = o.make({
      memory: this.memory,
      get features() {
        return self.#lo;
      },
      finish: (slot, written) => this.#finish(slot, written),
      finished: () => {},
      refuse: (slot, reason) => {
        this.#fail(this.#ringOf[slot]!, reason);
        this.#free[this.#freeCount++] = slot;
      },
      event: (change) => {
        change();
        this.#run();
      },
    });
    this.rings = Array.from(
      { length: this.device.queues },
      (_, i) => new BackendRing(i, this.memory, this.#kicked),
    );
  }

  /** Feature bits 0..31 that are offered. */
  get offered(): number {
    const { indirectDesc, eventIdx } = VirtioFeature;
    const { logAll, protocolFeatures } = VhostFeature;
    return (
      (this.device.features |
        (1 << indirectDesc) |
        (1 << eventIdx) |
        (1 << logAll) |
        (1 << protocolFeatures)) >>>
      0
    );
  }

  get busy(): number {
    return this.#o.slots - this.#freeCount;
  }
  get connected(): boolean {
    return this.#connection !== undefined;
  }

  /** Serves this front-end; the one before is gone. */
  serve(fd: number, gone: () => void): void {
    this.#connection = connect(fd, {
      message: (m) => this.#message(m),
      closed: (reason) => {
        this.#o.log('info', `front-end gone${reason ? `: ${reason}` : ''}`);
        this.#detach();
        gone();
      },
    });
  }

  #detach(): void {
    this.#quiesce();
    this.#connection = undefined;
    this.#requests?.close();
    this.#requests = undefined;
    this.#resetRings();
    this.memory.logging = false;
    this.memory.setLog(undefined);
    this.memory.clear();
    this.#dropInflight();
    this.device.reset();
    this.#lo = 0;
    this.#protocol = 0;
    this.#status = 0;
  }

  #dropInflight(): void {
    for (const r of this.rings) r.inflight = undefined;
    if (this.#inflight) munmap(this.#inflight.buffer);
    this.#inflight = undefined;
  }

  #resetRings(): void {
    for (const r of this.rings) r.reset();
  }

  /** Ends all that is under way. */
  #quiesce(): void {
    const running = this.#running;
    // Nothing new is taken meanwhile.
    this.#running = true;
    if (!this.device.quiesce(QUIESCE_MS)) this.#o.fatal(`requests did not end in ${QUIESCE_MS / 1000} s`);
    this.#publish();
    this.#running = running;
  }

  /** The device's configuration changed: the front-end is told, if it listens. */
  configChanged(): void {
    this.#requests?.send(BackendRequest.configChange, 0);
  }

  // ---- messages ----

  #message(m: Message): void {
    const acked =
      (this.#protocol & (1 << ProtocolFeature.replyAck)) !== 0 && (m.flags & Flag.needReply) !== 0;
    /** Not taken over by anybody yet. */
    const fds = [...m.fds];
    let name: RequestName | undefined;
    try {
      name = check(m, this.#protocol);
      const reply = this.#do(name, m, fds);
      if (reply) this.#connection?.send(m.request, Flag.reply, reply.bytes, reply.fds);
      else if (acked) this.#connection?.send(m.request, Flag.reply, packHalves(0, 0));
    } catch (e) {
      const { code = 'VHOST_FAILED', message } = e as { code?: string; message: string };
      this.#o.log('warn', `${name ?? `request ${m.request}`}: ${code}: ${message}`);
      // A front-end that asked for an answer decides; with any other we are out of step.
      if (acked && code !== 'VHOST_MESSAGE') this.#connection?.send(m.request, Flag.reply, packHalves(1, 0));
      else this.#connection?.close(message);
    } finally {
      for (const fd of fds) if (fd >= 0) close(fd);
    }
  }

  #ring(index: number): BackendRing {
    const ring = this.rings[index];
    if (ring === undefined) throw vhostError('VHOST_VALUE', `ring ${index}, there are ${this.rings.length}`);
    return ring;
  }

  /** Does it; what is taken over of `fds` is replaced by -1. */
  #do(name: RequestName, m: Message, fds: number[]): { bytes: Uint8Array; fds?: number[] } | undefined {
    const { payload: p } = m;
    const take = (i: number): number => {
      const fd = fds[i] ?? -1;
      fds[i] = -1;
      return fd;
    };
    switch (name) {
      case 'getFeatures':
        return { bytes: packHalves(this.offered, 1) };
      case 'setFeatures':
        return this.#setFeatures(halves(p));
      case 'setOwner':
        return undefined;
      case 'resetOwner':
      case 'resetDevice':
        this.#quiesce();
        this.#resetRings();
        this.device.reset();
        return undefined;
      case 'getProtocolFeatures':
        return { bytes: packHalves(offeredProtocol, 0) };
      case 'setProtocolFeatures': {
        const { lo, hi } = halves(p);
        if (lo & ~offeredProtocol || hi)
          throw vhostError('VHOST_VALUE', `protocol features ${hi}:${lo.toString(16)}`);
        this.#protocol = lo;
        return undefined;
      }
      case 'getQueueNum':
        return { bytes: packHalves(this.rings.length, 0) };
      case 'setMemTable': {
        const regions = memTable(p, fds.length);
        this.#quiesce();
        for (const r of this.rings) r.forget();
        this.memory.clear();
        for (const [i, r] of regions.entries()) this.memory.add(r, fds[i]!);
        this.#run();
        return undefined;
      }
      case 'getMaxMemSlots':
        return { bytes: packHalves(Limit.memSlots, 0) };
      case 'addMemReg':
        this.memory.add(memRegion(p), fds[0]!);
        this.#run();
        return undefined;
      case 'remMemReg':
        this.#quiesce();
        for (const r of this.rings) r.forget();
        this.memory.remove(memRegion(p));
        this.#run();
        return undefined;
      case 'setLogBase': {
        const { bytes, offset } = logBase(p);
        if (fds.length !== 1) throw vhostError('VHOST_MESSAGE', 'setLogBase without a descriptor');
        this.memory.setLog({ bytes, offset, fd: fds[0]! });
        return { bytes: packHalves(0, 0) };
      }
      case 'setLogFd':
        // Somebody who would like to be woken when the log is written to; nobody does, the log is polled.
        return undefined;
      case 'setVringNum': {
        const { index, num } = vringState(p);
        this.#ring(index).setSize(num);
        return undefined;
      }
      case 'setVringAddr': {
        const a = vringAddr(p);
        this.#ring(a.index).setAddr(a);
        return undefined;
      }
      case 'setVringBase': {
        const { index, num } = vringState(p);
        this.#ring(index).setBase(num);
        return undefined;
      }
      case 'getVringBase': {
        const ring = this.#ring(vringState(p).index);
        this.#quiesce();
        return { bytes: pack([ring.index, 4], [ring.stop(), 4]) };
      }
      case 'setVringKick': {
        const { index, fd } = vringEvent(p);
        const ring = this.#ring(index);
        if (fd && fds.length !== 1) throw vhostError('VHOST_MESSAGE', 'setVringKick without its descriptor');
        // Without protocol features there is no SET_VRING_ENABLE.
        if (!(this.#lo & (1 << VhostFeature.protocolFeatures))) ring.enabled = true;
        ring.start(fd ? take(0) : -1);
        return undefined;
      }
      case 'setVringCall':
        this.#ring(vringEvent(p).index).setCall(take(0));
        return undefined;
      case 'setVringErr':
        this.#ring(vringEvent(p).index).setErr(take(0));
        return undefined;
      case 'setVringEnable': {
        const { index, num } = vringState(p);
        const ring = this.#ring(index);
        if (num > 1) throw vhostError('VHOST_VALUE', `enable is ${num}, expected 0 or 1`);
        if (num === 0 && ring.enabled) this.#quiesce();
        ring.enabled = num === 1;
        this.#run();
        return undefined;
      }
      case 'setBackendReqFd':
        this.#requests?.close();
        this.#requests = connect(fds[0]!, { message() {}, closed() {} });
        take(0);
        return undefined;
      case 'getConfig': {
        const c = configMessage(p);
        const bytes = Uint8Array.from({ length: c.bytes.length }, (_, i) =>
          this.device.configRead(c.offset + i, 1),
        );
        return { bytes: packConfig({ ...c, bytes }) };
      }
      case 'setConfig': {
        const c = configMessage(p);
        for (const [i, b] of c.bytes.entries()) this.device.configWrite(c.offset + i, 1, b);
        return undefined;
      }
      case 'getInflightFd':
        return this.#getInflight(p.byteLength, inflightMessage(p, false));
      case 'setInflightFd':
        this.#setInflight(inflightMessage(p, true), fds[0]!);
        return undefined;
      case 'setStatus': {
        const { lo } = halves(p);
        if (lo === 0) {
          this.#quiesce();
          this.#resetRings();
          this.device.reset();
        }
        this.#status = lo & 0xff;
        return undefined;
      }
      case 'getStatus':
        return { bytes: packHalves(this.#status, 0) };
    }
  }

  #setFeatures({ lo, hi }: { lo: number; hi: number }): undefined {
    const hiOffered = 1 << (VirtioFeature.version1 - 32);
    if (lo & ~this.offered || hi & ~hiOffered)
      throw vhostError('VHOST_VALUE', `features ${hi.toString(16)}:${lo.toString(16)} were not offered`);
    const before = this.#lo;
    this.#lo = lo;
    this.memory.logging = (lo & (1 << VhostFeature.logAll)) !== 0;
    // Migration begins and ends by this message too: it says nothing new to the device then.
    if ((lo ^ before) & 0xffffff || before === 0) this.device.accepted?.(lo & 0xffffff);
    return undefined;
  }

  #getInflight(size: number, m: { queues: number; queueSize: number }): { bytes: Uint8Array; fds: number[] } {
    const { queues, queueSize } = this.#inflightOf(m);
    const total = queues * inflightBytes(queueSize);
    const fd = memfdCreate('vhost-inflight', Math.ceil(total / 4096) * 4096);
    // As long as the front-end's own structure, which may be padded.
    const bytes = new Uint8Array(size);
    bytes.set(packInflight({ bytes: total, offset: 0, queues, queueSize }));
    setImmediate(() => close(fd));
    return { bytes, fds: [fd] };
  }

  #setInflight(m: { bytes: number; offset: number; queues: number; queueSize: number }, fd: number): void {
    const { queues, queueSize } = this.#inflightOf(m);
    const each = inflightBytes(queueSize);
    const skew = m.offset % 4096;
    if (m.bytes < queues * each || m.offset + m.bytes > fileSize(fd))
      throw vhostError('VHOST_VALUE', `${m.bytes} bytes for ${queues} rings of ${queueSize}`);
    this.#dropInflight();
    const buffer = mmap(fd, skew + m.bytes, { offset: m.offset - skew });
    this.#inflight = { buffer };
    for (let i = 0; i < queues; i++)
      this.#ring(i).inflight = new Inflight(buffer, skew + i * each, queueSize);
  }

  #inflightOf<T extends { queues: number; queueSize: number }>(m: T): T {
    if (m.queues < 1 || m.queues > this.rings.length || m.queueSize < 1 || m.queueSize > Limit.queueSize)
      throw vhostError('VHOST_VALUE', `in-flight region for ${m.queues} rings of ${m.queueSize}`);
    return m;
  }

  // ---- requests ----

  get #eventIdx(): boolean {
    return (this.#lo & (1 << VirtioFeature.eventIdx)) !== 0;
  }

  #fail(index: number, reason: string): void {
    this.#o.log('warn', `ring ${index}: ${reason}`);
    this.rings[index]!.fail();
  }

  #finish(slot: number, written: number): void {
    const ring = this.rings[this.#ringOf[slot]!]!;
    const head = this.#headOf[slot]!;
    this.#free[this.#freeCount++] = slot;
    if (!ring.queue.mapped) return;
    ring.inflight?.finish(head);
    ring.queue.push(head, written);
    ring.touched = true;
  }

  #begin(ring: BackendRing, head: number): boolean {
    const slot = this.#free[--this.#freeCount]!;
    this.#ringOf[slot] = ring.index;
    this.#headOf[slot] = head;
    const indirect = (this.#lo & (1 << VirtioFeature.indirectDesc)) !== 0;
    if (!this.#chain.read(ring.queue, head, indirect)) {
      this.#free[this.#freeCount++] = slot;
      this.#fail(ring.index, `head ${head}: ${this.#chain.error}`);
      return false;
    }
    this.counters.requests++;
    this.device.take(slot, ring.index, this.#chain);
    return !ring.broken;
  }

  /** Takes chains that are available; how many. */
  #take(ring: BackendRing): number {
    const { queue } = ring;
    if (!queue.mapped && !this.#map(ring)) return 0;
    let taken = 0;
    for (; ring.again.length > 0 && this.#freeCount > 0; taken++)
      if (!this.#begin(ring, ring.again.shift()!)) return taken;
    while (taken < BATCH && this.#freeCount > 0) {
      const head = queue.next();
      if (head === -1) break;
      if (head === -2) {
        this.#fail(ring.index, 'the available ring is broken');
        break;
      }
      ring.inflight?.take(head);
      taken++;
      if (!this.#begin(ring, head)) break;
    }
    return taken;
  }

  /** Memory may still be on its way: not to be found yet is no error of the driver. */
  #map(ring: BackendRing): boolean {
    if (!ring.map()) return false;
    const n = ring.again.length;
    if (n > 0) this.#o.log('info', `ring ${ring.index}: ${n} requests in flight are run again`);
    this.counters.recovered += n;
    return true;
  }

  #publish(): number {
    let shown = 0;
    const eventIdx = this.#eventIdx;
    for (const ring of this.rings)
      if (ring.touched) {
        ring.publish(eventIdx);
        shown++;
      }
    return shown;
  }

  #run(): void {
    if (this.#running) return;
    this.#running = true;
    const began = performance.now();
    if (this.#lastWork > 0) this.#spin.arrived((began - this.#lastWork) * 1e6, true);
    const spinMs = this.#spin.next() / 1e6;
    let worked = began;
    for (let round = 0; ; round++) {
      let done = 0;
      for (const ring of this.rings) if (ring.ready) done += this.#take(ring);
      if (done > 0) this.device.submit();
      if (this.busy > 0) this.device.poll();
      done += this.#publish();
      if (done > 0) {
        this.counters.batches++;
        // The clock is looked at now and then only.
        if (round % 32 !== 31) continue;
      }
      const now = performance.now();
      if (done > 0) worked = now;
      else if (now - worked >= spinMs) {
        if (this.#listen()) continue;
        break;
      }
      if (now - began > BUSY_MS) {
        this.#again();
        break;
      }
    }
    this.#lastWork = worked;
    this.#running = false;
  }

  /** The event loop first. */
  #again(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#lastWork = 0;
      this.#run();
    });
  }

  /** Asks for doorbells. True when a chain came meanwhile. */
  #listen(): boolean {
    const eventIdx = this.#eventIdx;
    let more = false;
    for (const ring of this.rings)
      if (ring.ready && ring.queue.mapped && this.#freeCount > 0 && ring.queue.listen(eventIdx)) more = true;
    if (!more) this.counters.sleeps++;
    return more;
  }
}
