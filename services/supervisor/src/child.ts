/**
 * A child process with a SOCK_SEQPACKET connection on its descriptor 3. It has a session of its own and does not die with
 * us; its environment holds nothing of ours. Death is told by a pidfd: it is readable once every thread is gone, so that
 * whoever hears of it knows that the child no longer writes to shared memory.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { close, openSeqSocket, pidfdOpen, type SeqSocket, socketpair, watch } from '@nyx/native';

export interface ChildOptions {
  /** Descriptor for stdout and stderr. */
  log: number;
  onMessage(bytes: Uint8Array): void;
  /** Once. `reason`: 'exited 1', 'killed by SIGKILL'. */
  onDeath(reason: string): void;
  env?: Record<string, string>;
}

export class Child {
  readonly pid: number;
  #alive = true;
  readonly #socket: SeqSocket;
  readonly #process: ChildProcess;

  /** @throws NativeError, or the error of spawn when the program cannot be started */
  constructor(
    readonly program: string,
    args: readonly string[],
    readonly options: ChildOptions,
  ) {
    const [mine, theirs] = socketpair();
    try {
      this.#process = spawn(program, args, {
        stdio: ['ignore', options.log, options.log, theirs],
        detached: true,
        cwd: '/',
        env: { PATH: '/usr/bin:/bin', OPENSSL_CONF: '/dev/null', ...options.env },
      });
    } finally {
      close(theirs);
    }
    // 'error' after a start that succeeded is about a signal that could not be sent; without a pid it is the start.
    this.#process.on('error', () => {});
    if (this.#process.pid === undefined) {
      close(mine);
      throw Object.assign(new Error(`${program} could not be started`), { code: 'HOST_ERROR' });
    }
    this.pid = this.#process.pid;
    this.#socket = openSeqSocket(mine, { onMessage: options.onMessage, onClose: () => {} });
    const pidfd = pidfdOpen(this.pid);
    const w = watch(pidfd, () => {
      w.close();
      close(pidfd);
      // Node learns exit code and signal at about the same time; without them the report would be poorer, not wrong.
      if (this.#process.exitCode !== null || this.#process.signalCode !== null) this.#died();
      else {
        this.#process.once('exit', () => this.#died());
        setTimeout(() => this.#died(), 5);
      }
    });
  }

  get alive(): boolean {
    return this.#alive;
  }

  /** Queued when the child does not read; dropped when it is gone (its death is told apart). */
  send(bytes: Uint8Array, fds: readonly number[] = []): void {
    if (!this.#alive) return;
    try {
      this.#socket.send(bytes, fds);
    } catch (e) {
      // A child that lets 4 MiB pile up hangs; a socket that is closed belongs to one that is dying.
      if ((e as { code?: string }).code === 'ENOBUFS') this.kill();
      else if ((e as { code?: string }).code !== 'EPIPE') throw e;
    }
  }

  kill(signal: NodeJS.Signals = 'SIGKILL'): void {
    if (this.#alive) this.#process.kill(signal);
  }

  #died(): void {
    if (!this.#alive) return;
    this.#alive = false;
    this.#socket.close();
    const { exitCode, signalCode } = this.#process;
    this.options.onDeath(
      signalCode ? `killed by ${signalCode}` : exitCode !== null ? `exited ${exitCode}` : 'ended',
    );
  }
}
