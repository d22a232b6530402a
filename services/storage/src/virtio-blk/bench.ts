/** The virtio block device on the crash rig, over a disk in memory, with a guest driver: for its tests. */
import { VirtioFeature } from '@nyx/device';
import { CrashRig } from '@nyx/device/crash-rig';
import { type Piece, VirtioDriver } from '@nyx/device/virtio-driver';
import { MemoryDisk, type MemoryDiskOptions } from '../block/memory.ts';
import { type BlkConfig, virtioBlk } from './device.ts';
import type { BlkState } from './regs.ts';

export const ringFeatures = ((1 << VirtioFeature.indirectDesc) | (1 << VirtioFeature.eventIdx)) >>> 0;
export const allFeatures = 0xffff_ffff;

export interface BenchOptions extends MemoryDiskOptions {
  config?: BlkConfig;
  sectors?: number;
  msix?: boolean;
  /** What becomes of requests under way when the process dies: 0 lost, 1 done, 0.5 half of a write done. */
  fate?: () => number;
}

/** Guest addresses: rings of queue q at 0x8000 * (q + 1), request headers and status bytes, data. */
const HEADERS = 0x60000;
const DATA = 0x80000;

export class Bench {
  readonly content: Uint8Array;
  readonly rig: CrashRig<typeof BlkState, BlkConfig>;
  readonly driver: VirtioDriver;
  disk!: MemoryDisk;
  #header = 0;

  constructor(readonly options: BenchOptions = {}) {
    const { sectors = 256, msix = true, config = {} } = options;
    this.content = new Uint8Array(sectors * 512);
    const kind = virtioBlk(() => (memory, completed) => {
      this.disk = new MemoryDisk(this.content, memory, completed, options);
      const { submit } = this.disk;
      // A submission is a step at which the process may die.
      this.disk.submit = (r) => {
        this.rig?.step();
        submit.call(this.disk, r);
      };
      return this.disk;
    });
    this.rig = new CrashRig({
      kind,
      config,
      memoryBytes: 0x100000,
      died: () => this.disk.abandon(options.fate ?? (() => 0)),
    });
    this.driver = new VirtioDriver(this.rig, this.rig.memory);
    if (msix) this.driver.enableMsix(9);
  }

  get view(): DataView {
    return this.rig.memory.view;
  }

  /** Negotiates and starts queues 0..n-1, vector q + 1 each. */
  run(features = ringFeatures | 0xffffff, queues = 1, size = 64): void {
    this.driver.negotiate(features);
    if (this.options.msix !== false) this.driver.setCommon(0x10, 2, 0);
    for (let q = 0; q < queues; q++)
      this.driver.setUpQueue(q, 0x8000 * (q + 1), {
        size,
        ...(this.options.msix === false ? {} : { vector: q + 1 }),
      });
    this.driver.start();
  }

  /** A fresh header with its status byte (0xff) 32 bytes behind. */
  header(type: number, sector: number): { out: Piece; status: Piece } {
    const at = HEADERS + 64 * (this.#header++ % 1024);
    this.view.setUint32(at, type, true);
    this.view.setUint32(at + 4, 0, true);
    this.view.setUint32(at + 8, sector >>> 0, true);
    this.view.setUint32(at + 12, Math.floor(sector / 4294967296), true);
    this.view.setUint8(at + 32, 0xff);
    return { out: [at, 16], status: [at + 32, 1] };
  }

  /** Guest address of block i of 4 KiB of data. */
  data(i: number): number {
    return DATA + 4096 * i;
  }
  fill(address: number, length: number, value: number): void {
    this.rig.memory.bytes(address, length).fill(value);
  }

  /** Lets the disk finish everything; completions may bring new work. */
  finish(): void {
    while (this.disk.pending > 0) this.rig.host(() => this.disk.complete());
  }

  /** One request to the end: its status byte, and the length of its used element. */
  request(
    type: number,
    sector: number,
    out: readonly Piece[] = [],
    into: readonly Piece[] = [],
    indirect = false,
  ) {
    const q = this.driver.queues[0]!;
    const { out: head, status } = this.header(type, sector);
    q.add([head, ...out], [...into, status], indirect);
    q.kick();
    this.finish();
    const used = q.harvest();
    return { status: this.view.getUint8(status[0]), length: used[0]?.length ?? -1, used: used.length };
  }
}
