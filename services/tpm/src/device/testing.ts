/** An engine for tests of the interfaces: what it answers is a function of the request, when the device's timer fires. */
import type { DeviceContext } from '@nyx/device';
import type { Engine, Request } from './engine.ts';
import { Op } from './engine.ts';

export class EchoEngine implements Engine {
  waiting: { request: Request; done: (response: Uint8Array) => void } | undefined;
  cancels = 0;
  readonly seen: Request[] = [];

  constructor(private readonly ctx: Pick<DeviceContext, 'timerAt' | 'now'>) {}

  submit(request: Request, done: (response: Uint8Array) => void): void {
    this.seen.push(request);
    this.waiting = { request, done };
  }
  cancel(): void {
    this.cancels++;
  }
  /** Of a device's `settle`, and of its `timer`. */
  settle(): void {
    this.ctx.timerAt(this.waiting ? this.ctx.now() : Number.POSITIVE_INFINITY);
  }
  timer(): void {
    const w = this.waiting;
    this.waiting = undefined;
    if (w) w.done(answerOf(w.request));
  }
}

/** A response header and the data turned around. */
export function answerOf({ op, data, locality }: Request): Uint8Array {
  if (op !== Op.command) return new Uint8Array(0);
  const body = data.slice(10).reverse();
  const out = new Uint8Array(11 + body.length);
  const v = new DataView(out.buffer);
  v.setUint16(0, 0x8001);
  v.setUint32(2, out.length);
  out[10] = locality;
  out.set(body, 11);
  return out;
}
