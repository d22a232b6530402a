/**
 * nyx-keeper (libs/native/src/keeper) as nyxd sees it: whatever another nyxd would need to go on with the machine is given to it
 * as soon as it is there, under a key, as JSON and descriptors. What is kept under a key is replaced at once, so a
 * successor finds each part as it was before a change or after it.
 *
 * The connection keeps the order, and loses nothing that was sent before we died. So whoever does something that another nyxd
 * must know of says so first, and does it in `after`.
 */
import { join } from 'node:path';
import {
  close,
  connectSeq,
  openSeqSocket,
  pidfdOpen,
  type SeqSocket,
  socketpair,
  spawnProcess,
  waitProcess,
  watch,
} from '@nyx/native';
import { files } from '@nyx/nyx/files';
import { NyxError } from '@nyx/protocol/errors';
import { Estate, type Kept } from './estate.ts';
import { built } from './paths.ts';

/** Longest message: what a socket of Linux takes by default. */
const maxBytes = 256 * 1024;
/** Milliseconds that a keeper has to hand over everything. */
const patience = 10_000;
/** A keeper that dies is followed by another so often. */
const mostStarts = 5;

const message = (op: string, key: string, value?: unknown): Buffer => {
  const name = Buffer.from(key);
  const rest = value === undefined ? '' : JSON.stringify(value);
  return Buffer.concat([Buffer.from(op), Buffer.from([name.length]), name, Buffer.from(rest)]);
};

/** The part of a machine that keeps what it is told; tests have one that forgets all. */
export interface Keeping {
  put(key: string, value: unknown, fds?: readonly number[]): void;
  drop(key: string): void;
  after(work: () => void): void;
}

export class Keeper implements Keeping {
  pid = 0;
  #socket: SeqSocket | undefined;
  readonly #entries = new Map<string, { value: unknown; fds: readonly number[] }>();
  /** What waits until the keeper has everything that was said before. */
  #waiting: (() => void)[] = [];
  #starts = 0;
  #ended = false;
  /** While it hands over. */
  #heir:
    | { entry(key: string, kept: Kept): void; done(): void; failed(got: string, busy?: boolean): void }
    | undefined;

  /**
   * @param successor program and arguments that start another nyxd for this machine
   * @param changed it has another pid
   */
  constructor(
    readonly dir: string,
    readonly successor: readonly string[],
    readonly warn: (what: string) => void,
    readonly changed: () => void = () => {},
  ) {}

  /** A new one, which holds nothing yet. @throws NativeError */
  start(): this {
    const [mine, theirs] = socketpair();
    try {
      const env = Object.entries(process.env).map(([name, value]) => `${name}=${value}`);
      const args = [join(this.dir, files.keeper), ...this.successor];
      const program = built('libs/native/build/Release/nyx-keeper');
      this.pid = spawnProcess(program, args, env, [-1, -1, -1, theirs]);
    } catch (e) {
      close(mine);
      throw e;
    } finally {
      close(theirs);
    }
    this.#starts++;
    this.#open(mine);
    this.attend(this.pid);
    return this;
  }

  /** Hears of its death, which the connection alone may not tell. @param pid of a keeper that lives */
  attend(pid: number): void {
    this.pid = pid;
    const pidfd = pidfdOpen(pid);
    const death = watch(pidfd, () => {
      death.close();
      try {
        waitProcess(pidfd);
      } catch {
        // It was started by a supervisor before us.
      }
      close(pidfd);
      if (this.pid === pid) this.#lost();
    });
    death.unref();
  }

  /**
   * Takes over from the keeper of a machine whose nyxd is dead; nobody else gets it from now on.
   * @throws NyxError ADOPTION_FAILED; VM_STATE: somebody was first
   */
  async takeOver(): Promise<Estate> {
    const path = join(this.dir, files.keeper);
    let fd: number;
    try {
      fd = connectSeq(path);
    } catch (e) {
      throw new NyxError('ADOPTION_FAILED', {
        expected: `a keeper of its descriptors at ${path}`,
        got: (e as { code?: string }).code ?? String(e),
      });
    }
    const entries = new Map<string, Kept>();
    try {
      await new Promise<void>((resolve, reject) => {
        const failed = (got: string, busy = false): void =>
          reject(
            busy
              ? new NyxError('VM_STATE', { expected: 'a machine without a supervisor', got })
              : new NyxError('ADOPTION_FAILED', { expected: 'a keeper that hands over what it has', got }),
          );
        const timer = setTimeout(() => failed(`no end within ${patience / 1000} s`), patience);
        const settle = (f: () => void) => (): void => {
          clearTimeout(timer);
          f();
        };
        this.#heir = {
          entry: (key, kept) => entries.set(key, kept),
          done: settle(resolve),
          failed: (got, busy) => settle(() => failed(got, busy))(),
        };
        this.#open(fd);
      });
    } catch (e) {
      for (const k of entries.values()) for (const f of k.fds) close(f);
      this.#ended = true;
      this.#socket?.close();
      throw e;
    } finally {
      this.#heir = undefined;
    }
    for (const [key, { value, fds }] of entries) this.#entries.set(key, { value, fds });
    return new Estate(entries);
  }

  /** Keeps `value` and copies of the descriptors under a key; what was there before is let go. */
  put(key: string, value: unknown, fds: readonly number[] = []): void {
    if (this.#ended) return;
    this.#entries.set(key, { value, fds: [...fds] });
    this.#send(message('p', key, value ?? null), fds);
  }

  drop(key: string): void {
    if (this.#ended || !this.#entries.delete(key)) return;
    this.#send(message('d', key));
  }

  /** Does it when everything that was said before has reached the keeper: at once, as a rule. */
  after(work: () => void): void {
    if (this.#socket === undefined || this.#socket.queued === 0) work();
    else this.#waiting.push(work);
  }

  /** As if we had died. */
  abandon(): void {
    this.#ended = true;
    this.#socket?.close();
  }

  /** The machine has ended. */
  end(): void {
    if (this.#ended) return;
    this.#send(Buffer.from('b'));
    this.#ended = true;
    this.#flush();
  }

  #open(fd: number): void {
    this.#socket = openSeqSocket(fd, {
      maxBytes,
      maxFds: 253,
      onMessage: (bytes, fds) => this.#message(Buffer.from(bytes), fds),
      onDrain: () => this.#flush(),
      onClose: () => this.#lost(),
    });
  }

  #send(bytes: Uint8Array, fds: readonly number[] = []): void {
    try {
      this.#socket?.send(bytes, fds);
    } catch (e) {
      // One that is dead is followed by another, which gets everything.
      if ((e as { code?: string }).code !== 'EPIPE') this.warn(`not kept: ${(e as Error).message}`);
    }
  }

  #message(b: Buffer, fds: number[]): void {
    const op = String.fromCharCode(b[0] ?? 0);
    const end = 2 + (b[1] ?? 0);
    const key = b.toString('utf8', 2, end);
    if (this.#heir && op === 'e') {
      try {
        this.#heir.entry(key, { value: JSON.parse(b.toString('utf8', end)), fds });
        return;
      } catch {
        this.#heir.failed(`'${key.slice(0, 40)}' without a value`);
      }
    } else if (op === 'z') this.#heir?.done();
    else if (op === 'x') this.#heir?.failed('another supervisor has it', true);
    else if (op === 'f') this.warn(`no room for '${key}': another supervisor will not be able to take over`);
    else this.#heir?.failed(`a message that is none: ${JSON.stringify(b.toString('latin1', 0, 40))}`);
    for (const fd of fds) close(fd);
  }

  #flush(): void {
    for (const work of this.#waiting.splice(0)) work();
  }

  /** It has died, or gave up on us. */
  #lost(): void {
    this.#socket?.close();
    this.#socket = undefined;
    if (this.#heir) {
      this.#heir.failed('it closed the connection');
      return;
    }
    if (this.#ended) return;
    if (this.#starts >= mostStarts) this.warn('nyx-keeper died again: another supervisor cannot take over');
    else
      try {
        this.start();
        for (const [key, { value, fds }] of this.#entries) this.#send(message('p', key, value ?? null), fds);
        this.warn('nyx-keeper died and was started again');
        this.changed();
      } catch (e) {
        this.warn(`nyx-keeper cannot be started: ${(e as Error).message}`);
      }
    this.#flush();
  }
}

/** Keeps nothing. */
export const noKeeper: Keeping = {
  put() {},
  drop() {},
  after: (work) => work(),
};
