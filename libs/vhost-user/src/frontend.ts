/**
 * The front-end of vhost-user: what a guest's device says to a back-end. Every request waits a bounded time for its
 * answer; a back-end that breaks the protocol ends the connection, and nothing else.
 */
import { VirtioFeature } from '@nyx/device';
import { close, streamPair } from '@nyx/native';
import { type Connection, connect } from './connection.ts';
import {
  BackendRequest,
  configMessage,
  Flag,
  halves,
  type InflightMessage,
  inflightMessage,
  type Message,
  ProtocolFeature,
  pack,
  packConfig,
  packHalves,
  packInflight,
  packMemRegion,
  packMemTable,
  packVringAddr,
  type Region,
  Request,
  type RequestName,
  shapes,
  u64,
  VhostFeature,
  type VringAddr,
  vhostError,
  vringState,
} from './protocol.ts';

/** One ring as the back-end is to know it. */
export interface RingSetup extends VringAddr {
  size: number;
  /** Available index to go on from. */
  base: number;
  kick: number;
  call: number;
}

export interface FrontendOptions {
  /** The connection ended; told once, not after `close`. */
  closed(reason: string): void;
  /** The back-end says that its device's configuration changed. */
  configChanged?(): void;
  /** Longest wait for an answer, ms (default 5000). */
  timeoutMs?: number;
}

interface Pending {
  name: RequestName;
  resolve(m: Message): void;
  reject(e: Error): void;
  timer: NodeJS.Timeout;
}

/** Protocol features that we use when the back-end has them. */
const wanted = [
  ProtocolFeature.mq,
  ProtocolFeature.replyAck,
  ProtocolFeature.backendReq,
  ProtocolFeature.config,
  ProtocolFeature.inflightShmfd,
  ProtocolFeature.resetDevice,
  ProtocolFeature.configureMemSlots,
  ProtocolFeature.status,
].reduce((bits: number, b) => bits | (1 << b), 0);

export class Frontend {
  /** Features that the back-end offers, bits 0..31 and 32..63. */
  offered = { lo: 0, hi: 0 };
  /** Protocol features in use. */
  protocol = 0;
  /** Queues that it has; Infinity when it does not say. */
  queues = Number.POSITIVE_INFINITY;
  readonly #connection: Connection;
  readonly #pending: Pending[] = [];
  readonly #timeoutMs: number;
  readonly #configChanged: () => void;
  /** The channel on which the back-end asks. */
  #requests: Connection | undefined;
  #closed: string | undefined;

  /** @param fd connected stream socket; ours from now on */
  constructor(fd: number, o: FrontendOptions) {
    this.#timeoutMs = o.timeoutMs ?? 5000;
    this.#configChanged = () => o.configChanged?.();
    this.#connection = connect(fd, {
      message: (m) => this.#reply(m),
      closed: (reason = 'the back-end closed the connection') => {
        const own = this.#closed !== undefined;
        this.#closed ??= reason;
        this.#requests?.close();
        this.#requests = undefined;
        for (const p of this.#pending.splice(0)) {
          clearTimeout(p.timer);
          p.reject(vhostError('VHOST_CLOSED', this.#closed));
        }
        if (!own) o.closed(reason);
      },
    });
  }

  close(): void {
    this.#closed ??= 'closed';
    this.#connection.close(this.#closed);
  }

  has(feature: number): boolean {
    return (this.protocol & (1 << feature)) !== 0;
  }

  #reply(m: Message): void {
    const p = this.#pending.shift();
    if (p === undefined || m.request !== Request[p.name] || !(m.flags & Flag.reply)) {
      if (p) {
        clearTimeout(p.timer);
        p.reject(vhostError('VHOST_MESSAGE', `an answer to ${m.request}, expected one to ${p.name}`));
      }
      this.#connection.close(`the back-end answered request ${m.request}, which nobody waits for`);
      return;
    }
    clearTimeout(p.timer);
    p.resolve(m);
  }

  #wait(name: RequestName): Promise<Message> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => this.#connection.close(`no answer to ${name} in ${this.#timeoutMs} ms`),
        this.#timeoutMs,
      );
      this.#pending.push({ name, resolve, reject, timer });
    });
  }

  /** A request with an answer of its own, of at least `bytes` bytes. @throws VHOST_CLOSED, VHOST_MESSAGE */
  async ask(
    name: RequestName,
    payload?: Uint8Array,
    bytes = 8,
    fds: readonly number[] = [],
  ): Promise<Message> {
    if (this.#closed !== undefined) throw vhostError('VHOST_CLOSED', this.#closed);
    const answer = this.#wait(name);
    this.#connection.send(Request[name], 0, payload, fds);
    const m = await answer;
    if (m.payload.byteLength < bytes)
      throw vhostError(
        'VHOST_MESSAGE',
        `${m.payload.byteLength} bytes in answer to ${name}, expected ${bytes}`,
      );
    return m;
  }

  /** A request without one; with REPLY_ACK it waits until it was done. @throws VHOST_CLOSED, VHOST_REFUSED */
  async tell(name: RequestName, payload?: Uint8Array, fds: readonly number[] = []): Promise<void> {
    if (this.#closed !== undefined) throw vhostError('VHOST_CLOSED', this.#closed);
    if (shapes[name].reply) throw vhostError('VHOST_MESSAGE', `${name} has an answer`);
    if (!this.has(ProtocolFeature.replyAck)) {
      this.#connection.send(Request[name], 0, payload, fds);
      return;
    }
    const answer = this.#wait(name);
    this.#connection.send(Request[name], Flag.needReply, payload, fds);
    const { payload: p } = await answer;
    if (p.byteLength < 8 || u64(p, 0) !== 0) throw vhostError('VHOST_REFUSED', `${name} was refused`);
  }

  /** Finds out what the back-end is, before any feature of the device is chosen. */
  async hello(): Promise<void> {
    this.offered = halves((await this.ask('getFeatures')).payload);
    if (this.offered.lo & (1 << VhostFeature.protocolFeatures)) {
      const { lo } = halves((await this.ask('getProtocolFeatures')).payload);
      const protocol = lo & wanted;
      await this.tell('setProtocolFeatures', packHalves(protocol >>> 0, 0));
      this.protocol = protocol;
      if (this.has(ProtocolFeature.backendReq)) await this.#hear();
      if (this.has(ProtocolFeature.mq)) this.queues = halves((await this.ask('getQueueNum')).payload).lo;
    }
    await this.tell('setOwner');
  }

  /** Gives the back-end a channel to ask on. What is not understood is refused, if the back-end wants to know. */
  async #hear(): Promise<void> {
    const [mine, theirs] = streamPair();
    const requests = connect(mine, {
      message: ({ request, flags, fds }) => {
        for (const fd of fds) close(fd);
        const known = request === BackendRequest.configChange;
        if (known) this.#configChanged();
        if (flags & Flag.needReply) requests.send(request, Flag.reply, packHalves(known ? 0 : 1, 0));
      },
      closed() {},
    });
    this.#requests = requests;
    try {
      await this.tell('setBackendReqFd', undefined, [theirs]);
    } finally {
      close(theirs);
    }
  }

  /** Bytes of the device's configuration. @throws VHOST_REFUSED when it has none to give */
  async config(offset: number, bytes: number): Promise<Uint8Array> {
    const m = await this.ask('getConfig', packConfig({ offset, flags: 0, bytes: new Uint8Array(bytes) }), 12);
    const c = configMessage(m.payload);
    if (c.bytes.length < bytes)
      throw vhostError('VHOST_REFUSED', `no ${bytes} bytes of configuration at ${offset}`);
    return c.bytes;
  }
  setConfig(offset: number, bytes: Uint8Array): Promise<void> {
    return this.tell('setConfig', packConfig({ offset, flags: 0, bytes }));
  }

  /** The memory that it may see. */
  async setMemory(regions: readonly (Region & { fd: number })[]): Promise<void> {
    if (this.has(ProtocolFeature.configureMemSlots)) {
      for (const r of regions) await this.tell('addMemReg', packMemRegion(r), [r.fd]);
    } else
      await this.tell(
        'setMemTable',
        packMemTable(regions),
        regions.map((r) => r.fd),
      );
  }

  /** In-flight memory of the back-end's making; its descriptor is the caller's. @throws VHOST_MESSAGE */
  async getInflight(queues: number, queueSize: number): Promise<InflightMessage & { fd: number }> {
    const m = await this.ask('getInflightFd', packInflight({ bytes: 0, offset: 0, queues, queueSize }), 20);
    const [fd] = m.fds;
    if (fd === undefined) throw vhostError('VHOST_MESSAGE', 'in-flight memory without a descriptor');
    return { ...inflightMessage(m.payload, true), fd };
  }
  setInflight(m: InflightMessage, fd: number): Promise<void> {
    return this.tell('setInflightFd', packInflight(m), [fd]);
  }

  /** @param lo features of the device and its rings, bits 0..31 */
  async setFeatures(lo: number, hi: number): Promise<void> {
    const bits = this.offered.lo & (1 << VhostFeature.protocolFeatures);
    await this.tell('setFeatures', packHalves((lo | bits) >>> 0, hi));
  }

  /** Sets a ring up and starts it. */
  async startRing(r: RingSetup): Promise<void> {
    const state = (n: number): Uint8Array => pack([r.index, 4], [n, 4]);
    await this.tell('setVringNum', state(r.size));
    await this.tell('setVringAddr', packVringAddr(r));
    await this.tell('setVringBase', state(r.base));
    await this.tell('setVringCall', packHalves(r.index, 0), [r.call]);
    await this.tell('setVringKick', packHalves(r.index, 0), [r.kick]);
    if (this.offered.lo & (1 << VhostFeature.protocolFeatures)) await this.tell('setVringEnable', state(1));
  }

  /** Stops a ring when all it has taken is done; gives the available index to go on from. */
  async stopRing(index: number): Promise<number> {
    const m = await this.ask('getVringBase', pack([index, 4], [0, 4]));
    return vringState(m.payload).num & 0xffff;
  }
}

/** VIRTIO_F_VERSION_1 among bits 32..63. */
export const version1 = 1 << (VirtioFeature.version1 - 32);
