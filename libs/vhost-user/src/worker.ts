/**
 * The work of a back-end is one loop: take chains, let the device begin them, see what is done, show it. It goes on
 * while there is work and a little longer, because a doorbell costs the guest an exit and us a wake-up; then it asks for
 * doorbells, looks once more, and returns to the event loop.
 */
import { performance } from 'node:perf_hooks';
import { Chain, type GuestMemory, VirtioFeature } from '@nyx/device';
import { cpuCount, createSpinPolicy } from '@nyx/native';
import type { RegionMemory } from './memory.ts';
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

export interface WorkerOptions {
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
/** A round of the loop that took so long, ms, was interrupted: somebody else needs the CPU. */
const PREEMPTED_MS = 1;
/** Then it is hardly spun for so long, ms; twice as long each time, up to the longest. */
const calm = { first: 4, most: 64 } as const;
/** A sleep and a wake-up take about as much CPU as so long a spin, ms. */
const LEAST_SPIN_MS = 0.02;
/** What is taken from a ring at once: as soon as so much is done, the driver sees it. */
const batch = { chains: 8, bytes: 65536 } as const;
/** Done while there is more to do: the driver is called after so many, to have the next ready when those are done. */
const CALL_AFTER = 16;
const QUIESCE_MS = 30_000;

export class Worker {
  readonly device: BackendDevice;
  readonly rings: readonly BackendRing[];
  readonly counters = { requests: 0, batches: 0, sleeps: 0, recovered: 0, interrupted: 0 };
  /** Features that were accepted, bits 0..31. */
  features = 0;
  readonly #o: WorkerOptions;
  readonly #chain: Chain;
  readonly #free: Int32Array;
  #freeCount: number;
  readonly #ringOf: Uint8Array;
  readonly #headOf: Uint16Array;
  readonly #spin;
  #running = false;
  #scheduled = false;
  /** When the last work was done, ms. */
  #lastWork = 0;
  readonly #leastSpin: number;
  /** Hardly any spinning before, ms; and how long that was the last time. */
  #calmUntil = 0;
  #calm = calm.first as number;
  readonly #kicked = (): void => this.run();

  constructor(
    readonly memory: RegionMemory,
    o: WorkerOptions,
  ) {
    this.#o = o;
    const spinNs = cpuCount() > 1 ? (o.spinNs ?? 50_000) : 0;
    this.#spin = createSpinPolicy(spinNs);
    this.#leastSpin = Math.min(LEAST_SPIN_MS, spinNs / 1e6);
    this.#chain = new Chain(memory);
    this.#free = Int32Array.from({ length: o.slots }, (_, i) => o.slots - 1 - i);
    this.#freeCount = o.slots;
    this.#ringOf = new Uint8Array(o.slots);
    this.#headOf = new Uint16Array(o.slots);
    const self = this;
    this.device = o.make({
      memory,
      get features() {
        return self.features;
      },
      finish: (slot, written) => this.#finish(slot, written),
      finished: () => {},
      refuse: (slot, reason) => {
        this.#fail(this.#ringOf[slot]!, reason);
        this.#free[this.#freeCount++] = slot;
      },
      event: (change) => {
        change();
        this.run();
      },
    });
    this.rings = Array.from(
      { length: this.device.queues },
      (_, i) => new BackendRing(i, memory, this.#kicked),
    );
  }

  get #busy(): number {
    return this.#o.slots - this.#freeCount;
  }

  /** Ends all that is under way; nothing new is taken meanwhile. */
  quiesce(): void {
    const running = this.#running;
    this.#running = true;
    if (!this.device.quiesce(QUIESCE_MS)) this.#o.fatal(`requests did not end in ${QUIESCE_MS / 1000} s`);
    this.#publish(false);
    this.#running = running;
  }

  get #eventIdx(): boolean {
    return (this.features & (1 << VirtioFeature.eventIdx)) !== 0;
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
    const indirect = (this.features & (1 << VirtioFeature.indirectDesc)) !== 0;
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
    let bytes = 0;
    while (taken < batch.chains && bytes < batch.bytes && this.#freeCount > 0) {
      const head = queue.next();
      if (head === -1) break;
      if (head === -2) {
        this.#fail(ring.index, 'the available ring is broken');
        break;
      }
      ring.inflight?.take(head);
      taken++;
      if (!this.#begin(ring, head)) break;
      bytes += this.#chain.readableBytes + this.#chain.writableBytes;
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

  /** Shows what is done; calls drivers that wait, when there is `more` to do only for a good many. */
  #publish(more: boolean): number {
    let shown = 0;
    for (const ring of this.rings) {
      if (ring.touched) {
        ring.show();
        shown++;
      }
      if (ring.untold > 0 && (!more || ring.untold >= CALL_AFTER)) ring.tell(this.#eventIdx);
    }
    return shown;
  }

  run(): void {
    if (this.#running) return;
    this.#running = true;
    const began = performance.now();
    if (this.#lastWork > 0) this.#spin.arrived((began - this.#lastWork) * 1e6, true);
    let spinMs =
      began < this.#calmUntil ? this.#leastSpin : Math.max(this.#leastSpin, this.#spin.next() / 1e6);
    let worked = began;
    /** Nothing was done in the round before, at `last`. */
    let idle = false;
    let last = began;
    for (let round = 0; ; round++) {
      let done = 0;
      for (const ring of this.rings) if (ring.ready) done += this.#take(ring);
      if (done > 0) this.device.submit();
      if (this.#busy > 0) this.device.poll();
      done += this.#publish(done > 0);
      if (done > 0) {
        this.counters.batches++;
        idle = false;
        // The clock is looked at now and then only.
        if (round % 32 !== 31) continue;
      }
      const now = performance.now();
      if (!idle) worked = now;
      else if (spinMs > 0 && now - last > PREEMPTED_MS) {
        // Spinning where CPUs are scarce takes them from those we wait for.
        this.#interrupted(now);
        spinMs = this.#leastSpin;
      }
      if (done === 0) {
        idle = true;
        // What the disk has under way, it tells by itself, and may need the CPU for.
        if (this.#busy > 0 || now - worked >= spinMs) {
          if (!this.#listen()) break;
          idle = false;
        }
      }
      last = now;
      if (now - began > BUSY_MS) {
        this.#again();
        break;
      }
    }
    this.#lastWork = worked;
    this.#running = false;
  }

  #interrupted(now: number): void {
    // Long ago: it may have been by chance.
    this.#calm = now - this.#calmUntil > 1000 ? calm.first : Math.min(2 * this.#calm, calm.most);
    this.#calmUntil = now + this.#calm;
    this.counters.interrupted++;
  }

  /** The event loop first. */
  #again(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#lastWork = 0;
      this.run();
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
