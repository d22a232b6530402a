/**
 * A device on a bench: the kit's behaviour over private memory, with a clock that the test moves. Nothing here
 * needs the addon. `Rig` does what `serve.ts` does for each event: handler, (commit), settle, due timers.
 */
import { Memory, Root, resetValues, type Struct, type View, viewAt } from '@nyx/layout';
import type { Device, DeviceContext, DeviceKind } from './device.ts';
import { testMemory } from './memory.ts';
import { resetState } from './reset.ts';

export interface Message {
  addressLo: number;
  addressHi: number;
  data: number;
  count: number;
}

export class TestContext<S extends Struct> implements DeviceContext<S> {
  readonly name = 'test';
  readonly bytes: Uint8Array;
  readonly state: View<S>;
  readonly memory = testMemory(0x20000);
  replyHi = 0;
  time = 0;
  epoch = 1_700_000_000;
  isUnclaimed = false;
  machine = 0;
  timerNs = Number.POSITIVE_INFINITY;
  checkpoints = 0;
  readonly lines: number[] = [];
  readonly messages: Message[] = [];
  readonly ranges: { space: number; region: number; base: number; length: number }[] = [];
  readonly bulks = new Map<string, ArrayBuffer>();
  readonly fds = new Map<string, number>();
  readonly signals = new Map<number, number>();
  readonly watched = new Map<number, () => void>();
  readonly logged: string[] = [];
  settled: () => void = () => {};

  constructor(kind: DeviceKind<S, never>) {
    const memory = new Memory(new ArrayBuffer((kind.state.bytes + 7) & ~7));
    this.bytes = memory.u8.subarray(0, kind.state.bytes);
    this.state = viewAt(kind.state, new Root(memory)) as View<S>;
    resetValues(kind.state, memory, 0);
    for (let i = 0; i < kind.ranges; i++) this.setRange(i, 0, 0, 0, 0);
  }
  now(): number {
    return this.time;
  }
  wallClock(): number {
    return this.epoch;
  }
  unclaimed(): void {
    this.isUnclaimed = true;
  }
  machineEvent(event: number): void {
    this.machine = event;
  }
  setRange(i: number, space: number, region: number, base: number, length: number): void {
    this.ranges[i] = { space, region, base, length };
  }
  line(i: number, word: number): void {
    this.lines[i] = word;
  }
  message(i: number, addressLo: number, addressHi: number, data: number, count: number): void {
    this.messages[i] = { addressLo, addressHi, data, count };
  }
  timerAt(guestNs: number): void {
    this.timerNs = guestNs;
  }
  event(change: () => void): void {
    change();
    this.settled();
  }
  checkpoint(): void {
    this.checkpoints++;
  }
  has(name: string): boolean {
    return this.bulks.has(name) || this.fds.has(name);
  }
  fd(name: string): number {
    const fd = this.fds.get(name);
    if (fd === undefined) throw new Error(`no descriptor ${name}`);
    return fd;
  }
  bulk(name: string): ArrayBuffer {
    const buffer = this.bulks.get(name);
    if (buffer === undefined) throw new Error(`no bulk memory ${name}`);
    return buffer;
  }
  signal(fd: number): void {
    this.signals.set(fd, (this.signals.get(fd) ?? 0) + 1);
  }
  watch(fd: number, readable: () => void): void {
    this.watched.set(fd, readable);
  }
  log(_level: string, message: string): void {
    this.logged.push(message);
  }
}

export interface RigOptions<S extends Struct, C> {
  config: C;
  /** Gives the context bulk memory and descriptors before the device is created. */
  prepare?(ctx: TestContext<S>): void;
}

/** What an access gave: everything a guest or the machine can tell apart. */
export interface Outcome {
  value: number;
  high: number;
  unclaimed: boolean;
  machine: number;
}

export class Rig<S extends Struct, C> {
  readonly ctx: TestContext<S>;
  device: Device;

  constructor(
    readonly kind: DeviceKind<S, C>,
    readonly options: RigOptions<S, C>,
  ) {
    this.ctx = new TestContext(kind as unknown as DeviceKind<S, never>);
    options.prepare?.(this.ctx);
    this.device = kind.create(this.ctx, options.config);
    this.ctx.settled = () => this.settle();
    this.device.reset();
    this.settle();
  }

  /** Forgets everything but the state, as a restarted process. */
  restart(): void {
    this.ctx.watched.clear();
    this.device = this.kind.create(this.ctx, this.options.config);
    this.settle();
  }

  settle(): void {
    this.device.settle();
  }

  /** Runs one event of any kind, and settles. */
  run(handler: (d: Device) => number | void): Outcome {
    const { ctx } = this;
    ctx.replyHi = 0;
    ctx.isUnclaimed = false;
    ctx.machine = 0;
    const value = handler(this.device) ?? 0;
    const outcome = { value, high: ctx.replyHi, unclaimed: ctx.isUnclaimed, machine: ctx.machine };
    this.settle();
    return outcome;
  }

  read(region: number, offset: number, width = 1): number {
    return this.run((d) => d.read(region, offset, width)).value;
  }
  write(region: number, offset: number, value: number, width = 1, valueHi = 0): Outcome {
    return this.run((d) => d.write(region, offset, width, value, valueHi));
  }

  /** Lets guest time pass, with every timer that falls due on the way. @throws Error when timers never end. */
  advance(ns: number, most = 100_000): void {
    const { ctx } = this;
    const end = ctx.time + ns;
    for (let n = 0; ctx.timerNs <= end; n++) {
      if (n === most) throw new Error(`${most} timers fell due within ${ns} ns`);
      ctx.time = Math.max(ctx.time, ctx.timerNs);
      this.fire();
    }
    ctx.time = end;
  }
  /** The timer fires now. */
  fire(): void {
    this.run((d) => d.timer?.());
  }

  reset(): void {
    const { device, ctx, kind } = this;
    resetState(kind.state, kind.keep ?? [], ctx.state.$root.mem, 0);
    device.reset();
    this.settle();
  }
}
