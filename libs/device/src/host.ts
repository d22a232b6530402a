/**
 * The devices of one process, served: the loop between exit rings, state blocks, timers, host events and interrupts.
 * Every event is handled as ARCHITECTURE.md, "State block and the commit point", tells: the handler changes the other
 * half, the commit, the reply, then `settle`.
 *
 *     exit ----\
 *     timer ----> handler -> commit (-> reply) -> settle -> lines -> controllers (events of their own) -> irq kick
 *     event ---/
 *
 * A handler that throws is a bug: the process ends before the commit, and a successor executes the exit again.
 *
 * Length: the hot path is one object, so that an exit costs no call beyond it; what is not hot is in files of its own.
 */
import { crc32c, createTimer, ctl, eventfdWrite, fileSize, mmap, monotonicNs, type Timer } from '@nyx/native';
import type {
  DeviceEvent,
  DeviceOrder,
  FaultData,
  FaultRule,
  ReportedFault,
  Role,
  RoleDevice,
} from '@nyx/protocol';
import {
  blockBytes,
  ClassKind,
  ExitKind,
  ExitServer,
  GuestClock,
  IrqPage,
  mapRings,
  openPageMap,
  pageMapBytes,
  SavedPages,
  StateBlock,
  Status,
} from '@nyx/ring';
import { classesOf } from './classes.ts';
import { HostedDevice } from './context.ts';
import type { AnyDeviceKind } from './device.ts';
import { Before } from './faults/engine.ts';
import { Injector } from './faults/injector.ts';
import { Faults } from './faults/page.ts';
import { Transcript } from './faults/transcript.ts';
import { LineRouter } from './lines.ts';
import { GuestMemory } from './memory.ts';
import { resetState } from './reset.ts';

const servedWithoutAsking = (kind: number): boolean =>
  kind === ClassKind.shadow || kind === ClassKind.counter;

/** How often a paused clock is looked at while timers wait for it. */
const pausedPollNs = 10_000_000;

export interface HostOptions {
  /** Ends the process: a bug, or shared memory that cannot be trusted any more. */
  fatal(error: unknown): never;
  log(level: string, device: string, message: string): void;
  /** A device tells a fault. */
  raise?(device: string, kind: ReportedFault, data: FaultData): void;
  /** A device tells the supervisor something. */
  tell?(event: DeviceEvent): void;
  /** The program has no threads that change what outlives the process (default true). */
  alone?: boolean;
}

export class DeviceHost {
  readonly clock: GuestClock;
  readonly lines = new LineRouter();
  readonly devices: HostedDevice[] = [];
  /** Exits for no device, no region, or of a bad shape. */
  bad = 0;
  epoch = 0;
  republished = 0;
  repaired: string[] = [];
  readonly #server: ExitServer;
  readonly #ctl: Uint32Array;
  readonly #irqs: IrqPage;
  readonly #irqPage: ArrayBuffer;
  /** Its ring memfd. */
  readonly rings: ArrayBuffer;
  readonly #controllers: HostedDevice[] = [];
  readonly #timer: Timer;
  /** Guest ns that the timer is armed for. */
  #armed = Number.POSITIVE_INFINITY;
  #busy = false;
  readonly #queue: (() => void)[] = [];
  /** Faults on purpose; undefined until a rule is given. */
  injector: Injector | undefined;
  #transcript: Transcript | undefined;
  #faultPage: ArrayBuffer | undefined;
  #faults: Faults | undefined;
  #openTranscript: (() => Transcript) | undefined;
  #attached = false;
  /** Not yet told: nobody is to be woken before the guest, which waits, has its answer. */
  #untold: Set<number> | undefined = new Set();

  /**
   * Maps what the role names and attaches.
   * @param later a predecessor may still serve: everything is prepared that changes nothing in shared memory, reads no
   * state and hears no event; `attach` comes when the predecessor is gone
   * @throws coded errors of libs/ring, the addon, or a device's `create`; nothing was changed then
   */
  constructor(
    readonly role: Role,
    fds: readonly number[],
    kinds: readonly AnyDeviceKind[],
    readonly options: HostOptions,
    later = false,
  ) {
    const fd = (index: number): number => {
      const found = fds[index];
      if (found === undefined)
        throw Object.assign(new Error(`the role names descriptor ${index}, ${fds.length} came with it`), {
          code: 'ROLE_DESCRIPTOR',
        });
      return found;
    };
    const map = (index: number): ArrayBuffer => mmap(fd(index), fileSize(fd(index)));
    this.clock = new GuestClock(mmap(fd(role.vmPage), fileSize(fd(role.vmPage)), { write: false }));
    const ram = role.ram === undefined ? new ArrayBuffer(0) : map(role.ram);
    const attachPages = role.pageMap === undefined ? undefined : this.#pages(fd(role.pageMap), role, ram);
    const memory = (): GuestMemory => {
      const m = new GuestMemory(ram, Math.min(role.ramLowBytes, ram.byteLength));
      attachPages?.(m);
      return m;
    };
    this.#irqPage = map(role.irqPage);
    this.rings = mapRings(fd(role.ring));
    this.#irqs = new IrqPage(this.#irqPage, fd(role.irqEvent));
    this.#server = new ExitServer({
      rings: this.rings,
      kick: fd(role.kick),
      alone: options.alone ?? true,
      onExit: () => this.#exit(),
    });
    this.#ctl = this.#server.ctl;
    const { faults } = role;
    for (const d of role.devices) this.#add(d, fds, kinds, map, memory(), faults?.transcript !== undefined);
    this.#timer = createTimer(() => this.#fired());
    if (faults !== undefined) {
      this.#faultPage = map(faults.page);
      this.#faults = new Faults(this.#faultPage);
      if (faults.transcript !== undefined) {
        const transcript = map(faults.transcript);
        this.#openTranscript = () => new Transcript(transcript, this.#server.view);
      }
    }
    if (!later) this.attach();
  }

  /** Nobody else changes the state any more: takes it over. @throws as the constructor */
  attach(): void {
    if (this.#attached) return;
    this.#attached = true;
    for (const d of this.devices) {
      try {
        d.attach();
      } catch (e) {
        throw Object.assign(e as Error, { device: d.name });
      }
      if (d.block.repaired) this.repaired.push(d.name);
      this.#server.addBlock(d.block);
      if (d.device.line) this.#controllers.push(d);
    }
    for (const d of this.devices) d.block.confirm();
    const { faults } = this.role;
    if (faults === undefined || this.#faults === undefined) return;
    this.#transcript = this.#openTranscript?.();
    // A process without rules goes on with what faults before did to interrupt words.
    if (faults.rules.length > 0 || this.#faults.page.recorded > 0) this.setFaults(faults.rules);
  }

  /** Passes on what the supervisor has to say. False: there is no such device, or it has no ear. */
  order(device: string, order: DeviceOrder['order'], fds: readonly number[]): boolean {
    const d = this.devices.find((x) => x.name === device)?.device;
    if (d?.order === undefined) return false;
    d.order(order, fds);
    return true;
  }

  /** These rules and no others. */
  setFaults(rules: readonly FaultRule[]): void {
    if (this.#faultPage === undefined) return;
    this.injector ??= new Injector(this.#faultPage, {
      words: this.#ctl,
      now: () => this.clock.now(),
      strike: () => this.#server.strike(),
      published: () => {
        if (!this.#busy) this.#after();
      },
    });
    this.injector.setRules(rules, this.devices);
  }

  #pages(fd: number, role: Role, ram: ArrayBuffer): (m: GuestMemory) => void {
    const count = role.ramBytes / 4096;
    // What is behind is the page store, which the addon maps.
    const buffer = mmap(fd, pageMapBytes(count));
    const { code, dirty, attend } = openPageMap(buffer, this.clock.page.cpus, count);
    const store = new SavedPages(fd, buffer, ram);
    return (m) => m.attachPageMap(code, dirty, attend, store);
  }

  #add(
    role: RoleDevice,
    fds: readonly number[],
    kinds: readonly AnyDeviceKind[],
    map: (fd: number) => ArrayBuffer,
    memory: GuestMemory,
    askAlways: boolean,
  ): void {
    const kind = kinds.find((k) => k.kind === role.kind);
    if (kind === undefined)
      throw Object.assign(
        new Error(
          `'${role.name}' is a '${role.kind}', this program serves ${kinds.map((k) => k.kind).join(', ')}`,
        ),
        { code: 'ROLE_KIND' },
      );
    const classes = askAlways ? classesOf(kind).filter((c) => !servedWithoutAsking(c.kind)) : classesOf(kind);
    const { stateVersion, state, ranges, migrations = [] } = kind;
    const block = new StateBlock(
      map(role.state),
      { kind: kind.kind, stateVersion, state, ranges, classes, migrations },
      true,
    );
    const irqs = kind.irqs(role.config);
    const index = this.devices.length;
    memory.refused = (address, bytes) =>
      this.options.raise?.(role.name, 'dmaFault', { address: `0x${address.toString(16)}`, bytes });
    const hosted = new HostedDevice(this, kind, block, role, fds, this.#irqs, memory, irqs, index);
    this.devices.push(hosted);
    if (kind.early?.(role.config)) hosted.create();
  }

  /** Devices whose state attaching will migrate, tried on a copy. @throws RingError STATE_* of a state that cannot be */
  foresee(): string[] {
    return this.devices.filter((d) => d.block.foresee()).map((d) => d.name);
  }

  /** All devices were made: what is left to do makes nothing new. */
  get complete(): boolean {
    return this.devices.every((d) => d.created);
  }

  /** Reads what attaching will read, so that this process's page tables know it. */
  touch(): void {
    for (const { block } of this.devices) crc32c(block.buffer, 0, blockBytes(block.spec));
    for (const buffer of [this.#irqPage, this.rings]) crc32c(buffer, 0, buffer.byteLength);
  }

  /** Republishes what was committed, and makes the outside world what the state says. Then `serve`. */
  start(): void {
    const { republished, epoch } = this.#server.attach();
    this.republished = republished;
    this.epoch = epoch;
    // Never committed: a fresh block, or one whose first process died at once.
    for (const d of this.devices) if (d.block.generation === 0) this.#change(d, () => d.device.reset());
    this.#irqs.mustKick();
    for (const d of this.devices) this.#settleOne(d);
    this.#after();
  }

  /** Answers: at once what is waiting, the rest by the event loop. */
  serve(): void {
    const untold = this.#untold ?? [];
    this.#untold = undefined;
    this.#server.start();
    this.#server.serve();
    for (const fd of untold) eventfdWrite(fd);
    this.#irqs.kick();
  }

  /** Adds 1 to an eventfd. */
  signal(fd: number): void {
    if (this.#untold) this.#untold.add(fd);
    else eventfdWrite(fd);
  }

  /** Serves no more. Mappings and descriptors stay with who gave them. */
  close(): void {
    for (const d of this.devices) d.close();
    this.#timer.close();
    this.#server.close();
  }

  // ---- exits ----

  #exit(): void {
    const words = this.#ctl;
    if (words[ctl.kind] === ExitKind.time) {
      this.#time();
      return;
    }
    const d = this.devices[words[ctl.device]!];
    if (d === undefined) {
      this.bad++;
      this.#transcript?.record(words, 0xffffffff, 0xffffffff, Status.unclaimed);
      this.#server.reply(0xffffffff, 0xffffffff, Status.unclaimed);
      return;
    }
    this.#busy = true;
    d.status = Status.ok;
    d.replyHi = 0;
    let value: number;
    try {
      value = this.injector === undefined ? this.#handle(d, words) : this.#faulty(d, words, this.injector);
    } catch (e) {
      this.options.fatal(e);
    }
    const { status } = d;
    let high = d.replyHi;
    if ((status & 0xff) === Status.unclaimed) {
      value = 0xffffffff;
      high = 0xffffffff;
    }
    if (this.#transcript !== undefined) this.#transcript.record(words, value >>> 0, high >>> 0, status);
    this.#server.commit(d.block, value >>> 0, high >>> 0, status);
    this.#settleOne(d);
    this.#busy = false;
    this.#after();
    if (this.injector !== undefined) this.injector.engine.over();
  }

  /** `#handle` where faults are made. */
  #faulty(d: HostedDevice, words: Uint32Array, { engine }: Injector): number {
    const then = engine.before();
    let value = 0xffffffff;
    if (then === Before.error) d.unclaimed();
    else if (then !== Before.drop) {
      if (then === Before.twice) this.#handle(d, words);
      value = this.#handle(d, words);
    }
    value = engine.answer(value);
    if (Number.isNaN(value)) d.unclaimed();
    return value;
  }

  #handle(d: HostedDevice, words: Uint32Array): number {
    const { device } = d;
    const width = words[ctl.width]!;
    const region = words[ctl.region]!;
    const offset = words[ctl.offsetLo]!;
    switch (words[ctl.kind]) {
      case ExitKind.read:
        if (!this.#inside(d, region, offset)) return 0;
        return cut(device.read(region, offset, width), width);
      case ExitKind.write:
        if (!this.#inside(d, region, offset)) return 0;
        device.write(region, offset, width, words[ctl.dataLo]!, words[ctl.dataHi]!);
        return 0;
      case ExitKind.readBurst:
      case ExitKind.writeBurst:
        if (this.#inside(d, region, offset)) this.#burst(d, words, region, offset, width);
        return 0;
      case ExitKind.configRead:
        if (device.configRead === undefined) break;
        return cut(device.configRead(region, offset, width), width);
      case ExitKind.configWrite:
        if (device.configWrite === undefined) break;
        device.configWrite(region, offset, width, words[ctl.dataLo]!);
        return 0;
      case ExitKind.intAck:
        if (device.intAck === undefined) break;
        return device.intAck();
      case ExitKind.eoi:
        if (device.eoi === undefined) break;
        device.eoi(words[ctl.dataLo]! & 0xff);
        return 0;
      case ExitKind.line:
        this.#lineExit(d, offset, words[ctl.dataLo]!);
        return 0;
      case ExitKind.reset:
        this.#reset(d);
        return 0;
    }
    this.bad++;
    d.unclaimed();
    return 0;
  }

  #inside(d: HostedDevice, region: number, offset: number): boolean {
    const size = d.regions[region];
    if (size !== undefined && offset < size && this.#ctl[ctl.offsetHi] === 0) return true;
    this.bad++;
    d.unclaimed();
    return false;
  }

  #burst(d: HostedDevice, words: Uint32Array, region: number, offset: number, width: number): void {
    const { device } = d;
    const area = this.#server.bursts[words[ctl.ring]!]!;
    const bytes = words[ctl.count]! * width;
    if (bytes > area.length) {
      this.bad++;
      d.unclaimed();
      return;
    }
    const data = area.subarray(0, bytes);
    if (words[ctl.kind] === ExitKind.readBurst) {
      if (device.readBurst) device.readBurst(region, offset, width, data);
      else
        for (let at = 0; at < bytes; at += width) {
          const value = device.read(region, offset, width);
          for (let i = 0; i < width; i++)
            data[at + i] = i < 4 ? value >>> (8 * i) : d.replyHi >>> (8 * (i - 4));
        }
    } else if (device.writeBurst) device.writeBurst(region, offset, width, data);
    else
      for (let at = 0; at < bytes; at += width) {
        let low = 0;
        let high = 0;
        for (let i = 0; i < width; i++)
          if (i < 4) low |= data[at + i]! << (8 * i);
          else high |= data[at + i]! << (8 * (i - 4));
        device.write(region, offset, width, low >>> 0, high >>> 0);
      }
  }

  /** A line of another process: the controllers beside the one asked hear it first, each by an event of its own. */
  #lineExit(asked: HostedDevice, gsi: number, word: number): void {
    for (const c of this.#controllers) {
      if (c === asked || c.device.hasHeard?.(gsi, word)) continue;
      c.device.line!(gsi, word);
      this.#server.commitEvent(c.block);
      this.#settleOne(c);
    }
    asked.device.line?.(gsi, word);
  }

  #reset(d: HostedDevice): void {
    const { block, kind } = d;
    for (let i = 0; i < block.ranges.length; i++) d.setRange(i, 0, 0, 0, 0);
    resetState(kind.state, kind.keep ?? [], block.memory, block.root.base + d.state.$offset);
    d.device.reset();
  }

  // ---- events ----

  /** A change that is not an exit. Called within a handler or `settle`, it waits until that is over. */
  event(d: HostedDevice, change: () => void): void {
    if (this.#busy) {
      this.#queue.push(() => this.#change(d, change));
      return;
    }
    this.#change(d, change);
    this.#settleOne(d);
    this.#after();
  }

  checkpoint(d: HostedDevice): void {
    this.#server.commitEvent(d.block);
  }

  #change(d: HostedDevice, change: () => void): void {
    this.#busy = true;
    try {
      change();
    } catch (e) {
      this.options.fatal(e);
    }
    this.#server.commitEvent(d.block);
    this.#busy = false;
  }

  #settleOne(d: HostedDevice): void {
    try {
      d.device.settle();
    } catch (e) {
      this.options.fatal(e);
    }
  }

  /** After devices settled: lines into controllers, queued events, the kick for the vCPU process, the timer. */
  #after(): void {
    do {
      if (this.lines.pending) this.lines.deliver(this.#tell);
      for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift()) {
        next();
        for (const d of this.devices) this.#settleOne(d);
      }
    } while (this.lines.pending);
    if (!this.#untold) this.#irqs.kick();
    this.#arm();
  }

  readonly #tell = (gsi: number, word: number): void => {
    for (const c of this.#controllers) {
      if (c.device.hasHeard?.(gsi, word)) continue;
      this.#change(c, () => c.device.line!(gsi, word));
      this.#settleOne(c);
    }
  };

  // ---- time ----

  /** Deterministic mode: what is due happens, and the answer is when something is due next (ExitKind.time). */
  #time(): void {
    if (this.clock.virtual) this.#fired();
    let busy = false;
    let first = Number.POSITIVE_INFINITY;
    for (const d of this.devices) {
      if (d.timerNs < first) first = d.timerNs;
      busy ||= d.device.busy?.() === true;
    }
    const ns = Math.ceil(first);
    const never = ns > Number.MAX_SAFE_INTEGER;
    const low = never ? 0xffffffff : ns >>> 0;
    const high = (never ? 0x7fffffff : Math.floor(ns / 2 ** 32)) | (busy ? 0x80000000 : 0);
    this.#transcript?.record(this.#ctl, low, high >>> 0, Status.ok);
    this.#server.reply(low, high >>> 0, Status.ok);
  }

  /** Arms the timer when something is due earlier than it is armed for; one that fires early arms itself again. */
  #arm(): void {
    let first = Number.POSITIVE_INFINITY;
    for (const d of this.devices) if (d.timerNs < first) first = d.timerNs;
    if (first >= this.#armed || this.clock.virtual) return;
    this.#armed = first;
    const host = this.clock.hostTime(first);
    this.#timer.armAt(host === Number.POSITIVE_INFINITY ? monotonicNs() + pausedPollNs : host);
  }

  #fired(): void {
    this.#armed = Number.POSITIVE_INFINITY;
    for (const d of this.devices) {
      if (d.timerNs > this.clock.now()) continue;
      // settle arms it anew.
      d.timerNs = Number.POSITIVE_INFINITY;
      this.#change(d, () => d.device.timer?.());
      this.#settleOne(d);
    }
    this.#after();
  }

  log(level: string, device: string, message: string): void {
    this.options.log(level, device, message);
  }
}

/** A device may answer more bits than were asked for; the guest gets those it asked for. */
const cut = (value: number, width: number): number =>
  (width >= 4 ? value : value & (width === 1 ? 0xff : 0xffff)) >>> 0;
