/** The control plane as a client sees it: requests over a DEALER, events over a SUB, both on sockets in the run directory. */
import { basename, join } from 'node:path';
import {
  type Args,
  decodeEvent,
  decodeReply,
  decodeResult,
  encodeRequest,
  type Op,
  type Result,
  sockets,
  type VmEvent,
} from '@nyx/protocol/control';
import { errorFromWire, NyxError } from '@nyx/protocol/errors';
import type { Dealer, Subscriber } from 'zeromq';
import { inspect, type RunInfo } from './rundir.ts';

/** Milliseconds between two looks at whether the machine that is to answer is still there. */
const lookInterval = 200;

interface Waiting {
  op: Op;
  resolve(result: unknown): void;
  reject(e: unknown): void;
  timer: NodeJS.Timeout;
}

export class ControlClient {
  #dealer: Dealer | undefined;
  #next = 1;
  #look: NodeJS.Timeout | undefined;
  /** It was gone at the last look; its last answers may still be under way. */
  #gone = false;
  readonly #waiting = new Map<number, Waiting>();

  /** @param before is awaited first: the machine has a supervisor then */
  constructor(
    readonly dir: string,
    readonly before: Promise<void> = Promise.resolve(),
  ) {}

  async #connect(): Promise<Dealer> {
    await this.before;
    if (this.#dealer) return this.#dealer;
    const { Dealer } = await import('zeromq');
    if (this.#dealer) return this.#dealer;
    this.#dealer = new Dealer({ linger: 0 });
    this.#dealer.connect(`ipc://${join(this.dir, sockets.control)}`);
    void this.#read(this.#dealer);
    return this.#dealer;
  }

  async #read(dealer: Dealer): Promise<void> {
    try {
      for await (const frames of dealer) this.#reply(frames.at(-1)!);
    } catch {
      // The socket was closed; whoever still waits is told by `close`.
    }
  }

  #reply(bytes: Buffer): void {
    let reply: ReturnType<typeof decodeReply>;
    try {
      reply = decodeReply(bytes);
    } catch (e) {
      for (const id of this.#waiting.keys()) this.#take(id)?.reject(e);
      return;
    }
    const w = this.#take(reply.id);
    if (!w) return;
    try {
      if (reply.error) w.reject(errorFromWire(reply.error));
      else w.resolve(decodeResult(w.op, reply.result));
    } catch (e) {
      w.reject(e);
    }
  }

  #take(id: number): Waiting | undefined {
    const w = this.#waiting.get(id);
    if (w) clearTimeout(w.timer);
    this.#waiting.delete(id);
    if (this.#waiting.size === 0) {
      clearInterval(this.#look);
      this.#look = undefined;
      this.#gone = false;
    }
    return w;
  }

  /** Nobody waits for a machine that has ended. One without a supervisor may get another. */
  #lookAfter(): void {
    const info = inspect(this.dir, basename(this.dir));
    if (info !== undefined && info.kind !== 'ended') {
      this.#gone = false;
    } else if (this.#gone) {
      for (const id of this.#waiting.keys()) this.#take(id)?.reject(hasEnded(this.dir, info));
    } else {
      this.#gone = true;
    }
  }

  /** @throws NyxError what nyxd answered, what ended the machine, VM_STATE: it has ended, or SUPERVISOR_TIMEOUT after `seconds`. */
  async request<O extends Op>(op: O, args: Args<O>, seconds = 10): Promise<Result<O>> {
    const dealer = await this.#connect();
    const id = this.#next++;
    return new Promise<Result<O>>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#take(id);
        reject(
          new NyxError('SUPERVISOR_TIMEOUT', {
            expected: `an answer to '${op}' within ${seconds} s`,
            got: 'none',
          }),
        );
      }, seconds * 1000);
      this.#waiting.set(id, { op, resolve: resolve as (r: unknown) => void, reject, timer });
      this.#look ??= setInterval(() => this.#lookAfter(), lookInterval);
      dealer.send(encodeRequest(id, op, args)).catch((e) => this.#take(id)?.reject(e));
    });
  }

  /** Events from now on, to the machine's last. Malformed ones are skipped. */
  async *events(): AsyncGenerator<VmEvent, void, void> {
    await this.before;
    const { Subscriber } = await import('zeromq');
    const sub: Subscriber = new Subscriber({ linger: 0 });
    sub.connect(`ipc://${join(this.dir, sockets.events)}`);
    sub.subscribe();
    try {
      for await (const frames of sub) {
        let event: VmEvent;
        try {
          event = decodeEvent(frames.at(-1)!);
        } catch {
          continue;
        }
        yield event;
        if (event.type === 'state' && (event.to === 'stopped' || event.to === 'failed')) return;
      }
    } finally {
      sub.close();
    }
  }

  close(): void {
    this.#dealer?.close();
    this.#dealer = undefined;
    for (const id of this.#waiting.keys())
      this.#take(id)?.reject(new NyxError('SUPERVISOR_DIED', { got: 'the connection was closed' }));
  }
}

/** Why nobody answers for a machine: what ended it, or VM_STATE. */
export const hasEnded = (dir: string, info: RunInfo | undefined): NyxError =>
  info?.result?.error
    ? errorFromWire(info.result.error)
    : new NyxError('VM_STATE', { expected: `'${basename(dir)}' to run`, got: 'it has ended' });
