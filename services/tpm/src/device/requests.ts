/**
 * The request of a TPM interface that is under way: which it is, is state; that it was handed to the engine, is not. A device
 * process that dies leaves the number behind; its successor asks the engine again, which executes every number once.
 */
import type { DeviceContext } from '@nyx/device';
import { u8, u32 } from '@nyx/layout';
import { tpmBoot as boot, tpmWire } from '@nyx/protocol';
import { type Engine, Op } from './engine.ts';

export const { bufferBytes, hashBytes, bulkBytes } = tpmWire;

/** Part of the state of each interface; aligned to 4 bytes, 16 bytes long. */
export const requestFields = {
  number: u32('of the newest request'),
  opLength: u32('bytes of it in the buffer', { max: hashBytes }),
  booted: u32('generation of the power-on commands that were executed last'),
  op: u8('what is under way (Op); 0: nothing', { max: Op.drtm }),
  opLocality: u8('', { max: 4 }),
  valid: u8('it was initialized since power came', { max: 1 }),
  dropped: u8('the response of what is under way is not wanted', { max: 1 }),
} as const;
/** Numbers only grow, so that no engine takes an old request for a new one. */
export const requestKeep = ['number', 'booted'] as const;

export interface RequestState {
  number: number;
  opLength: number;
  booted: number;
  op: number;
  opLocality: number;
  valid: number;
  dropped: number;
}

const none = new Uint8Array(0);

export class Requests {
  readonly buffer: Uint8Array;
  readonly #hash: Uint8Array;
  readonly #boot: ArrayBuffer | undefined;
  /** transient: number of the request that this process handed to the engine */
  #submitted = 0;

  /** @param answered called in an event when a request is done; not for `init`, not for what was dropped */
  constructor(
    private readonly ctx: DeviceContext,
    private readonly s: RequestState,
    private readonly engine: Engine,
    /** Number of the first request of a new machine; another one for each machine that uses the same state. */
    private readonly first: number,
    private readonly answered: (op: number, response: Uint8Array, dropped: boolean) => void,
  ) {
    const bulk = ctx.bulk('buffer');
    this.buffer = new Uint8Array(bulk, 0, bufferBytes);
    this.#hash = new Uint8Array(bulk, bufferBytes, hashBytes);
    if (!ctx.has('boot')) return;
    this.#boot = ctx.bulk('boot');
    // The commands for power on are there: an init that waits for them can go on.
    ctx.watch(ctx.fd('bootEvent'), () => ctx.event(() => {}));
  }

  get busy(): boolean {
    return this.s.op !== Op.none;
  }

  /** In a handler. */
  start(op: number, locality: number, length: number): void {
    const { s } = this;
    s.number = ((s.number || this.first - 1) + 1) >>> 0 || 1;
    s.op = op;
    s.opLocality = locality;
    s.opLength = length;
    s.dropped = 0;
  }

  /** In a handler: whatever the response will be, nobody wants it. */
  drop(): void {
    this.s.dropped = 1;
  }

  /** One byte of a measurement by hardware. False: there is no more room. */
  hash(at: number, value: number): boolean {
    if (at >= hashBytes) return false;
    this.#hash[at] = value;
    return true;
  }

  /** After `Device.settle`'s other duties. */
  settle(): void {
    const { s } = this;
    if (s.op === Op.none || s.number === this.#submitted) return;
    let data = none;
    if (s.op === Op.command) data = this.buffer.slice(0, s.opLength);
    else if (s.op === Op.drtm) data = this.#hash.slice(0, s.opLength);
    let generation = s.booted;
    if (s.op === Op.init && this.#boot !== undefined) {
      const v = new DataView(this.#boot);
      generation = v.getUint32(boot.generation, true);
      if (generation === s.booted) return;
      const length = Math.min(v.getUint32(boot.length, true), this.#boot.byteLength - boot.script);
      data = new Uint8Array(this.#boot, boot.script, length).slice();
    }
    const { number, op, opLocality } = s;
    this.#submitted = number;
    const request = { number, op, locality: opLocality, now: Math.floor(this.ctx.now() / 1e6), data };
    this.engine.submit(request, (response) => {
      this.ctx.event(() => this.#done(number, generation, response));
    });
  }

  /** In a handler. */
  cancel(): void {
    if (this.busy) this.engine.cancel();
  }

  #done(number: number, generation: number, response: Uint8Array): void {
    const { s } = this;
    if (s.number !== number || s.op === Op.none) return;
    const { op } = s;
    s.op = Op.none;
    if (op === Op.init) {
      s.booted = generation;
      s.valid = 1;
    }
    this.answered(op, response, s.dropped === 1);
    s.dropped = 0;
  }
}
