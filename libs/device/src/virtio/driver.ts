/**
 * A guest driver for tests: finds a virtio function by walking its capabilities, negotiates, and runs split queues in
 * real ring memory, the way VIRTIO 1.2 tells drivers to (sections 2.7.13, 2.7.14, 3.1.1).
 */
import type { GuestMemory } from '../memory.ts';
import { Command, Config, findCapability } from '../pci/index.ts';
import { CfgType, noVector, VirtioFeature, VirtioStatus } from './regs.ts';

/** How the driver reaches the device. */
export interface VirtioPort {
  read(region: number, offset: number, width: number): number;
  write(region: number, offset: number, width: number, value: number): void;
  configRead(register: number, width: number): number;
  configWrite(register: number, width: number, value: number): void;
}

export type Piece = readonly [address: number, length: number];

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;

interface QueueSetup {
  size?: number;
  vector?: number;
}

export class DriverQueue {
  readonly descAt: number;
  readonly availAt: number;
  readonly usedAt: number;
  readonly #free: number[];
  /** Descriptors of each chain, by head. */
  readonly #chains = new Map<number, number[]>();
  availIdx = 0;
  lastUsed = 0;

  /** @param base guest address of 16 KiB for the rings (size up to 256) and of 16 KiB for indirect tables after it */
  constructor(
    readonly driver: VirtioDriver,
    readonly index: number,
    readonly size: number,
    readonly base: number,
    readonly notifyAt: number,
  ) {
    this.descAt = base;
    this.availAt = base + 0x2000;
    this.usedAt = base + 0x3000;
    this.#free = Array.from({ length: size }, (_, i) => size - 1 - i);
    driver.memory.bytes(base, 0x8000).fill(0);
  }

  get view(): DataView {
    return this.driver.memory.view;
  }

  descriptor(
    table: number,
    index: number,
    address: number,
    length: number,
    flags: number,
    next: number,
  ): void {
    const at = table + 16 * index;
    this.view.setUint32(at, address >>> 0, true);
    this.view.setUint32(at + 4, Math.floor(address / 4294967296), true);
    this.view.setUint32(at + 8, length, true);
    this.view.setUint16(at + 12, flags, true);
    this.view.setUint16(at + 14, next, true);
  }

  /** Puts a chain into the available ring without showing it; gives its head. */
  add(out: readonly Piece[], into: readonly Piece[], indirect = false): number {
    const pieces = [...out.map((p) => [...p, 0] as const), ...into.map((p) => [...p, WRITE] as const)];
    const take = (): number => {
      const d = this.#free.pop();
      if (d === undefined) throw new Error('test: queue is full');
      return d;
    };
    const head = take();
    const used = [head];
    if (indirect) {
      // A table of its own for each of 64 heads.
      if (pieces.length > 16 || head >= 64) throw new Error('test: no room for an indirect table');
      const table = this.base + 0x4000 + head * 0x100;
      pieces.forEach(([a, n, f], i) => {
        this.descriptor(table, i, a, n, f | (i + 1 < pieces.length ? NEXT : 0), i + 1);
      });
      this.descriptor(this.descAt, head, table, 16 * pieces.length, INDIRECT, 0);
    } else {
      let at = head;
      pieces.forEach(([a, n, f], i) => {
        const last = i + 1 === pieces.length;
        const next = last ? 0 : take();
        if (!last) used.push(next);
        this.descriptor(this.descAt, at, a, n, f | (last ? 0 : NEXT), next);
        at = next;
      });
    }
    this.#chains.set(head, used);
    this.offer(head);
    return head;
  }

  /** Any head, also a wrong one. */
  offer(head: number): void {
    this.view.setUint16(this.availAt + 4 + 2 * (this.availIdx % this.size), head, true);
    this.availIdx = (this.availIdx + 1) & 0xffff;
  }

  get freeDescriptors(): number {
    return this.#free.length;
  }

  /** Shows what was added, and rings when the device wants it. True: it rang. */
  kick(): boolean {
    const old = this.view.getUint16(this.availAt + 2, true);
    this.view.setUint16(this.availAt + 2, this.availIdx, true);
    let wants = (this.view.getUint16(this.usedAt, true) & 1) === 0;
    if (this.driver.eventIdx) {
      const event = this.view.getUint16(this.usedAt + 4 + 8 * this.size, true);
      wants = ((this.availIdx - event - 1) & 0xffff) < ((this.availIdx - old) & 0xffff);
    }
    if (wants) this.driver.notify(this);
    return wants;
  }

  /** Used elements since the last call; then asks for an interrupt with the next one, and looks again. */
  harvest(): { id: number; length: number }[] {
    const list: { id: number; length: number }[] = [];
    for (;;) {
      while (this.lastUsed !== this.usedIdx) {
        const at = this.usedAt + 4 + 8 * (this.lastUsed % this.size);
        const id = this.view.getUint32(at, true);
        const chain = this.#chains.get(id);
        if (!chain)
          throw new Error(`used element ${id} is not in flight: it was used twice, or never available`);
        this.#chains.delete(id);
        this.#free.push(...chain);
        list.push({ id, length: this.view.getUint32(at + 4, true) });
        this.lastUsed = (this.lastUsed + 1) & 0xffff;
      }
      this.view.setUint16(this.availAt + 4 + 2 * this.size, this.lastUsed, true);
      if (this.lastUsed === this.usedIdx) return list;
    }
  }

  get usedIdx(): number {
    return this.view.getUint16(this.usedAt + 2, true);
  }
  get inFlight(): number {
    return this.#chains.size;
  }
}

export class VirtioDriver {
  /** Per cfg_type: region of the device (not BAR) and offset. */
  readonly structures = new Map<number, { bar: number; offset: number; length: number; at: number }>();
  multiplier = 0;
  features = 0;
  eventIdx = false;
  readonly queues: DriverQueue[] = [];

  /** @param regionOf BAR index to region of the device */
  constructor(
    readonly port: VirtioPort,
    readonly memory: GuestMemory,
    readonly regionOf: ReadonlyMap<number, number> = new Map([
      [1, 1],
      [4, 0],
    ]),
  ) {
    const read = (r: number, w: number): number => port.configRead(r, w);
    for (let at = findCapability(read, 9); at; at = findCapability(read, 9, at)) {
      const type = read(at + 3, 1);
      if (this.structures.has(type)) continue;
      this.structures.set(type, {
        bar: read(at + 4, 1),
        offset: read(at + 8, 4),
        length: read(at + 12, 4),
        at,
      });
      if (type === CfgType.notify) this.multiplier = read(at + 16, 4);
    }
    port.configWrite(Config.command, 2, Command.memory | Command.busMaster);
  }

  #place(type: number): { region: number; offset: number } {
    const s = this.structures.get(type);
    const region = s && this.regionOf.get(s.bar);
    if (s === undefined || region === undefined) throw new Error(`no structure of type ${type}`);
    return { region, offset: s.offset };
  }
  read(type: number, at: number, width: number): number {
    const { region, offset } = this.#place(type);
    return this.port.read(region, offset + at, width);
  }
  write(type: number, at: number, width: number, value: number): void {
    const { region, offset } = this.#place(type);
    this.port.write(region, offset + at, width, value);
  }
  common(at: number, width: number): number {
    return this.read(CfgType.common, at, width);
  }
  setCommon(at: number, width: number, value: number): void {
    this.write(CfgType.common, at, width, value);
  }

  get status(): number {
    return this.common(0x14, 1);
  }
  set status(value: number) {
    this.setCommon(0x14, 1, value);
  }

  /** 3.1.1 steps 1 to 6. False when the device refused the features. */
  negotiate(want: number): boolean {
    this.status = 0;
    if (this.status !== 0) throw new Error('device did not reset');
    this.status = VirtioStatus.acknowledge;
    this.status = VirtioStatus.acknowledge | VirtioStatus.driver;
    this.setCommon(0x00, 4, 0);
    this.features = (this.common(0x04, 4) & want) >>> 0;
    this.eventIdx = (this.features & (1 << VirtioFeature.eventIdx)) !== 0;
    this.setCommon(0x08, 4, 0);
    this.setCommon(0x0c, 4, this.features);
    this.setCommon(0x08, 4, 1);
    this.setCommon(0x0c, 4, 1);
    this.status = VirtioStatus.acknowledge | VirtioStatus.driver | VirtioStatus.featuresOk;
    return (this.status & VirtioStatus.featuresOk) !== 0;
  }

  /** 4.1.5.1.3. */
  setUpQueue(index: number, base: number, { size = 16, vector = noVector }: QueueSetup = {}): DriverQueue {
    this.setCommon(0x16, 2, index);
    this.setCommon(0x18, 2, size);
    this.setCommon(0x1a, 2, vector);
    const q = new DriverQueue(this, index, size, base, this.common(0x1e, 2) * this.multiplier);
    for (const [at, address] of [
      [0x20, q.descAt],
      [0x28, q.availAt],
      [0x30, q.usedAt],
    ] as const) {
      this.setCommon(at, 4, address);
      this.setCommon(at + 4, 4, 0);
    }
    this.setCommon(0x1c, 2, 1);
    this.queues[index] = q;
    return q;
  }

  start(): void {
    this.status = this.status | VirtioStatus.driverOk;
  }
  notify(q: DriverQueue): void {
    this.write(CfgType.notify, q.notifyAt, 2, q.index);
  }

  /** Turns MSI-X on with vector i going to data 0x40 + i. */
  enableMsix(vectors: number): void {
    const at = findCapability((r, w) => this.port.configRead(r, w), 0x11);
    const region = this.regionOf.get(this.port.configRead(at + 4, 4) & 7) as number;
    for (let i = 0; i < vectors; i++) {
      this.port.write(region, 16 * i, 4, 0xfee00000);
      this.port.write(region, 16 * i + 4, 4, 0);
      this.port.write(region, 16 * i + 8, 4, 0x40 + i);
      this.port.write(region, 16 * i + 12, 4, 0);
    }
    this.port.configWrite(at + 2, 2, 0x8000);
  }
}
