/**
 * The process dies between any two steps, and a new one goes on from state block and guest memory. The guest, which
 * works by interrupts alone, sees every request answered exactly once, every acknowledged write on the disk, and
 * waits for nothing that does not come.
 */
import { CfgType } from '@nyx/device';
import { describe, expect } from 'vitest';
import { random } from '../block/testing/rig.ts';
import { holdsModel, killPoints } from '../testing/kill-points.ts';
import { Bench, ringFeatures } from './bench.ts';
import { BlkType } from './regs.ts';

const KINDS = [
  BlkType.out,
  BlkType.in,
  BlkType.out,
  BlkType.out,
  BlkType.in,
  BlkType.flush,
  BlkType.writeZeroes,
  BlkType.getId,
];

interface Variant {
  msix: boolean;
  features: number;
  eager?: boolean;
  queues?: number;
  /** The driver resets the device half-way, with requests in flight. */
  reset?: boolean;
}

interface Pending {
  type: number;
  block: number;
  status: number;
  value: number;
}

class Guest {
  readonly bench: Bench;
  /** What each block of 4 KiB must hold; undefined: a write was dropped by a reset, so either may be. */
  readonly model: (number | undefined)[] = new Array(16).fill(0);
  readonly #busy = new Set<number>();
  readonly #flight: Map<number, Pending>[];
  readonly #seen: number[];
  readonly #rand: (n: number) => number;
  done = 0;

  constructor(
    readonly variant: Variant,
    seed: number,
  ) {
    this.#rand = random(seed);
    const fate = random(seed + 1);
    const { msix, queues = 1 } = variant;
    this.#flight = Array.from({ length: queues }, () => new Map());
    this.#seen = new Array(queues).fill(0);
    this.bench = new Bench({
      sectors: 128,
      msix,
      config: { queues },
      ...(variant.eager ? { eager: true } : {}),
      fate: () => fate(3) / 2,
    });
  }

  /** Submits up to `n` requests, not two on one block; rings once. */
  submit(queue: number, n: number, left: number): number {
    const { bench } = this;
    const q = bench.driver.queues[queue]!;
    let count = 0;
    for (; count < n && count < left && q.freeDescriptors >= 4; count++) {
      const type = KINDS[this.#rand(KINDS.length)]!;
      let block = this.#rand(16);
      while (this.#busy.has(block)) block = (block + 1) % 16;
      this.#busy.add(block);
      const value = 1 + this.#rand(255);
      const { out, status } = bench.header(type, block * 8);
      const data = bench.data(block);
      const halves = [
        [data, 1000],
        [data + 1000, 3096],
      ] as const;
      const indirect = (ringFeatures & this.variant.features & (1 << 28)) !== 0 && this.#rand(2) === 1;
      if (type === BlkType.out) bench.fill(data, 4096, value);
      if (type === BlkType.in) bench.fill(data, 4096, 0xcd);
      if (type === BlkType.writeZeroes)
        for (const [i, from] of [0, 4].entries()) {
          bench.view.setUint32(data + 16 * i, block * 8 + from, true);
          bench.view.setUint32(data + 16 * i + 4, 0, true);
          bench.view.setUint32(data + 16 * i + 8, 4, true);
          bench.view.setUint32(data + 16 * i + 12, 0, true);
        }
      const readable =
        type === BlkType.out ? halves : type === BlkType.writeZeroes ? ([[data, 32]] as const) : [];
      const writable = type === BlkType.in ? halves : type === BlkType.getId ? ([[data, 20]] as const) : [];
      const head = q.add([out, ...readable], [...writable, status], indirect);
      this.#flight[queue]!.set(head, { type, block, status: status[0], value });
    }
    if (count > 0) q.kick();
    return count;
  }

  get inFlight(): number {
    return this.#flight.reduce((n, f) => n + f.size, 0);
  }

  /** Takes what interrupts tell of; false when there was none. */
  interrupt(): boolean {
    const { bench, variant } = this;
    let any = false;
    if (variant.msix) {
      this.#seen.forEach((seen, q) => {
        const { count } = bench.rig.messages[q + 2]!;
        if (count === seen) return;
        any = true;
        this.#seen[q] = count;
        this.#harvest(q);
      });
    } else if ((bench.rig.lines[0] ?? 0) & 1) {
      any = true;
      if (bench.driver.read(CfgType.isr, 0, 1) & 1)
        for (let q = 0; q < this.#flight.length; q++) this.#harvest(q);
    }
    return any;
  }

  #harvest(queue: number): void {
    const { bench } = this;
    for (const { id, length } of bench.driver.queues[queue]!.harvest()) {
      const p = this.#flight[queue]!.get(id)!;
      this.#flight[queue]!.delete(id);
      this.#busy.delete(p.block);
      this.done++;
      if (bench.view.getUint8(p.status) !== 0)
        throw new Error(`status ${bench.view.getUint8(p.status)} of type ${p.type}`);
      const disk = bench.content.subarray(p.block * 4096, p.block * 4096 + 4096);
      const memory = bench.rig.memory.bytes(bench.data(p.block), 4096);
      if (p.type === BlkType.out) this.model[p.block] = p.value;
      if (p.type === BlkType.writeZeroes) this.model[p.block] = 0;
      const want = this.model[p.block];
      const holds = (bytes: Uint8Array): boolean => want === undefined || bytes.every((x) => x === want);
      if (p.type !== BlkType.getId && !holds(disk))
        throw new Error(`type ${p.type}: block ${p.block} is not what was acknowledged`);
      if (p.type === BlkType.in && (length !== 4097 || !holds(memory)))
        throw new Error(`read of block ${p.block}: wrong data or length ${length}`);
    }
  }

  /** Lets the host do something; false when there is nothing that anybody waits for. */
  host(): boolean {
    const { disk, rig } = this.bench;
    if (rig.timerNs !== Number.POSITIVE_INFINITY) rig.fire();
    else if (disk.pending === 0) return false;
    else
      rig.host(() => {
        disk.complete(1 + this.#rand(3), this.#rand);
        // A request of two ranges goes on from its start in a new process; some process must do both.
        if (rig.amnesia) disk.complete();
      });
    return true;
  }

  /** The driver gives up what is in flight. */
  reset(): void {
    const { driver } = this.bench;
    driver.status = 0;
    // The process may die behind the answer, and its successor end the reset: then nothing is left to do.
    for (let idle = 0, i = 0; driver.status !== 0; i++) {
      if (!this.host()) idle++;
      if (idle > 2 || i > 1000) throw new Error('the reset never ends');
    }
    for (const f of this.#flight) {
      for (const p of f.values())
        if (p.type === BlkType.out || p.type === BlkType.writeZeroes) this.model[p.block] = undefined;
      f.clear();
    }
    this.#busy.clear();
    this.bench.run(this.variant.features | 0xffffff, this.variant.queues, 32);
  }

  work(total: number): void {
    const { bench, variant } = this;
    const queues = variant.queues ?? 1;
    bench.run(variant.features | 0xffffff, queues, 32);
    let submitted = 0;
    let resetAt = variant.reset ? Math.floor(total / 2) : -1;
    for (let round = 0; this.done < total; round++) {
      if (round > 100 * total)
        throw new Error(`${this.done} of ${submitted} done, ${this.inFlight} in flight: no progress`);
      if (this.inFlight < 6)
        submitted += this.submit(this.#rand(queues), 1 + this.#rand(4), total - submitted);
      if (submitted >= resetAt && resetAt >= 0) {
        resetAt = -1;
        submitted -= this.inFlight;
        this.reset();
        continue;
      }
      if (this.interrupt()) continue;
      if (this.#rand(2) === 1 && submitted < total) continue;
      if (!this.host() && this.inFlight > 0 && !this.interrupt())
        throw new Error(`lost: ${this.inFlight} requests in flight, nothing under way, no interrupt`);
    }
    holdsModel(bench.content, this.model);
    expect(bench.driver.status).toBe(15);
    expect(this.inFlight).toBe(0);
  }
}

const variants: [string, Variant][] = [
  ['MSI-X, event index, indirect', { msix: true, features: ringFeatures }],
  ['INTx, neither', { msix: false, features: 0 }],
  ['INTx, event index, a disk that answers at once', { msix: false, features: ringFeatures, eager: true }],
  [
    'MSI-X, three queues, a disk that answers at once',
    { msix: true, features: ringFeatures, eager: true, queues: 3 },
  ],
  [
    'MSI-X, two queues, a reset with requests in flight',
    { msix: true, features: ringFeatures, queues: 2, reset: true },
  ],
];

describe('kill points', () => {
  for (const [name, variant] of variants) killPoints(name, (seed) => new Guest(variant, seed), 0.9);
});
