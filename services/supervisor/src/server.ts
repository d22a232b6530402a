/** The control plane's server: ROUTER for requests, PUB for events, in the run directory. */
import { join } from 'node:path';
import {
  type Args,
  decodeRequest,
  encodeEvent,
  encodeReply,
  type Op,
  type Result,
  sockets,
  type VmEvent,
  wireErrorOf,
} from '@nyx/protocol/control';
import { Publisher, Router } from 'zeromq';

export type Handlers = { [O in Op]: (args: Args<O>) => Promise<Result<O>> | Result<O> };

export class ControlServer {
  readonly #router = new Router({ linger: 200, maxMessageSize: 1024 * 1024 });
  readonly #publisher = new Publisher({ linger: 200 });
  #sending: Promise<void> = Promise.resolve();

  constructor(
    readonly dir: string,
    readonly handlers: Handlers,
  ) {}

  async open(): Promise<void> {
    await this.#router.bind(`ipc://${join(this.dir, sockets.control)}`);
    await this.#publisher.bind(`ipc://${join(this.dir, sockets.events)}`);
    void this.#serve();
  }

  publish(event: VmEvent): void {
    const bytes = encodeEvent(event);
    this.#sending = this.#sending.then(() => this.#publisher.send(bytes)).catch(() => {});
  }

  async close(): Promise<void> {
    await this.#sending;
    this.#router.close();
    this.#publisher.close();
  }

  async #serve(): Promise<void> {
    try {
      // Requests are handled side by side: a `stop` that takes long does not hold up a `status`.
      for await (const frames of this.#router) void this.#handle(frames);
    } catch {
      // Closed.
    }
  }

  async #handle(frames: Buffer[]): Promise<void> {
    let reply: Buffer;
    let id = 0;
    try {
      const request = decodeRequest(frames.at(-1) ?? Buffer.alloc(0));
      id = request.id;
      const handler = this.handlers[request.op] as (args: unknown) => unknown;
      reply = encodeReply(id, { result: await handler(request.args) });
    } catch (e) {
      reply = encodeReply((e as { id?: number }).id ?? id, { error: wireErrorOf(e) });
    }
    this.#reply([...frames.slice(0, -1), reply]);
  }

  #reply(frames: Buffer[]): void {
    this.#sending = this.#sending.then(() => this.#router.send(frames)).catch(() => {});
  }
}
