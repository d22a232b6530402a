/** What a served device sees of the world: `DeviceContext` over a state block and the descriptors of a role. */
import type { Struct, View } from '@nyx/layout';
import { fileSize, mmap, type Watch, watch } from '@nyx/native';
import type { DeviceEvent, FaultData, FaultRule, ReportedFault, RoleDevice } from '@nyx/protocol';
import { type IrqPage, type StateBlock, Status, StatusFlag } from '@nyx/ring';
import type { Device, DeviceContext, DeviceKind } from './device.ts';
import type { DeviceHost } from './host.ts';
import type { LineSource } from './lines.ts';
import type { GuestMemory } from './memory.ts';

const notes = { perSecond: 20 } as const;

export class HostedDevice implements DeviceContext<Struct> {
  readonly name: string;
  readonly state: View<Struct>;
  replyHi = 0;
  readonly isolated: boolean;
  /** Status of the exit being handled. */
  status = 0;
  /** Guest ns at which `timer` is wanted. */
  timerNs = Number.POSITIVE_INFINITY;
  device!: Device;
  readonly regions: readonly number[];
  readonly #gsi: readonly (LineSource | undefined)[];
  readonly #watches: Watch[] = [];
  /** What is to be watched once the state is ours. */
  readonly #unwatched: [fd: number, readable: () => void, drain: boolean][] = [];
  #attached = false;
  readonly #mapped = new Map<string, ArrayBuffer>();
  #notes = 0;
  #suppressed = 0;
  #second = 0;

  constructor(
    readonly host: DeviceHost,
    readonly kind: DeviceKind,
    readonly block: StateBlock,
    readonly role: RoleDevice,
    readonly fds: readonly number[],
    readonly irqPage: IrqPage,
    readonly memory: GuestMemory,
    irqs: number,
    /** In its process. */
    readonly index: number,
  ) {
    this.name = role.name;
    this.isolated = role.isolated === true;
    this.state = block.state;
    this.regions = kind.regions.map((r) => r.size);
    this.#gsi = Array.from({ length: irqs }, (_, i) => {
      const gsi = role.gsi?.[i];
      return gsi === undefined ? undefined : host.lines.source(gsi);
    });
  }

  now(): number {
    return this.host.clock.now();
  }
  wallClock(): number {
    return this.host.clock.page.wallClock;
  }
  unclaimed(): void {
    this.status = (this.status & ~0xff) | Status.unclaimed;
  }
  machineEvent(event: number): void {
    this.status = (this.status & ~0xff0000) | (event << StatusFlag.eventShift);
  }

  setRange(i: number, space: number, region: number, base: number, length: number): void {
    const range = this.block.ranges[i];
    if (range === undefined) throw new RangeError(`${this.name}: range ${i} of ${this.block.ranges.length}`);
    if (range.space === space && range.region === region && range.base === base && range.length === length)
      return;
    range.space = space;
    range.region = region;
    range.base = base;
    range.length = length;
    this.status |= StatusFlag.mapChanged;
  }

  line(i: number, word: number): void {
    if (this.role.irqShift !== undefined) word += 2 * (this.role.irqShift[i] ?? 0);
    if (this.host.injector !== undefined) {
      if (this.host.injector.holdsLine(this, i, word, () => this.#setLine(i, word))) return;
      word += 2 * this.host.injector.engine.shift(this.role.irqBase + i);
    }
    this.#setLine(i, word);
  }
  /** Its line goes to controllers of this process, not by the interrupt page. */
  routed(i: number): boolean {
    return this.#gsi[i] !== undefined;
  }
  #setLine(i: number, word: number): void {
    const source = this.#gsi[i];
    if (source !== undefined) this.host.lines.set(source, word);
    else this.irqPage.setLine(this.role.irqBase + i, word);
  }
  message(i: number, addressLo: number, addressHi: number, data: number, count: number): void {
    if (this.role.irqShift !== undefined) count += this.role.irqShift[i] ?? 0;
    if (this.host.injector !== undefined) {
      const { engine } = this.host.injector;
      const entry = this.role.irqBase + i;
      const publish = (): void =>
        this.irqPage.setMessage(entry, addressLo, addressHi, data, count + engine.shift(entry));
      if (!this.host.injector.holdsMessage(this, i, count, publish)) publish();
      return;
    }
    this.irqPage.setMessage(this.role.irqBase + i, addressLo, addressHi, data, count);
  }
  timerAt(guestNs: number): void {
    this.timerNs = guestNs;
  }
  event(change: () => void): void {
    this.host.event(this, change);
  }
  checkpoint(): void {
    this.host.checkpoint(this);
  }
  fault(op: number, position: number): FaultRule | undefined {
    const { injector } = this.host;
    return injector === undefined ? undefined : injector.engine.io(this.index, op, position);
  }

  tell(event: string, detail: DeviceEvent['detail']): void {
    this.host.options.tell?.({ type: 'device', device: this.name, event, detail });
  }
  raise(kind: ReportedFault, data: FaultData): void {
    this.host.options.raise?.(this.name, kind, data);
  }

  has(name: string): boolean {
    return this.role.fds[name] !== undefined;
  }
  fd(name: string): number {
    const fd = this.fds[this.role.fds[name] ?? -1];
    if (fd === undefined)
      throw Object.assign(new Error(`${this.name} needs a descriptor '${name}' in its role`), {
        code: 'ROLE_DESCRIPTOR',
      });
    return fd;
  }
  bulk(name: string): ArrayBuffer {
    let buffer = this.#mapped.get(name);
    if (buffer === undefined) {
      const fd = this.fd(name);
      try {
        buffer = mmap(fd, fileSize(fd));
      } catch (e) {
        const { code } = e as { code?: string };
        if (code !== 'EPERM' && code !== 'EACCES') throw e;
        buffer = mmap(fd, fileSize(fd), { write: false });
      }
      this.#mapped.set(name, buffer);
    }
    return buffer;
  }
  signal(fd: number): void {
    this.host.signal(fd);
  }
  watch(fd: number, readable: () => void, drain = true): void {
    if (this.#attached) this.#watches.push(watch(fd, readable, { drain }));
    else this.#unwatched.push([fd, readable, drain]);
  }

  get created(): boolean {
    return this.device !== undefined;
  }

  /** Makes the device. */
  create(): void {
    this.device = this.kind.create(this, this.role.config);
  }

  /** The state is ours. */
  attach(): void {
    this.block.attach();
    if (!this.created) this.create();
    this.#attached = true;
    this.device.attach?.();
    for (const [fd, readable, drain] of this.#unwatched.splice(0)) this.watch(fd, readable, drain);
  }

  /** Hears of nothing any more. */
  close(): void {
    for (const w of this.#watches) w.close();
  }

  log(level: string, message: string): void {
    const second = Math.floor(this.now() / 1e9);
    if (second !== this.#second) {
      if (this.#suppressed > 0) this.host.log('warn', this.name, `${this.#suppressed} notes were suppressed`);
      this.#second = second;
      this.#notes = 0;
      this.#suppressed = 0;
    }
    if (this.#notes++ < notes.perSecond) this.host.log(level, this.name, message);
    else this.#suppressed++;
  }
}
