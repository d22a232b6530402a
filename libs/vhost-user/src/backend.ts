/**
 * The back-end of vhost-user: what a front-end says on the socket, done to a device. One front-end at a time; when it
 * goes, the back-end is as new.
 */
import { VirtioFeature } from '@nyx/device';
import { close, fileSize, memfdCreate, mmap, munmap } from '@nyx/native';
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
import type { BackendRing } from './ring.ts';
import { type BackendDevice, Worker, type WorkerOptions } from './worker.ts';

export interface BackendOptions extends WorkerOptions {
  /** The configuration is not what a predecessor's front-end knows: it is told once it is there again. */
  changed?: boolean;
}

/** A front-end that has said nothing for so long is done with its setting up, ms. */
const SETTLED_MS = 100;

let offeredProtocol = 0;
for (const bit of Object.values(ProtocolFeature)) offeredProtocol |= 1 << bit;

export class Backend {
  readonly memory = new RegionMemory();
  readonly #worker: Worker;
  readonly #log: BackendOptions['log'];
  #protocol = 0;
  #status = 0;
  #connection: Connection | undefined;
  #requests: Connection | undefined;
  #inflight: { buffer: ArrayBuffer } | undefined;
  #changed: boolean;
  #settled: NodeJS.Timeout | undefined;

  constructor(o: BackendOptions) {
    this.#worker = new Worker(this.memory, o);
    this.#log = o.log;
    this.#changed = o.changed ?? false;
  }

  get device(): BackendDevice {
    return this.#worker.device;
  }
  get rings(): readonly BackendRing[] {
    return this.#worker.rings;
  }
  get counters(): Worker['counters'] {
    return this.#worker.counters;
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

  get connected(): boolean {
    return this.#connection !== undefined;
  }

  /** Serves this front-end; the one before is gone. */
  serve(fd: number, gone: () => void): void {
    this.#connection = connect(fd, {
      message: (m) => this.#message(m),
      closed: (reason) => {
        this.#log('info', `front-end gone${reason ? `: ${reason}` : ''}`);
        this.#detach();
        gone();
      },
    });
  }

  /** Ends what is under way, and the connection. */
  close(): void {
    if (this.#connection) this.#connection.close('the back-end ends');
    else this.#worker.quiesce();
  }

  #detach(): void {
    this.#worker.quiesce();
    this.#connection = undefined;
    this.#requests?.close();
    this.#requests = undefined;
    this.#resetRings();
    this.memory.logging = false;
    this.memory.setLog(undefined);
    this.memory.clear();
    this.#dropInflight();
    this.device.reset();
    this.#worker.features = 0;
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

  /** The device's configuration changed: the front-end is told, if it listens. */
  configChanged(): void {
    this.#requests?.send(BackendRequest.configChange, 0);
  }

  /** What is told to a front-end that is still setting up, it may forget (QEMU does). */
  #tellLater(): void {
    clearTimeout(this.#settled);
    this.#settled = setTimeout(() => {
      if (!this.#requests || !this.rings.some((r) => r.ready)) return;
      this.#changed = false;
      this.configChanged();
    }, SETTLED_MS);
    this.#settled.unref();
  }

  // ---- messages ----

  #message(m: Message): void {
    if (this.#changed) this.#tellLater();
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
      this.#log('warn', `${name ?? `request ${m.request}`}: ${code}: ${message}`);
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
        this.#worker.quiesce();
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
        this.#worker.quiesce();
        for (const r of this.rings) r.forget();
        this.memory.clear();
        for (const [i, r] of regions.entries()) this.memory.add(r, fds[i]!);
        this.#worker.run();
        return undefined;
      }
      case 'getMaxMemSlots':
        return { bytes: packHalves(Limit.memSlots, 0) };
      case 'addMemReg':
        this.memory.add(memRegion(p), fds[0]!);
        this.#worker.run();
        return undefined;
      case 'remMemReg':
        this.#worker.quiesce();
        for (const r of this.rings) r.forget();
        this.memory.remove(memRegion(p));
        this.#worker.run();
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
        this.#worker.quiesce();
        return { bytes: pack([ring.index, 4], [ring.stop(), 4]) };
      }
      case 'setVringKick': {
        const { index, fd } = vringEvent(p);
        const ring = this.#ring(index);
        if (fd && fds.length !== 1) throw vhostError('VHOST_MESSAGE', 'setVringKick without its descriptor');
        // Without protocol features there is no SET_VRING_ENABLE.
        if (!(this.#worker.features & (1 << VhostFeature.protocolFeatures))) ring.enabled = true;
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
        if (num === 0 && ring.enabled) this.#worker.quiesce();
        ring.enabled = num === 1;
        this.#worker.run();
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
          this.#worker.quiesce();
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
    const before = this.#worker.features;
    this.#worker.features = lo;
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
}
