/**
 * A connection to a back-end, from the first word to its end, and then the next one: without a limit of time.
 *
 *   none --connected--> greeted --wanted--> starting --> running --unwanted--> stopping --> greeted
 *      ^------------------------- the connection ends, from any ------------------------'
 *
 * Who connects is the supervisor, which has the socket's path: it is asked for a connection, and sends one when there is one.
 */
import { VirtioFeature } from '@nyx/device';
import { close, openSeqSocket } from '@nyx/native';
import { Frontend, ProtocolFeature, type Region, type RingSetup, version1 } from '@nyx/vhost-user';

export interface SessionOptions {
  /** Socket to the supervisor. */
  connector: number;
  /** Guest memory, and ours. */
  memory: readonly (Region & { fd: number })[];
  rings: readonly RingSetup[];
  /** Features of the device that the driver accepted (bits 0..23); undefined while there is no driver. */
  wanted(): number | undefined;
  /**
   * The back-end is about to look at the rings, and the connection before has ended on its side too: what it may still
   * have written into them meanwhile is to be forgotten.
   */
  starting(): void;
  /** The back-end takes requests from now on, from rings that begin at 0. */
  started(indirect: boolean, eventIdx: boolean): void;
  /** It does not any more; what it had is to be offered again. */
  stopped(): void;
  /** Bytes of configuration that are the back-end's to say, from the first. */
  configBytes: number;
  /** The back-end says that they are these: when it comes, and when it changes them. */
  configured(bytes: Uint8Array): void;
  log(level: 'info' | 'warn', message: string): void;
}

const ask = new TextEncoder().encode('connect');

/** transient: a successor connects anew. */
export class Session {
  readonly #o: SessionOptions;
  readonly #connector;
  #frontend: Frontend | undefined;
  #state: 'none' | 'greeted' | 'starting' | 'running' | 'stopping' = 'none';
  /** Features that it runs with. */
  #features = 0;

  constructor(o: SessionOptions) {
    this.#o = o;
    this.#connector = openSeqSocket(o.connector, {
      maxFds: 1,
      onMessage: (_bytes, fds) => {
        for (const fd of fds) this.#connected(fd);
      },
    });
    this.#connect();
  }

  #connect(): void {
    try {
      this.#connector.send(ask);
    } catch {
      // The supervisor is gone; the guest waits for its disk until there is one again.
    }
  }

  get running(): boolean {
    return this.#state === 'running';
  }
  get connected(): boolean {
    return this.#frontend !== undefined;
  }

  #connected(fd: number): void {
    if (this.#frontend !== undefined) {
      close(fd);
      return;
    }
    const frontend = new Frontend(fd, {
      closed: (reason) => this.#closed(frontend, reason),
      configChanged: () => this.#run(frontend, () => this.#configure(frontend)),
    });
    this.#frontend = frontend;
    this.#run(frontend, async () => {
      await frontend.hello();
      await this.#configure(frontend);
      this.#state = 'greeted';
    });
  }

  async #configure(frontend: Frontend): Promise<void> {
    const { configBytes } = this.#o;
    if (configBytes === 0 || !frontend.has(ProtocolFeature.config)) return;
    const bytes = await frontend.config(0, configBytes);
    if (this.#frontend === frontend) this.#o.configured(bytes);
  }

  #closed(frontend: Frontend, reason: string): void {
    if (this.#frontend !== frontend) return;
    this.#o.log('warn', `back-end gone: ${reason}`);
    this.#frontend = undefined;
    this.#state = 'none';
    this.#o.stopped();
    this.#connect();
  }

  /** Ends the connection; another one is asked for. */
  drop(reason: string): void {
    const frontend = this.#frontend;
    if (frontend === undefined) return;
    frontend.close();
    this.#closed(frontend, reason);
  }

  /** A step of the protocol; when it fails, the connection ends. */
  #run(frontend: Frontend, step: () => Promise<void>): void {
    step().then(
      () => {
        if (this.#frontend === frontend) this.look();
      },
      (e: Error) => {
        if (this.#frontend === frontend) this.drop(e.message);
      },
    );
  }

  /** What is wanted may have changed. */
  look(): void {
    const frontend = this.#frontend;
    if (frontend === undefined) return;
    const wanted = this.#o.wanted();
    if (this.#state === 'greeted' && wanted !== undefined) {
      this.#state = 'starting';
      this.#run(frontend, () => this.#start(frontend, wanted));
    } else if (this.#state === 'running' && wanted !== this.#features) {
      this.#state = 'stopping';
      this.#run(frontend, () => this.#stop(frontend));
    }
  }

  async #start(frontend: Frontend, wanted: number): Promise<void> {
    const { lo, hi } = frontend.offered;
    const { rings, memory } = this.#o;
    if (wanted & ~lo)
      throw new Error(`it does not offer features 0x${(wanted & ~lo).toString(16)}, which the guest uses`);
    if (!(hi & version1)) throw new Error('it does not offer VIRTIO_F_VERSION_1');
    if (rings.length > frontend.queues)
      throw new Error(`it has ${frontend.queues} queues, ${rings.length} are used`);
    const own = lo & ((1 << VirtioFeature.indirectDesc) | (1 << VirtioFeature.eventIdx));
    await frontend.setFeatures((wanted | own) >>> 0, version1);
    if (!this.#mapped.has(frontend)) await frontend.setMemory(memory);
    this.#mapped.add(frontend);
    this.#o.starting();
    for (const ring of rings) await frontend.startRing(ring);
    if (this.#frontend !== frontend) return;
    this.#state = 'running';
    this.#features = wanted;
    this.#o.log('info', 'back-end takes requests');
    this.#o.started(
      (own & (1 << VirtioFeature.indirectDesc)) !== 0,
      (own & (1 << VirtioFeature.eventIdx)) !== 0,
    );
  }
  readonly #mapped = new WeakSet<Frontend>();

  /** What is under way ends first. */
  async #stop(frontend: Frontend): Promise<void> {
    for (const ring of this.#o.rings) await frontend.stopRing(ring.index);
    if (this.#frontend !== frontend) return;
    this.#o.stopped();
    this.#state = 'greeted';
  }

  /** The driver wrote to the device's configuration. */
  configWrite(offset: number, bytes: Uint8Array): void {
    this.#frontend?.setConfig(offset, bytes).catch((e: Error) => this.#o.log('warn', e.message));
  }
}
