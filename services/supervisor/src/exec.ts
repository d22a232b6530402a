/** Commands in the guest, one at a time, over COM2 (libs/protocol/src/exec.ts), and the socket that clients ask by. */
import { randomBytes } from 'node:crypto';
import { rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { ExecParser, type ExecSink, execRequest, execWire } from '@nyx/protocol';
import { controlWire, wireErrorOf } from '@nyx/protocol/control';
import { NyxError } from '@nyx/protocol/errors';
import { ExecAsk, ExecFrame, encodeFrame } from '@nyx/protocol/exec-stream';

interface Job {
  command: string;
  timeout: number;
  sink: ExecSink & { error(e: NyxError): void };
  timer?: NodeJS.Timeout;
  gone: boolean;
}

/** A moment of a channel. */
export interface ExecMark {
  ready: boolean;
  tail: Buffer;
  /** Of the command that ran. */
  parser?: ExecParser;
}

const nobody: ExecSink = { stdout: () => {}, stderr: () => {}, end: () => {} };

/** Output of a first command that nobody has asked for yet, bytes. */
const mostHeld = 1 << 20;

export class ExecChannel {
  /** The guest's agent listens. */
  ready = false;
  #tail: Buffer = Buffer.alloc(0);
  readonly #queue: Job[] = [];
  #job: Job | undefined;
  #parser: ExecParser | undefined;
  /** The guest tells of its first command already: what came until somebody asked for it. */
  #first: Buffer | undefined;

  /**
   * @param write bytes for COM2
   * @param onReady the agent said that it listens
   * @param first the command that the guest was started with (execWire.first)
   */
  constructor(
    readonly write: (bytes: Buffer) => void,
    readonly onReady: () => void,
    readonly first?: string,
  ) {}

  /** Runs `command`; `timeout` in seconds counts from now, waiting for the agent and for earlier commands included. */
  run(command: string, timeout: number, sink: Job['sink']): { cancel(): void } {
    const job: Job = { command, timeout, sink, gone: false };
    if (Buffer.byteLength(command) > execWire.maxCommand)
      sink.error(
        new NyxError('COMMAND_TOO_LONG', {
          expected: `at most ${execWire.maxCommand} bytes`,
          got: `${Buffer.byteLength(command)}`,
        }),
      );
    else {
      job.timer = setTimeout(() => this.#late(job), timeout * 1000);
      this.#queue.push(job);
      this.#next();
    }
    return {
      cancel: () => {
        job.gone = true;
        clearTimeout(job.timer);
      },
    };
  }

  /** Bytes of COM2. */
  feed(bytes: Buffer, lost: number): void {
    if (lost > 0 && this.#job)
      this.#finish((s) =>
        s.error(new NyxError('EXEC_LOST', { expected: 'all output', got: `${lost} bytes too many at once` })),
      );
    // READY may be cut anywhere; it also comes when the guest has started anew.
    const all = Buffer.concat([this.#tail, bytes]);
    const at = all.indexOf(execWire.ready);
    const ready = at >= 0;
    this.#tail = Buffer.from(all.subarray(Math.max(0, all.length - execWire.ready.length + 1)));
    if (ready && !this.#parser) {
      this.#tail = Buffer.alloc(0);
      this.ready = true;
      if (this.first !== undefined) this.#first = Buffer.from(all.subarray(at + execWire.ready.length));
      this.onReady();
      this.#next();
      return;
    }
    if (this.#parser) this.#parser.feed(bytes);
    else if (this.#first) this.#first = Buffer.concat([this.#first, bytes]).subarray(0, mostHeld);
  }

  /** Where the channel stands, for `back`. */
  mark(): ExecMark {
    const tail = Buffer.from(this.#tail);
    return { ready: this.ready, tail, ...(this.#parser ? { parser: this.#parser.fork(nobody) } : {}) };
  }

  /** The guest is where it was at `mark`. A command that it was at then goes on, for nobody; what was asked since is lost. */
  back(m: ExecMark, why: string): void {
    this.reset(why);
    this.ready = m.ready;
    this.#tail = Buffer.from(m.tail);
    if (m.parser) {
      const job: Job = { command: '', timeout: 0, sink: { ...nobody, error: () => {} }, gone: true };
      this.#job = job;
      this.#parser = m.parser.fork({ ...nobody, end: () => this.#finish(() => {}) });
    }
    this.#next();
  }

  /** The guest starts anew: whatever ran is gone. */
  reset(why: string): void {
    this.ready = false;
    this.#tail = Buffer.alloc(0);
    if (this.#job)
      this.#finish((s) => s.error(new NyxError('EXEC_LOST', { expected: 'the command to end', got: why })));
  }

  /** The machine ends: nobody waits any longer. */
  close(why: string): void {
    this.reset(why);
    for (const job of this.#queue.splice(0)) {
      clearTimeout(job.timer);
      if (!job.gone)
        job.sink.error(new NyxError('EXEC_LOST', { expected: 'the command to start', got: why }));
    }
  }

  #next(): void {
    if (!this.ready || this.#job) return;
    const job = this.#queue.shift();
    if (!job) return;
    if (job.gone) {
      this.#next();
      return;
    }
    const first = job.command === this.first ? this.#first : undefined;
    const nonce = first ? execWire.firstNonce : randomBytes(8).toString('hex');
    this.#job = job;
    this.#parser = new ExecParser(nonce, {
      stdout: (b) => job.gone || job.sink.stdout(b),
      stderr: (b) => job.gone || job.sink.stderr(b),
      end: (status) => this.#finish((s) => s.end(status)),
    });
    if (first) {
      this.#first = undefined;
      this.#parser.feed(first);
    } else this.write(execRequest(nonce, job.command));
  }

  #finish(tell: (sink: Job['sink']) => void): void {
    const job = this.#job!;
    clearTimeout(job.timer);
    this.#job = undefined;
    this.#parser = undefined;
    if (!job.gone) tell(job.sink);
    setImmediate(() => this.#next());
  }

  #late(job: Job): void {
    job.gone = true;
    // The command itself goes on in the guest; later ones wait for it.
    const code = this.ready || this.#job ? 'EXEC_TIMEOUT' : 'EXEC_NO_AGENT';
    job.sink.error(
      new NyxError(code, {
        expected: `${code === 'EXEC_TIMEOUT' ? 'an end' : 'a guest that listens'} within ${job.timeout} s`,
        got: 'none',
      }),
    );
  }
}

/** One command a connection; the client leaves: the command goes on, its output is dropped. */
export const serveExec = (path: string, channel: ExecChannel): Server => {
  const server = createServer((client: Socket) => {
    let asked = '';
    let job: { cancel(): void } | undefined;
    client.on('error', () => {});
    client.on('close', () => job?.cancel());
    const fail = (e: unknown): void => {
      client.end(encodeFrame(ExecFrame.error, Buffer.from(JSON.stringify(wireErrorOf(e)))));
    };
    client.on('data', (bytes) => {
      if (job) return;
      asked += bytes.toString();
      if (asked.length > 2 * execWire.maxCommand + 1024)
        fail(
          new NyxError('COMMAND_TOO_LONG', { expected: `at most ${execWire.maxCommand} bytes`, got: 'more' }),
        );
      if (!asked.includes('\n')) return;
      try {
        const ask = ExecAsk.parse(JSON.parse(asked));
        job = channel.run(ask.command, ask.timeout, {
          stdout: (b) => client.write(encodeFrame(ExecFrame.stdout, b)),
          stderr: (b) => client.write(encodeFrame(ExecFrame.stderr, b)),
          end: (status) => {
            const payload = Buffer.alloc(4);
            payload.writeUInt32LE(status);
            client.end(encodeFrame(ExecFrame.exit, payload));
          },
          error: fail,
        });
      } catch {
        fail(
          new NyxError('PROTOCOL_INVALID', {
            expected: `a command of version ${controlWire.version}`,
            got: asked.slice(0, 80),
          }),
        );
      }
    });
  });
  rmSync(path, { force: true });
  server.listen(path);
  return server;
};
