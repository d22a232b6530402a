/**
 * Our TPM as the engine of a device: executes requests one after the other over a store. The response is committed together with
 * what the request changed, under its number; so a request is executed once, however often it is asked for, by whichever
 * process.
 */
import { unpackScript } from '@nyx/protocol';
import { execute } from '../core/dispatch.ts';
import type { Store } from '../core/store.ts';
import { Tpm } from '../core/tpm.ts';
import { Op, type Request } from './engine.ts';

const none = Buffer.alloc(0);

export class Executor {
  /** transient: made again from the store */
  #tpm: Tpm;
  /** transient: comes with every request */
  #now = 0;
  /** transient: the request under way */
  #number = 0;

  /** @throws what the store or its records are refused with */
  constructor(
    private readonly store: Store,
    private readonly onFailure: (error: unknown) => void,
    /** Whether the guest would rather not wait for the request of this number. */
    private readonly cancelled: (number: number) => boolean = () => false,
  ) {
    this.#tpm = this.#power(true);
  }

  #power(resume: boolean): Tpm {
    const { store, onFailure } = this;
    const cancelled = (): boolean => this.cancelled(this.#number);
    return new Tpm({ store, crashOnly: true, resume, now: () => this.#now, onFailure, cancelled });
  }

  execute(request: Omit<Request, 'data'> & { data: Uint8Array }): Uint8Array {
    const { number, op } = request;
    this.#now = request.now;
    this.#number = number;
    const known = this.#tpm.answered(number);
    if (known) return known;
    const data = Buffer.from(request.data.buffer, request.data.byteOffset, request.data.byteLength);
    if (op === Op.command) {
      this.#tpm.locality = request.locality;
      return execute(this.#tpm, data, number);
    }
    if (op === Op.init) {
      this.#tpm = this.#power(false);
      // What firmware does first; done again from the beginning when it was not finished.
      for (const command of unpackScript(data)) execute(this.#tpm, Buffer.from(command));
    } else if (op === Op.drtm) {
      this.#tpm.hashStart();
      this.#tpm.hashData(data);
      this.#tpm.hashEnd();
    }
    this.#tpm.flush(number, none);
    return none;
  }
}
