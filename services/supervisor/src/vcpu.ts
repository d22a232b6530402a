/** The vCPU process as the supervisor sees it: operations that are awaited, events that are told. */
import { allocate, Memory, view } from '@nyx/layout';
import { ControlEvent, ControlMessage, ControlOp } from '@nyx/protocol';
import { NyxError } from '@nyx/protocol/errors';
import { Child, type Inherited } from './child.ts';
import type { Jail } from './jail.ts';

export interface VcpuEvent {
  op: number;
  a: number;
  b: number;
  c: number;
  /** `b` where it is an address: a number is exact to 53 bits only. */
  address: string;
  text: string;
}

export interface VcpuHandlers {
  onEvent(e: VcpuEvent): void;
  onDeath(reason: string): void;
}

const encode = (op: number, a = 0, b = 0, payload: Uint8Array = new Uint8Array(0)): Buffer => {
  const m = allocate(ControlMessage);
  m.op = op;
  m.length = payload.length;
  m.a = a;
  m.b = b;
  return Buffer.concat([
    new Uint8Array(m.$root.mem.u8.buffer as ArrayBuffer, 0, ControlMessage.bytes),
    payload,
  ]);
};

/** @throws NyxError PROTOCOL_INVALID */
export const decodeControl = (bytes: Uint8Array): VcpuEvent => {
  if (bytes.length < ControlMessage.bytes)
    throw new NyxError('PROTOCOL_INVALID', {
      expected: `${ControlMessage.bytes} bytes or more`,
      got: `${bytes.length}`,
    });
  // A copy, for its alignment.
  const m = view(ControlMessage, new Memory(bytes.slice(0, ControlMessage.bytes).buffer as ArrayBuffer));
  if (m.length !== bytes.length - ControlMessage.bytes)
    throw new NyxError('PROTOCOL_INVALID', {
      expected: `${m.length} bytes of payload`,
      got: `${bytes.length - ControlMessage.bytes}`,
    });
  const text = Buffer.from(bytes.subarray(ControlMessage.bytes)).toString('utf8').replaceAll('\0', '').trim();
  const address = `0x${(BigInt(m.bHi) * 0x1_0000_0000n + BigInt(m.bLo)).toString(16)}`;
  return { op: m.op, a: m.a, b: m.b, c: m.c, address, text };
};

/** Why the vCPU process does not want the machine: the engine, which is the host's matter, or the description, which is ours. */
export const rejection = (text: string): NyxError =>
  text.startsWith('accelerator ')
    ? new NyxError('ACCEL_UNAVAILABLE', {
        expected: 'an engine that works',
        got: text.slice('accelerator '.length),
      })
    : new NyxError('VCPU_REJECTED', { got: text });

/** No machine has so many vCPUs: their registers are ''. */
const noCpu = 2 ** 32;

/** What nyx-vcpu reads before its guest runs: whether there is a KVM, and what the host's clock is worth. */
const jail: Jail = {
  read: ['/dev/kvm', '/sys/devices/system/clocksource/clocksource0/current_clocksource'],
  leaves: true,
};

export class Vcpu {
  readonly child: Child;
  readonly #waiting: { op: number; resolve(e: VcpuEvent): void; reject(e: Error): void }[] = [];
  readonly #handlers: VcpuHandlers;

  /**
   * @param jailed no only for doubles in tests
   * @param inherited one that another supervisor has started
   */
  constructor(program: string, log: number, handlers: VcpuHandlers, jailed = true, inherited?: Inherited) {
    this.#handlers = handlers;
    const options = {
      log,
      ...(jailed ? { jail } : {}),
      onMessage: (bytes: Uint8Array) => this.#message(bytes),
      onDeath: (reason: string) => {
        this.#fail(new NyxError('VCPU_DIED', { got: `nyx-vcpu ${reason}` }));
        handlers.onDeath(reason);
      },
    };
    this.child = new Child(program, [], options, inherited);
  }

  get pid(): number {
    return this.child.pid;
  }

  /** Describes the machine; resolves with `ready`. */
  machine(bytes: Uint8Array, fds: readonly number[]): Promise<VcpuEvent> {
    return this.#ask(encode(ControlOp.machine, 0, 0, bytes), ControlEvent.ready, 30, fds);
  }
  start(): Promise<VcpuEvent> {
    return this.#ask(encode(ControlOp.start), ControlEvent.started, 10);
  }
  pause(): Promise<VcpuEvent> {
    return this.#ask(encode(ControlOp.pause), ControlEvent.paused, 10);
  }
  resume(): Promise<VcpuEvent> {
    return this.#ask(encode(ControlOp.resume), ControlEvent.resumed, 10);
  }
  reset(): Promise<VcpuEvent> {
    return this.#ask(encode(ControlOp.reset), ControlEvent.resetDone, 30);
  }
  quit(): void {
    this.child.send(encode(ControlOp.quit));
  }
  /** All vCPUs stand still at an instruction's border, rings are empty. @throws NyxError CHECKPOINT_REFUSED */
  async quieten(abandon: boolean): Promise<void> {
    const { text } = await this.#ask(encode(ControlOp.quieten, abandon ? 1 : 0), ControlEvent.quiet, 10);
    if (text)
      throw new NyxError('CHECKPOINT_REFUSED', { expected: 'a machine that can stand still', got: text });
  }
  /**
   * After `quieten`: state, and what changed of guest RAM; without memory for that, pages are saved from now on before they are written.
   * @param verify `loadState` sees whether guest RAM has become what it was
   * @throws NyxError CHECKPOINT_REFUSED
   */
  saveState(to: readonly [state: number, ram?: number], verify: boolean): Promise<VcpuEvent> {
    return this.#still(ControlOp.save, ControlEvent.saved, to as readonly number[], verify ? 1 : 0);
  }
  /** After `quieten`, while no device process lives. @throws NyxError CHECKPOINT_REFUSED */
  loadState(from: readonly [state: number, ram?: number]): Promise<VcpuEvent> {
    return this.#still(ControlOp.load, ControlEvent.loaded, from as readonly number[]);
  }
  /** There is no checkpoint any more: nothing is saved for it. */
  release(): void {
    this.child.send(encode(ControlOp.release));
  }
  async #still(op: number, answer: number, fds: readonly number[], a = 0): Promise<VcpuEvent> {
    const e = await this.#ask(encode(op, a), answer, 120, fds);
    if (e.text)
      throw new NyxError('CHECKPOINT_REFUSED', { expected: 'a state of this machine', got: e.text });
    return e;
  }
  isolate(process: number): void {
    this.child.send(encode(ControlOp.isolate, process));
  }
  nmi(cpu: number): void {
    this.child.send(encode(ControlOp.nmi, cpu));
  }
  /** All vCPUs publish where they are in the VM page. */
  look(): void {
    this.child.send(encode(ControlOp.look));
  }
  /** Of a vCPU, while all stand still; '' otherwise. */
  async registers(cpu: number): Promise<string> {
    return (await this.#ask(encode(ControlOp.registers, cpu), ControlEvent.registers, 5)).text;
  }
  /**
   * Everything that it said to a supervisor before us has been heard, and handled, when this resolves; answers to questions of
   * that one are not taken for answers to ours.
   */
  async barrier(): Promise<void> {
    for (const cookie = noCpu + this.pid; ; ) {
      const { a } = await this.#ask(encode(ControlOp.registers, cookie), ControlEvent.registers, 10);
      if (a === cookie) return;
      // An old answer was first; ours is still to come.
    }
  }
  replaced(process: number): void {
    this.child.send(encode(ControlOp.replaced, process));
  }

  #ask(
    message: Uint8Array,
    answer: number,
    seconds: number,
    fds: readonly number[] = [],
  ): Promise<VcpuEvent> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#fail(
          new NyxError('VCPU_DIED', {
            expected: `event ${answer} within ${seconds} s`,
            got: 'no answer of nyx-vcpu',
          }),
        );
      }, seconds * 1000);
      const done =
        <T>(f: (v: T) => void) =>
        (v: T): void => {
          clearTimeout(timer);
          f(v);
        };
      this.#waiting.push({ op: answer, resolve: done(resolve), reject: done(reject) });
      if (!this.child.alive) this.#fail(new NyxError('VCPU_DIED', { got: 'nyx-vcpu is gone' }));
      else this.child.send(message, fds);
    });
  }

  #fail(e: Error): void {
    for (const w of this.#waiting.splice(0)) w.reject(e);
  }

  #message(bytes: Uint8Array): void {
    let event: VcpuEvent;
    try {
      event = decodeControl(bytes);
    } catch {
      this.child.kill();
      return;
    }
    if (event.op === ControlEvent.rejected) this.#fail(rejection(event.text));
    if (event.op === ControlEvent.internalError) this.#fail(new NyxError('VCPU_ERROR', { got: event.text }));
    const i = this.#waiting.findIndex((w) => w.op === event.op);
    if (i >= 0) this.#waiting.splice(i, 1)[0]!.resolve(event);
    this.#handlers.onEvent(event);
  }
}
