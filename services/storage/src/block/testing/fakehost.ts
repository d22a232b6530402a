/** A host in memory that counts every effect, dies or fails at any, and forgets what was not made stable. */
import type { HostIo, HostQueue } from '../host.ts';
import { Sparse } from './sparse.ts';

/** Nothing of the driver may run after this; it has no code, so that no error path takes it. */
export class Died extends Error {}

interface File {
  data: Sparse;
  size: number;
  /** As of the last sync, and what was written since. */
  stable: Sparse;
  stableSize: number;
  volatile: [position: number, bytes: Uint8Array][];
}

const IO = { read: 0, write: 1, fdatasync: 3 } as const;

export class FakeHost implements HostIo {
  readonly files = new Map<number, File>();
  steps = 0;
  dieAt = 0;
  /** Step that fails, with this errno. */
  failAt = 0;
  errno = 5;
  dead = false;
  /** What the driver's memory was when it died. */
  onDeath: () => void = () => {};

  constructor(
    private readonly rand: (n: number) => number,
    /** Bytes that a file may have. */
    private readonly room = 1 << 20,
  ) {}

  /** @param content must not change afterwards */
  add(fd: number, content: Uint8Array): void {
    const data = Sparse.of(content, this.room);
    this.files.set(fd, {
      data,
      size: content.length,
      stable: data.copy(),
      stableSize: content.length,
      volatile: [],
    });
  }
  /** A copy. */
  content(fd: number): Uint8Array {
    const f = this.files.get(fd)!;
    const bytes = new Uint8Array(f.size);
    f.data.get(bytes, 0);
    return bytes;
  }

  #step(): void {
    if (this.dead) throw new Died('dead');
    this.steps++;
    if (this.steps !== this.dieAt) return;
    this.dead = true;
    this.onDeath();
    throw new Died(`death at step ${this.steps}`);
  }
  #fails(): boolean {
    return this.steps === this.failAt;
  }

  pread(fd: number, buffer: ArrayBuffer, at: number, length: number, position: number): number {
    if (this.dead) throw new Died('dead');
    const f = this.files.get(fd)!;
    const n = Math.max(0, Math.min(length, f.size - position));
    f.data.get(new Uint8Array(buffer, at, n), position);
    return n;
  }
  pwrite(fd: number, buffer: ArrayBuffer, at: number, length: number, position: number): number {
    this.#step();
    if (this.#fails()) throw Object.assign(new Error('injected'), { code: 'EIO' });
    this.#write(fd, new Uint8Array(buffer, at, length), position);
    return length;
  }
  #write(fd: number, bytes: Uint8Array, position: number): void {
    const f = this.files.get(fd)!;
    // As a file system that is full.
    if (position + bytes.length > this.room)
      throw Object.assign(new Error(`a write at ${position}`), { code: 'ENOSPC' });
    f.data.set(bytes, position);
    f.size = Math.max(f.size, position + bytes.length);
    f.volatile.push([position, bytes.slice()]);
  }
  fdatasync(fd: number): void {
    this.#step();
    if (this.#fails()) throw Object.assign(new Error('injected'), { code: 'EIO' });
    this.#sync(fd);
  }
  #sync(fd: number): void {
    const f = this.files.get(fd)!;
    for (const [position, bytes] of f.volatile.splice(0)) f.stable.set(bytes, position);
    f.stableSize = f.size;
  }
  punchHole(fd: number, position: number, length: number): void {
    if (this.dead) throw new Died('dead');
    this.#write(fd, new Uint8Array(Math.min(length, this.room - position)), position);
  }
  size(fd: number): number {
    return this.files.get(fd)!.size;
  }
  /** The size of a file is stable at once: what a journaling file system makes of it is another matter. */
  truncate(fd: number, size: number): void {
    this.#step();
    if (this.#fails()) throw Object.assign(new Error('injected'), { code: 'EIO' });
    if (size > this.room) throw Object.assign(new Error(`a file of ${size} bytes`), { code: 'ENOSPC' });
    const f = this.files.get(fd)!;
    for (const content of [f.data, f.stable]) content.zero(Math.min(size, f.size), f.size);
    for (const v of f.volatile.splice(0)) {
      const keep = Math.min(v[1].length, size - v[0]);
      if (keep > 0) f.volatile.push([v[0], v[1].subarray(0, keep)]);
    }
    f.size = f.stableSize = size;
  }

  /** A new process: what the dead one had under way is done, or not, or half. */
  revive(): void {
    this.dead = false;
    this.dieAt = 0;
    for (const apply of this.#inFlight.splice(0)) apply();
  }
  readonly #inFlight: (() => void)[] = [];

  /** The power was cut: of what was not made stable, any part is there. */
  powerLoss(): void {
    this.dead = false;
    this.dieAt = 0;
    this.#inFlight.length = 0;
    for (const f of this.files.values()) {
      for (const [position, bytes] of f.volatile.splice(0)) {
        // In whole sectors, each for itself.
        for (let at = 0; at < bytes.length; ) {
          const n = Math.min(bytes.length - at, 512 - ((position + at) % 512));
          if (this.rand(2) === 0) {
            f.stable.set(bytes.subarray(at, at + n), position + at);
            f.stableSize = Math.max(f.stableSize, position + at + n);
          }
          at += n;
        }
      }
      f.data = f.stable.copy();
      f.size = f.stableSize;
    }
  }

  openQueue(entries: number, _onReady: () => void): HostQueue {
    const memories: Uint8Array[] = [];
    const segments = new Float64Array(768);
    const completions = new Int32Array(2 * entries);
    const pending: { id: number; run: () => number }[] = [];
    let ready: typeof pending = [];
    const host = this;
    return {
      segments,
      completions,
      get inFlight() {
        return pending.length + ready.length;
      },
      addMemory(buffer) {
        return memories.push(new Uint8Array(buffer)) - 1;
      },
      queue(op, id, fd, position, count) {
        const pieces = Array.from({ length: count }, (_, i) => {
          const [m, at, n] = [segments[3 * i]!, segments[3 * i + 1]!, segments[3 * i + 2]!];
          if (at + n > memories[m]!.length) throw new Error('a segment outside of its memory');
          return memories[m]!.subarray(at, at + n);
        });
        pending.push({
          id,
          run() {
            if (op === IO.fdatasync) {
              host.#sync(fd);
              return 0;
            }
            let done = 0;
            for (const piece of pieces) {
              if (op === IO.read) {
                const n = host.pread(
                  fd,
                  piece.buffer as ArrayBuffer,
                  piece.byteOffset,
                  piece.length,
                  position + done,
                );
                done += n;
                if (n < piece.length) break;
              } else {
                host.#write(fd, piece, position + done);
                done += piece.length;
              }
            }
            return done;
          },
        });
        return true;
      },
      submit() {
        if (host.dead) throw new Died('dead');
        ready.push(...pending.splice(0));
        return ready.length > 0;
      },
      harvest() {
        if (host.dead) throw new Died('dead');
        if (ready.length === 0) return 0;
        // In any order, one at a time.
        const [op] = ready.splice(host.rand(ready.length), 1);
        try {
          host.#step();
        } catch (e) {
          host.#inFlight.push(
            ...[op!, ...ready].filter(() => host.rand(2) === 0).map((o) => () => void o.run()),
          );
          ready = [];
          throw e;
        }
        completions[0] = op!.id;
        try {
          completions[1] = host.#fails() ? -host.errno : op!.run();
        } catch (e) {
          if ((e as { code?: string }).code !== 'ENOSPC') throw e;
          completions[1] = -28;
        }
        return 1;
      },
      close() {},
    };
  }
}
