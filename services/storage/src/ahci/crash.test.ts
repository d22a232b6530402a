/**
 * The process dies between any two steps, and a new one goes on from state block and guest memory. The driver, which works
 * by interrupts alone, sees every command answered exactly once, every acknowledged write on the disk, and waits for nothing
 * that does not come.
 */
import { describe, expect } from 'vitest';
import { random } from '../block/testing/rig.ts';
import { holdsModel, killPoints } from '../testing/kill-points.ts';
import { Ata } from './ata.ts';
import { Bench } from './bench.ts';
import { Irq, PortIs, slots } from './regs.ts';

interface Variant {
  msi: boolean;
  /** Queued commands; else one after the other. */
  queued: boolean;
  eager?: boolean;
  /** The driver stops the engine half-way, with commands in flight. */
  stop?: boolean;
}

interface Pending {
  block: number;
  kind: 'write' | 'read' | 'flush' | 'trim' | 'cd';
  value: number;
}

/** A block is 4 KiB of the disk; there are 16 of them, and a buffer for each slot. */
class Driver {
  readonly bench: Bench;
  readonly model: (number | undefined)[] = new Array(16).fill(0);
  readonly #rand: (n: number) => number;
  /** Commands in flight, by port and slot. */
  readonly #flight = [new Map<number, Pending>(), new Map<number, Pending>()];
  readonly #busy = new Set<number>();
  #seen = 0;
  done = 0;

  constructor(
    readonly variant: Variant,
    seed: number,
  ) {
    this.#rand = random(seed);
    const fate = random(seed + 1);
    this.bench = new Bench({
      sectors: 128,
      msi: variant.msi,
      ...(variant.eager ? { eager: true } : {}),
      fate: () => fate(3) / 2,
    });
    this.bench.start();
  }

  get inFlight(): number {
    return this.#flight[0]!.size + this.#flight[1]!.size;
  }

  #submitCd(): void {
    const { bench } = this;
    if (this.#flight[1]!.size > 0) return;
    const at = this.#rand(60);
    bench.fill(bench.data(40), 4096, 0xcd);
    bench.prepare(1, 3, {
      command: 0xa0,
      features: 1,
      packet: [0x28, 0, 0, 0, 0, at, 0, 0, 2],
      prds: [
        [bench.data(40), 1000],
        [bench.data(40) + 1000, 3096],
      ],
    });
    this.#flight[1]!.set(3, { block: at, kind: 'cd', value: 0 });
    bench.issue(1, 1 << 3);
  }

  submit(n: number): number {
    const { bench, variant } = this;
    const flight = this.#flight[0]!;
    let bits = 0;
    let count = 0;
    if (this.#rand(3) === 0 && this.#flight[1]!.size === 0) {
      this.#submitCd();
      count++;
      n--;
    }
    // What is not queued does not go among what is.
    const others = [...flight.values()].some((p) => p.kind === 'flush' || p.kind === 'trim');
    const room = variant.queued ? (others ? 0 : n) : flight.size === 0 ? 1 : 0;
    for (let i = 0; i < room && flight.size < 8; i++) {
      let slot = this.#rand(slots);
      while (flight.has(slot)) slot = (slot + 1) % slots;
      let block = this.#rand(16);
      while (this.#busy.has(block)) block = (block + 1) % 16;
      const roll = this.#rand(10);
      const kind: Pending['kind'] =
        roll < 5 ? 'write' : roll < 8 ? 'read' : flight.size > 0 ? 'read' : roll === 8 ? 'flush' : 'trim';
      const value = 1 + this.#rand(255);
      const at = bench.data(slot);
      bench.fill(at, 4096, kind === 'write' ? value : 0xcd);
      const prds = [
        [at, 1000],
        [at + 1000, 3096],
      ] as const;
      const queued = variant.queued && (kind === 'write' || kind === 'read');
      if (kind === 'trim')
        for (let k = 0; k < 64; k++) {
          bench.view.setUint32(at + 8 * k, k < 2 ? block * 8 + 4 * k : 0, true);
          bench.view.setUint32(at + 8 * k + 4, k < 2 ? 4 << 16 : 0, true);
        }
      bench.prepare(0, slot, {
        command: queued
          ? kind === 'write'
            ? Ata.writeQueued
            : Ata.readQueued
          : {
              write: Ata.writeDmaExt,
              read: Ata.readDmaExt,
              flush: Ata.flushExt,
              trim: Ata.dataSetManagement,
              cd: 0,
            }[kind],
        lba: kind === 'flush' || kind === 'trim' ? 0 : block * 8,
        count: queued ? slot << 3 : kind === 'trim' ? 1 : 8,
        features: queued ? 8 : kind === 'trim' ? 1 : 0,
        prds: kind === 'flush' ? [] : prds,
      });
      flight.set(slot, { block, kind, value });
      this.#busy.add(block);
      if (queued) bench.setPort(0, 'sact', 2 ** slot);
      bits = (bits | (1 << slot)) >>> 0;
      count++;
      if (kind === 'flush' || kind === 'trim') break;
    }
    if (bits) bench.issue(0, bits);
    return count;
  }

  /** Takes what interrupts tell of; false when there was none. */
  interrupt(): boolean {
    const { bench, variant } = this;
    if (variant.msi) {
      const { count } = bench.rig.messages[Irq.msi]!;
      if (count === this.#seen) return false;
      this.#seen = count;
    } else if (!((bench.rig.lines[Irq.intx] ?? 0) & 1)) return false;
    const is = bench.read('is');
    for (const p of [0, 1]) {
      if (!(is & (1 << p))) continue;
      const why = bench.port(p, 'is');
      bench.setPort(p, 'is', why);
      if (why & (PortIs.tfes | PortIs.hbfs | PortIs.ifs | PortIs.ofs))
        throw new Error(`port ${p}: PxIS ${why.toString(16)}, PxTFD ${bench.port(p, 'tfd').toString(16)}`);
      const busy = bench.port(p, 'sact') | bench.port(p, 'ci');
      for (const [slot, x] of [...this.#flight[p]!])
        if (!(busy & (1 << slot))) {
          this.#flight[p]!.delete(slot);
          this.#ended(p, slot, x);
        }
    }
    bench.write('is', is);
    return true;
  }

  #ended(p: number, slot: number, x: Pending): void {
    const { bench } = this;
    this.done++;
    if (p === 1) {
      const want = bench.cd.subarray(x.block * 2048, x.block * 2048 + 4096);
      if (Buffer.compare(bench.bytes(bench.data(40), 4096), want) !== 0)
        throw new Error(`CD sector ${x.block}`);
      return;
    }
    this.#busy.delete(x.block);
    if (x.kind === 'write') this.model[x.block] = x.value;
    if (x.kind === 'trim') this.model[x.block] = 0;
    const want = this.model[x.block];
    const holds = (b: Uint8Array): boolean => want === undefined || b.every((v) => v === want);
    if (!holds(bench.content.subarray(x.block * 4096, x.block * 4096 + 4096)))
      throw new Error(`${x.kind}: block ${x.block} is not what was acknowledged`);
    if (x.kind === 'read' && !holds(bench.bytes(bench.data(slot), 4096)))
      throw new Error(`read of block ${x.block}: wrong data`);
  }

  /** Lets the host do something; false when there is nothing that anybody waits for. */
  host(): boolean {
    const { rig, disks } = this.bench;
    if (this.bench.pending === 0) {
      if (rig.timerNs === Number.POSITIVE_INFINITY) return false;
      rig.fire();
      return true;
    }
    rig.host(() => {
      const disk =
        disks[this.#rand(2)]!.pending > 0 ? disks[this.#rand(2)]! : disks.find((d) => d.pending > 0)!;
      disk.complete(1 + this.#rand(3), this.#rand);
      // A command of several requests goes on from its start in a new process; some process must do all.
      if (rig.amnesia) for (const d of disks) d.complete();
    });
    return true;
  }

  /** The driver gives up what is in flight at the disk: ST is cleared, CR falls when nothing reaches memory any more. */
  stop(): void {
    const { bench } = this;
    bench.setPort(0, 'cmd', 0x10);
    for (let i = 0; bench.port(0, 'cmd') & 0x8000; i++) {
      this.host();
      if (i > 1000) throw new Error('CR never falls');
    }
    expect([bench.port(0, 'ci'), bench.port(0, 'sact')]).toEqual([0, 0]);
    for (const x of this.#flight[0]!.values()) {
      if (x.kind === 'write' || x.kind === 'trim') this.model[x.block] = undefined;
      this.#busy.delete(x.block);
    }
    this.#flight[0]!.clear();
    // Nothing is under way: what the buffers hold stays.
    expect(bench.disks[0]!.pending).toBe(0);
    bench.setPort(0, 'cmd', 0x11);
  }

  work(total: number): void {
    let submitted = 0;
    let stopAt = this.variant.stop ? Math.floor(total / 2) : -1;
    // The drive tells of its reset first.
    this.bench.packet([0, 0, 0, 0]);
    for (let round = 0; this.done < total; round++) {
      if (round > 200 * total) throw new Error(`${this.done} done, ${this.inFlight} in flight: no progress`);
      if (this.inFlight < 6 && submitted < total)
        submitted += this.submit(Math.min(1 + this.#rand(4), total - submitted));
      if (stopAt >= 0 && submitted >= stopAt) {
        stopAt = -1;
        submitted -= this.#flight[0]!.size;
        this.stop();
        continue;
      }
      if (this.interrupt()) continue;
      if (this.#rand(2) === 1 && submitted < total) continue;
      if (!this.host() && this.inFlight > 0 && !this.interrupt())
        throw new Error(`lost: ${this.inFlight} commands in flight, nothing under way, no interrupt`);
    }
    holdsModel(this.bench.content, this.model);
  }
}

const variants: [string, Variant][] = [
  ['queued, MSI', { msi: true, queued: true }],
  ['queued, INTx, a disk that answers at once', { msi: false, queued: true, eager: true }],
  ['one at a time, INTx', { msi: false, queued: false }],
  ['queued, MSI, stopped with commands in flight', { msi: true, queued: true, stop: true }],
];

describe('kill points', () => {
  // Steps of the start are before `dieAt` is set.
  for (const [name, variant] of variants) killPoints(name, (seed) => new Driver(variant, seed), 0.6);
});
