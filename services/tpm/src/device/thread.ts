/** Our TPM behind a device: the thread that executes (worker.ts), started with the process, given its state with the role. */

import { Worker } from 'node:worker_threads';
import type { DeviceContext } from '@nyx/device';
import type { Engine, Request } from './engine.ts';
import { type FromWorker, Opened, openedBytes, type ToWorker } from './worker.ts';

/** Milliseconds until a state must be open: it has a few megabytes. */
const openTimeout = 5000;

/** Before the process gives up what threads need to be made. Resolves when its code is loaded. */
export function startThread(file: string): Promise<Worker> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(file, { workerData: { rehearse: true } });
    worker.once('message', () => resolve(worker));
    worker.once('error', reject);
  });
}

export class ThreadEngine implements Engine {
  /** transient: see Open.cancel */
  readonly #cancel = new Int32Array(new SharedArrayBuffer(4));
  /** transient: who waits for what */
  #waiting: { number: number; done: (response: Uint8Array) => void } | undefined;

  /** @throws a coded error when the state cannot be used */
  constructor(
    private readonly worker: Worker,
    ctx: DeviceContext,
  ) {
    worker.removeAllListeners('error');
    worker.on('error', (e) => {
      throw e;
    });
    worker.on('exit', (code) => {
      throw new Error(`the thread of the TPM ended with ${code}`);
    });
    worker.on('message', (m: FromWorker) => {
      if (m.type === 'note') ctx.log('error', m.text);
      if (m.type !== 'response' || m.number !== this.#waiting?.number) return;
      const { done } = this.#waiting;
      this.#waiting = undefined;
      done(m.response);
    });
    const opened = new SharedArrayBuffer(openedBytes);
    const words = new Int32Array(opened, 0, 2);
    const key = ctx.has('key') ? { key: ctx.fd('key') } : {};
    this.#tell({
      type: 'open',
      state: ctx.fd('state'),
      ...key,
      opened,
      cancel: this.#cancel.buffer as SharedArrayBuffer,
    });
    Atomics.wait(words, 0, Opened.pending, openTimeout);
    if (words[0] === Opened.done) return;
    const text = Buffer.from(new Uint8Array(opened, 8, words[1]).slice()).toString();
    throw Object.assign(new Error(text || 'the thread of the TPM does not answer'), {
      code: words[0] === Opened.refused ? 'CONFIG_TPM_STATE' : 'TPM_THREAD',
    });
  }

  #tell(m: ToWorker): void {
    this.worker.postMessage(m);
  }

  submit(request: Request, done: (response: Uint8Array) => void): void {
    this.#waiting = { number: request.number, done };
    this.#tell({ type: 'request', request });
  }

  /** Commands are short but for the making of RSA keys: the search for primes looks here. A TPM may finish what it began. */
  cancel(): void {
    if (this.#waiting) Atomics.store(this.#cancel, 0, this.#waiting.number | 0);
  }
}
