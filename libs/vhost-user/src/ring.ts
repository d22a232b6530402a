/**
 * One ring of the back-end: the split virtqueue of the device kit, with what vhost-user puts around it: addresses of
 * the front-end, descriptors for kick and call, in-flight tracking.
 *
 *     stopped --kick descriptor--> started --addresses found, in-flight chains taken again--> mapped --GET_VRING_BASE--> stopped
 *
 * Chains are taken only while it is started, enabled and not broken.
 */
import { QueueState, Virtqueue } from '@nyx/device';
import { Memory, resetValues, view } from '@nyx/layout';
import { close, eventfdWrite, setNonblock, type Watch, watch } from '@nyx/native';
import type { Inflight } from './inflight.ts';
import type { RegionMemory } from './memory.ts';
import { Limit, type VringAddr, vhostError } from './protocol.ts';

export class BackendRing {
  readonly queue: Virtqueue;
  started = false;
  enabled = false;
  /** The driver broke the rules; nothing is taken until the ring is started again. */
  broken = false;
  /** Used elements were pushed that are not shown. */
  touched = false;
  /** Used elements that were shown, and the driver not called for. */
  untold = 0;
  inflight: Inflight | undefined;
  /** Chains that a predecessor had taken, oldest first. */
  readonly again: number[] = [];
  /** As SET_VRING_BASE said. */
  #base = 0;
  /** Started, and not mapped since. */
  #fresh = false;
  #addr: VringAddr | undefined;
  #kick = -1;
  #call = -1;
  #err = -1;
  #watch: Watch | undefined;
  readonly #buffer = new ArrayBuffer(QueueState.bytes);

  constructor(
    readonly index: number,
    readonly memory: RegionMemory,
    /** The driver rang, or the ring became ready: look at it. */
    readonly kicked: () => void,
  ) {
    this.queue = new Virtqueue(index, Limit.queueSize, view(QueueState, new Memory(this.#buffer)), memory);
    this.reset();
  }

  get ready(): boolean {
    return this.started && this.enabled && !this.broken;
  }

  /** As after a connection: no addresses, no descriptors. */
  reset(): void {
    this.#drop();
    this.queue.unmap();
    resetValues(QueueState, new Memory(this.#buffer), 0);
    this.#base = 0;
    this.#addr = undefined;
    this.started = false;
    this.enabled = false;
    this.broken = false;
    this.touched = false;
    this.untold = 0;
    this.again.length = 0;
    this.inflight = undefined;
  }

  #drop(): void {
    this.#setKick(-1);
    this.setCall(-1);
    this.setErr(-1);
  }

  /** @throws VHOST_VALUE */
  setSize(size: number): void {
    if (size === 0 || size > Limit.queueSize || (size & (size - 1)) !== 0)
      throw vhostError('VHOST_VALUE', `a ring of ${size} entries, expected a power of two up to 1024`);
    if (this.started) throw vhostError('VHOST_STATE', `ring ${this.index} is running`);
    this.queue.state.size = size;
  }
  get size(): number {
    return this.queue.state.size;
  }
  setBase(base: number): void {
    if (this.started) throw vhostError('VHOST_STATE', `ring ${this.index} is running`);
    this.#base = base & 0xffff;
  }
  setAddr(a: VringAddr): void {
    this.#addr = a;
    if (!this.started) return;
    // While it runs only the flag for the log may change; a ring that moves is found anew.
    this.queue.unmap();
    this.kicked();
  }

  /** Starts the ring. `fd` -1: the front-end wants it polled, which we do not offer beyond looking at it now. */
  start(fd: number): void {
    this.#setKick(fd);
    this.broken = false;
    if (!this.started) {
      this.started = true;
      this.#fresh = true;
      this.queue.unmap();
    }
    this.kicked();
  }

  #setKick(fd: number): void {
    this.#watch?.close();
    this.#watch = undefined;
    if (this.#kick >= 0) close(this.#kick);
    this.#kick = fd;
    if (fd < 0) return;
    setNonblock(fd);
    this.#watch = watch(fd, this.kicked, { drain: true });
  }
  setCall(fd: number): void {
    if (this.#call >= 0) close(this.#call);
    this.#call = fd;
    if (fd < 0) return;
    setNonblock(fd);
    // A predecessor may have died between showing used elements and telling of them.
    this.signal();
  }
  setErr(fd: number): void {
    if (this.#err >= 0) close(this.#err);
    this.#err = fd;
    if (fd >= 0) setNonblock(fd);
  }

  signal(): void {
    if (this.#call < 0) return;
    try {
      eventfdWrite(this.#call);
    } catch {
      // Whatever descriptor that is, its owner does not hear us by it.
    }
  }

  /** Stops the ring: nothing of it is under way. Gives the available index to go on with. */
  stop(): number {
    const { queue } = this;
    const base = this.started && queue.mapped ? queue.state.availIdx : this.#base;
    this.started = false;
    this.again.length = 0;
    this.#base = base;
    queue.unmap();
    this.#setKick(-1);
    this.setCall(-1);
    return base;
  }

  /** The driver broke the rules: the ring stands still, and the front-end is told if it wants to. */
  fail(): void {
    this.broken = true;
    if (this.#err < 0) return;
    try {
      eventfdWrite(this.#err);
    } catch {
      // As above.
    }
  }

  /** Regions moved: addresses are looked up again. */
  forget(): void {
    this.queue.unmap();
  }

  /** Finds the ring in guest memory. False when it is not all there. The first time after a start it fills `again`. */
  map(): boolean {
    const { queue, memory } = this;
    const a = this.#addr;
    if (a === undefined || queue.state.size === 0) return false;
    const s = queue.state;
    const [desc, driver, device] = [a.descriptor, a.available, a.used].map((user) => memory.guestOf(user));
    if (desc! < 0 || driver! < 0 || device! < 0) return false;
    s.desc = desc!;
    s.driver = driver!;
    s.device = device!;
    if (!queue.map()) return false;
    if (!this.#fresh) return true;
    this.#fresh = false;
    const usedIdx = memory.view.getUint16(memory.offset(device!, 4) + 2, true);
    s.usedIdx = usedIdx;
    s.signalled = usedIdx;
    s.availIdx = this.#base;
    const heads = this.inflight?.recover(usedIdx);
    if (heads !== undefined) {
      s.availIdx = (usedIdx + heads.length) & 0xffff;
      this.again.push(...heads);
    }
    this.signal();
    return true;
  }

  /** Shows what was pushed, and clears it from the in-flight region. */
  show(): void {
    this.touched = false;
    const { queue } = this;
    if (!queue.mapped) return;
    this.untold += queue.show();
    this.inflight?.shown(queue.state.usedIdx);
  }

  /** Calls, if the driver wants to be for what was shown. */
  tell(eventIdx: boolean): void {
    this.untold = 0;
    if (!this.queue.mapped || !this.queue.settle(eventIdx)) return;
    this.queue.signal();
    this.signal();
  }
}
