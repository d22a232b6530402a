/**
 * The thread in which our TPM executes commands: making an RSA key takes seconds, while the device answers its registers.
 * It opens the state that it is told, by descriptor; then requests come, and their responses go.
 */
import { readSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { packScript } from '@nyx/protocol';
import { MemoryStore } from '../core/store.ts';
import { FileStore } from '../store/file.ts';
import { parseKey } from '../store/seal.ts';
import { Op, type Request } from './engine.ts';
import { Executor } from './executor.ts';

export interface Open {
  type: 'open';
  state: number;
  /** Descriptor of the key file. */
  key?: number;
  /** Set and woken when it is open, or refused. */
  opened: SharedArrayBuffer;
  /** Word 0: number of the request that is to be cancelled. */
  cancel: SharedArrayBuffer;
}
/** What becomes of word 0 of `opened`; a refusal's code and text follow as UTF-8, word 1 is their length. */
export const Opened = { pending: 0, done: 1, refused: 2 } as const;
export const openedBytes = 1024;

export type ToWorker = Open | { type: 'request'; request: Request };
export type FromWorker =
  | { type: 'ready' }
  | { type: 'response'; number: number; response: Uint8Array }
  | { type: 'note'; text: string };

/** Startup, an extend, a random number: the code is compiled when a guest wants it. */
function rehearse(): void {
  const command = (...hex: string[]): Buffer => Buffer.from(hex.join(''), 'hex');
  const startup = command('8001', '0000000c', '00000144', '0000');
  const random = command('8001', '0000000c', '0000017b', '0020');
  const extend = command('8002', '00000041', '00000182', '00000010', '00000009', '40000009', '0000000000');
  const digests = Buffer.concat([command('00000001', '000b'), Buffer.alloc(32)]);
  const executor = new Executor(new MemoryStore(), () => {});
  const script = packScript([startup, random, Buffer.concat([extend, digests])]);
  for (let number = 1; number < 20; number++)
    executor.execute({ number, op: Op.init, locality: 0, now: number, data: script });
}

/** However its offset stands: predecessors have read it, too. */
function readKey(fd: number): Buffer {
  const raw = Buffer.alloc(128);
  return parseKey(raw.subarray(0, readSync(fd, raw, 0, raw.length, 0)), 'the key file');
}

function open(m: Open, note: (text: string) => void): Executor | undefined {
  const words = new Int32Array(m.opened, 0, 2);
  try {
    const store = new FileStore(m.state, m.key === undefined ? {} : { key: readKey(m.key) });
    const cancel = new Int32Array(m.cancel);
    const executor = new Executor(
      store,
      (e) => note(`failure mode: ${e instanceof Error ? e.stack : e}`),
      (number) => Atomics.load(cancel, 0) === (number | 0),
    );
    Atomics.store(words, 0, Opened.done);
    Atomics.notify(words, 0);
    return executor;
  } catch (e) {
    const { code, message } = e as { code?: string; message?: string };
    const text = Buffer.from(`${code ?? 'TPM_STATE'} ${message ?? e}`).subarray(0, openedBytes - 8);
    new Uint8Array(m.opened, 8).set(text);
    words[1] = text.length;
    Atomics.store(words, 0, Opened.refused);
    Atomics.notify(words, 0);
    return undefined;
  }
}

const port = parentPort;
if (port) {
  const send = (m: FromWorker): void => port.postMessage(m);
  let executor: Executor | undefined;
  port.on('message', (m: ToWorker) => {
    if (m.type === 'open') executor = open(m, (text) => send({ type: 'note', text }));
    else if (executor) {
      const response = executor.execute(m.request);
      send({ type: 'response', number: m.request.number, response });
    }
  });
  send({ type: 'ready' });
  if ((workerData as { rehearse?: boolean } | null)?.rehearse) rehearse();
}
