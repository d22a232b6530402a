/**
 * A bench on which a device process can die at any step. It does what the kit does (handler on a copy, commit, reply,
 * settle, queued events), but its state, guest memory, interrupt words and ranges outlive the device object. A step
 * is everything by which the device reaches out of its own memory: context calls, DMA, backend calls, and the borders
 * of the commit. `dieAt` names the step at which the process dies; then a new device attaches, and what the old one
 * had not committed is executed again.
 */
import { Memory, Root, resetValues, type Struct, type View, viewAt } from '@nyx/layout';
import type { Device, DeviceContext, DeviceKind } from './device.ts';
import { GuestMemory } from './memory.ts';
import { resetState } from './reset.ts';
import type { Message } from './testing.ts';

/** Thrown at the step where the process dies; not an Error, so that nothing takes it for one. */
class Death {}

class SteppedMemory extends GuestMemory {
  step: () => void = () => {};
  override dirty(at: number, length: number): void {
    this.step();
    super.dirty(at, length);
  }
}

export interface CrashRigOptions<S extends Struct, C> {
  kind: DeviceKind<S, C>;
  config: C;
  memoryBytes?: number;
  /** Bulk memory of the role, by name; it outlives the process. */
  bulks?: Readonly<Record<string, ArrayBuffer>>;
  /** The process died: backends decide what becomes of their I/O. */
  died?(): void;
}

export class CrashRig<S extends Struct, C> {
  readonly memory: SteppedMemory;
  readonly messages: Message[] = [];
  readonly lines: number[] = [];
  readonly ranges: { space: number; region: number; base: number; length: number }[] = [];
  readonly logged: string[] = [];
  /** Steps so far, of all processes. */
  steps = 0;
  /** Steps at which the process dies, ascending. */
  dieAt: number[] = [];
  deaths = 0;
  /** A new device object after every event. */
  amnesia = false;
  time = 0;
  timerNs = Number.POSITIVE_INFINITY;
  device!: Device;
  readonly state: View<S>;
  readonly #bytes: Uint8Array;
  #committed: Uint8Array;
  #committedRanges: string;
  #queue: (() => void)[] = [];
  #busy = false;
  #context!: DeviceContext<S>;

  constructor(readonly options: CrashRigOptions<S, C>) {
    const { kind } = options;
    const { buffer } = new Memory(new ArrayBuffer(options.memoryBytes ?? 0x100000));
    this.memory = new SteppedMemory(buffer as ArrayBuffer, buffer.byteLength);
    const state = new Memory(new ArrayBuffer((kind.state.bytes + 7) & ~7));
    resetValues(kind.state, state, 0);
    this.#bytes = state.u8;
    this.state = viewAt(kind.state, new Root(state)) as View<S>;
    for (let i = 0; i < kind.ranges; i++) this.ranges[i] = { space: 0, region: 0, base: 0, length: 0 };
    this.#committed = this.#bytes.slice();
    this.#committedRanges = JSON.stringify(this.ranges);
    this.#create();
    this.#change(() => this.device.reset());
    this.#settle();
    this.memory.step = () => this.step();
  }

  /** One step; the process may die here. */
  step(): void {
    this.steps++;
    if (this.dieAt.length > 0 && this.steps >= this.dieAt[0]!) {
      this.dieAt.shift();
      throw new Death();
    }
  }

  #create(): void {
    this.timerNs = Number.POSITIVE_INFINITY;
    this.#queue = [];
    this.#busy = false;
    this.#context = this.#makeContext();
    this.device = this.options.kind.create(this.#context, this.options.config);
  }

  #makeContext(): DeviceContext<S> {
    const rig = this;
    /** A dead process does nothing more. */
    const alive = (): boolean => rig.#context === context;
    const context: DeviceContext<S> = {
      name: 'test',
      state: this.state,
      memory: this.memory,
      replyHi: 0,
      now: () => rig.time,
      wallClock: () => 1_700_000_000,
      unclaimed: () => {},
      machineEvent: () => {},
      setRange(i, space, region, base, length) {
        rig.step();
        rig.ranges[i] = { space, region, base, length };
      },
      line(i, word) {
        rig.step();
        rig.lines[i] = word;
      },
      message(i, addressLo, addressHi, data, count) {
        rig.step();
        rig.messages[i] = { addressLo, addressHi, data, count };
      },
      timerAt(ns) {
        rig.timerNs = ns;
      },
      event(change) {
        if (!alive()) return;
        rig.step();
        if (rig.#busy) {
          rig.#queue.push(change);
          return;
        }
        rig.#change(change);
        rig.device.settle();
        rig.#after();
      },
      checkpoint() {
        rig.#commit();
      },
      has: (name) => rig.options.bulks?.[name] !== undefined,
      fd() {
        throw new Error('no descriptors here');
      },
      bulk(name) {
        const buffer = rig.options.bulks?.[name];
        if (buffer === undefined) throw new Error(`no bulk memory '${name}' here`);
        return buffer;
      },
      signal: () => rig.step(),
      watch: () => {},
      log: (_level, message) => rig.logged.push(message),
    };
    return context;
  }

  /** @param done runs in the same step as the commit: the reply is part of the commit record */
  #commit(done?: () => void): void {
    this.step();
    this.#committed = this.#bytes.slice();
    this.#committedRanges = JSON.stringify(this.ranges);
    done?.();
    this.step();
  }
  #change(change: () => void): void {
    this.#busy = true;
    change();
    this.#commit();
    this.#busy = false;
  }
  #settle(): void {
    this.device.settle();
    this.#after();
  }
  #after(): void {
    for (let next = this.#queue.shift(); next; next = this.#queue.shift()) {
      this.#change(next);
      this.device.settle();
    }
  }

  /** Runs `work` of this process; when it dies, a new one attaches, dying again if it must. True: it survived. */
  survive(work: () => void): boolean {
    try {
      work();
      return true;
    } catch (e) {
      if (!(e instanceof Death)) throw e;
    }
    this.attach();
    return false;
  }

  /** The process is gone; a new one attaches to what is left. */
  attach(): void {
    for (;;) {
      this.deaths++;
      this.#bytes.set(this.#committed);
      (JSON.parse(this.#committedRanges) as typeof this.ranges).forEach((r, i) => {
        this.ranges[i] = r;
      });
      this.options.died?.();
      try {
        this.#create();
        this.#settle();
        return;
      } catch (e) {
        if (!(e instanceof Death)) throw e;
      }
    }
  }

  /** An exit: executed until one process committed it; its reply outlives that process. */
  exit(handler: (d: Device) => number | undefined): number {
    let reply: number | undefined;
    while (reply === undefined)
      this.survive(() => {
        this.#busy = true;
        const value = handler(this.device) ?? 0;
        this.#commit(() => {
          reply = value;
        });
        this.device.settle();
        this.#busy = false;
        this.#after();
      });
    if (this.amnesia) this.attach();
    return reply;
  }

  read(region: number, offset: number, width: number): number {
    return this.exit((d) => d.read(region, offset, width));
  }
  write(region: number, offset: number, width: number, value: number): void {
    this.exit((d) => {
      d.write(region, offset, width, value, 0);
      return undefined;
    });
  }
  configRead(register: number, width: number): number {
    return this.exit((d) => d.configRead?.(0, register, width));
  }
  configWrite(register: number, width: number, value: number): void {
    this.exit((d) => {
      d.configWrite?.(0, register, width, value);
      return undefined;
    });
  }

  /** Something on the host's side happens to the process, e.g. I/O completes. */
  host(work: () => void): void {
    this.survive(work);
    if (this.amnesia) this.attach();
  }
  fire(): void {
    this.timerNs = Number.POSITIVE_INFINITY;
    this.host(() => {
      this.#change(() => this.device.timer?.());
      this.#settle();
    });
  }
  reset(): void {
    this.exit((d) => {
      this.ranges.forEach((_, i) => {
        this.ranges[i] = { space: 0, region: 0, base: 0, length: 0 };
      });
      resetState(this.options.kind.state, this.options.kind.keep ?? [], this.state.$root.mem, 0);
      d.reset();
      return undefined;
    });
  }
}
