/**
 * A child process with a SOCK_SEQPACKET connection on its descriptor 3. It has a session of its own and does not die with
 * us; its environment holds nothing of ours. Death is told by a pidfd: it is readable once every thread is gone, so that
 * whoever hears of it knows that the child no longer writes to shared memory.
 */
import { constants } from 'node:os';
import {
  close,
  openSeqSocket,
  pidfdOpen,
  pidfdSendSignal,
  type SeqSocket,
  socketpair,
  spawnProcess,
  type Watch,
  waitProcess,
  watch,
} from '@nyx/native';
import { startTime } from '@nyx/nyx/rundir';
import { type Jail, type JailReport, jailReport, spawnJailed } from './jail.ts';

export interface ChildOptions {
  /** Descriptor for stdout and stderr. */
  log: number;
  onMessage(bytes: Uint8Array): void;
  /** Once. `reason`: 'exited 1', 'killed by SIGKILL'. */
  onDeath(reason: string): void;
  env?: Record<string, string>;
  /** Without one it has our rights. */
  jail?: Jail;
}

/** A child that another supervisor started; its descriptors are ours from now on. */
export interface Inherited {
  pid: number;
  jail?: JailReport | undefined;
  /** Its control group. */
  group?: string | undefined;
  socket: number;
  pidfd: number;
}

const signalName = (n: number): string =>
  Object.entries(constants.signals).find(([, number]) => number === n)?.[0] ?? `signal ${n}`;

export class Child {
  readonly pid: number;
  /** What nyx-jail told; undefined before, and for a child without a jail. */
  jail: JailReport | undefined;
  #alive = true;
  readonly #socket: SeqSocket;
  readonly #socketFd: number;
  readonly #pidfd: number;
  readonly #watch: Watch;

  /** @throws NativeError, also when the program cannot be started */
  constructor(
    readonly program: string,
    args: readonly string[],
    readonly options: ChildOptions,
    inherited?: Inherited,
  ) {
    const { pid, socket, pidfd } = inherited ?? this.#start(args);
    this.pid = pid;
    if (inherited) this.jail = inherited.jail ?? { layers: [], missing: [] };
    this.#socketFd = socket;
    this.#socket = openSeqSocket(socket, { onMessage: (bytes) => this.#message(bytes), onClose: () => {} });
    this.#pidfd = pidfd;
    this.#watch = watch(this.#pidfd, () => this.#ended());
  }

  #start(args: readonly string[]): { pid: number; socket: number; pidfd: number } {
    const { program, options } = this;
    // A limit of arenas, because malloc would look for the number of CPUs in /sys, which a jail does not have.
    const env = { PATH: '/usr/bin:/bin', OPENSSL_CONF: '/dev/null', MALLOC_ARENA_MAX: '4', ...options.env };
    const [mine, theirs] = socketpair();
    try {
      const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`);
      const fds = [-1, options.log, options.log, theirs];
      const pid = options.jail
        ? spawnJailed(options.jail, program, args, variables, fds)
        : spawnProcess(program, args, variables, fds);
      return { pid, socket: mine, pidfd: pidfdOpen(pid) };
    } catch (e) {
      close(mine);
      throw e;
    } finally {
      close(theirs);
    }
  }

  /** What another supervisor needs to go on with it: our end of the connection, and the pidfd. Only while it lives. */
  get descriptors(): [socket: number, pidfd: number] {
    return [this.#socketFd, this.#pidfd];
  }

  /** Dead already, although that may not have been told yet. */
  get gone(): boolean {
    return !this.#alive || startTime(this.pid) === undefined;
  }
  get alive(): boolean {
    return this.#alive;
  }
  /** Ours, while it lives. */
  get pidfd(): number {
    return this.#pidfd;
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
    if (!this.#alive) return;
    try {
      pidfdSendSignal(this.#pidfd, constants.signals[signal]);
    } catch {
      // It has ended already.
    }
  }

  /** nyx-jail has the socket first; nobody else can pretend to be it. */
  #message(bytes: Uint8Array): void {
    if (this.options.jail && !this.jail) {
      this.jail = jailReport(bytes);
      if (this.jail) return;
      this.jail = { layers: [], missing: ['nyx-jail did not report'] };
    }
    this.options.onMessage(bytes);
  }

  #ended(): void {
    let how = 'ended while nobody was there to see how';
    try {
      const status = waitProcess(this.#pidfd);
      if (status === undefined) return;
      how = status < 0 ? `killed by ${signalName(-status)}` : `exited ${status}`;
    } catch (e) {
      // Not our child, but that of a supervisor before us: the pidfd tells that it is dead, and no more.
      if ((e as { code?: string }).code !== 'ECHILD') throw e;
    }
    if (!this.#alive) return;
    this.#alive = false;
    this.#watch.close();
    close(this.#pidfd);
    this.#socket.close();
    this.options.onDeath(how);
  }
}
