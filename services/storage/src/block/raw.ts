/**
 * A disk that is a file or block device, byte for byte, through the addon's asynchronous I/O queue (io_uring, or
 * threads where the kernel has none).
 */
import { ftruncateSync } from 'node:fs';
import { createIoQueue, fileSize, type IoQueue, ioOp } from '@nyx/native';
import { type BlockDriver, BlockOp, type BlockRequest, BlockResult, type Completed } from './block.ts';

const EINTR = 4;
const EAGAIN = 11;
const ENOSPC = 28;
const ENOSYS = 38;
const EOPNOTSUPP = 95;
/** ENXIO, ENODEV, ESTALE, ENOMEDIUM: there is nothing behind the descriptor any more. */
const gone: ReadonlySet<number> = new Set([6, 19, 116, 123]);

/** What a request waits for. */
const Phase = { main: 0, sync: 1, zero: 2 } as const;

export interface RawOptions {
  /** Open for reading, and for writing unless `readOnly`. */
  fd: number;
  readOnly?: boolean;
  /** Requests in flight at most, power of two. */
  depth?: number;
  /** Offer discard (default true). */
  discard?: boolean;
  /** Size as the role says, for block devices; default: of the file. */
  size?: number;
  physicalBytes?: number;
  /** The same file, open with O_DIRECT: for what is aligned; anything else goes through the page cache, which the kernel keeps coherent. */
  direct?: number;
  /** The process may stand still while a write waits (DiskSource). */
  mayWait?: boolean;
}

/** What any device and file system takes with O_DIRECT. */
const ALIGNED = 4096;
const aligned = (position: number, segments: Float64Array, count: number): boolean => {
  let bits = position % ALIGNED;
  for (let i = 0; i < count; i++) bits |= (segments[3 * i + 1]! % ALIGNED) | (segments[3 * i + 2]! % ALIGNED);
  return bits === 0;
};

export class RawDisk implements BlockDriver {
  readonly size: number;
  readonly readOnly: boolean;
  readonly physicalBytes: number;
  readonly canDiscard: boolean;
  readonly #fd: number;
  /** -1: there is none. */
  readonly #direct: number;
  readonly #io: IoQueue;
  readonly #memory: number;
  readonly #completed: Completed;
  /** By id of the queue: the request and what it waits for. */
  readonly #requests: (BlockRequest | undefined)[];
  readonly #phases: Uint8Array;
  readonly #free: Int32Array;
  #freeCount: number;
  /** Submitted while all ids were taken. */
  readonly #waiting: BlockRequest[] = [];
  readonly #done: BlockRequest[] = [];
  #doneCount = 0;
  #queued = false;

  /** @throws coded error when the descriptor is no file, or the queue cannot be made. */
  constructor(o: RawOptions, memory: ArrayBuffer, completed: Completed) {
    this.#fd = o.fd;
    this.#direct = o.direct ?? -1;
    this.size = Math.floor((o.size ?? fileSize(o.fd)) / 512) * 512;
    this.readOnly = o.readOnly ?? false;
    this.physicalBytes = o.physicalBytes ?? 4096;
    this.canDiscard = !this.readOnly && (o.discard ?? true);
    this.#completed = completed;
    const depth = o.depth ?? 128;
    this.#io = createIoQueue({
      entries: depth,
      inline: o.mayWait ? 'all' : 'cached',
      onReady: () => this.poll(),
    });
    this.#memory = this.#io.addMemory(memory);
    this.#requests = new Array(depth).fill(undefined);
    this.#phases = new Uint8Array(depth);
    this.#free = Int32Array.from({ length: depth }, (_, i) => depth - 1 - i);
    this.#freeCount = depth;
  }

  get engine(): string {
    return this.#io.engine;
  }

  submit(r: BlockRequest): void {
    if (this.#freeCount === 0) {
      this.#waiting.push(r);
      return;
    }
    const id = this.#free[--this.#freeCount]!;
    this.#requests[id] = r;
    this.#start(id, r, Phase.main);
  }

  /** Queues what the request needs next. */
  #start(id: number, r: BlockRequest, phase: number): void {
    this.#phases[id] = phase;
    this.#queued = true;
    const { segments } = this.#io;
    let fd = this.#fd;
    let op: number = ioOp.fdatasync;
    let count = 0;
    if (phase !== Phase.sync && r.op !== BlockOp.flush) {
      if (r.op === BlockOp.read || r.op === BlockOp.write) {
        op = r.op === BlockOp.read ? ioOp.read : ioOp.write;
        let skip = r.progress;
        for (let i = 0; i < r.count; i++) {
          const length = r.lengths[i]!;
          if (skip >= length) {
            skip -= length;
            continue;
          }
          segments[3 * count] = this.#memory;
          segments[3 * count + 1] = r.offsets[i]! + skip;
          segments[3 * count + 2] = length - skip;
          skip = 0;
          count++;
        }
        if (this.#direct >= 0 && aligned(r.position + r.progress, segments, count)) fd = this.#direct;
      } else {
        op = phase === Phase.main && (r.op === BlockOp.discard || r.unmap) ? ioOp.punchHole : ioOp.zeroRange;
        segments[0] = this.#memory;
        segments[1] = 0;
        segments[2] = r.bytes;
        count = 1;
      }
    }
    // As many ids as entries: the queue is never full here.
    if (!this.#io.queue(op, id, fd, r.position + r.progress, count)) this.#end(id, r, BlockResult.io);
  }

  kick(): void {
    if (!this.#queued) return;
    this.#queued = false;
    this.#io.submit();
  }

  poll(): void {
    const { completions } = this.#io;
    do {
      this.kick();
      const n = this.#io.harvest();
      for (let i = 0; i < n; i++) this.#finished(completions[2 * i]!, completions[2 * i + 1]!);
    } while (this.#queued);
    if (this.#doneCount === 0) return;
    const count = this.#doneCount;
    this.#doneCount = 0;
    this.#completed(this.#done, count);
  }

  #finished(id: number, result: number): void {
    const r = this.#requests[id];
    if (!r) return;
    const phase = this.#phases[id]!;
    if (result === -EINTR || result === -EAGAIN) {
      this.#start(id, r, phase);
      return;
    }
    if (result < 0) {
      const cannot = result === -EOPNOTSUPP || result === -ENOSYS;
      // A discard is a hint; zeroes that cannot be had by a hole are written.
      if (cannot && r.op === BlockOp.discard) this.#end(id, r, BlockResult.ok);
      else if (cannot && r.op === BlockOp.writeZeroes && phase === Phase.main && r.unmap)
        this.#start(id, r, Phase.zero);
      else
        this.#end(
          id,
          r,
          result === -ENOSPC
            ? BlockResult.noSpace
            : cannot
              ? BlockResult.unsupported
              : gone.has(-result)
                ? BlockResult.gone
                : BlockResult.io,
        );
      return;
    }
    if (phase === Phase.main && (r.op === BlockOp.read || r.op === BlockOp.write)) {
      // Nothing at all: the file ends before the disk does, somebody cut it.
      if (result === 0) {
        this.#end(id, r, BlockResult.gone);
        return;
      }
      r.progress += result;
      if (r.progress < r.bytes) {
        this.#start(id, r, Phase.main);
        return;
      }
    }
    if (r.fua && phase !== Phase.sync) this.#start(id, r, Phase.sync);
    else this.#end(id, r, BlockResult.ok);
  }

  #end(id: number, r: BlockRequest, result: number): void {
    r.result = result;
    this.#done[this.#doneCount++] = r;
    this.#requests[id] = undefined;
    this.#free[this.#freeCount++] = id;
    const next = this.#waiting.shift();
    if (next) this.submit(next);
  }

  drain(timeoutMs: number): boolean {
    this.kick();
    const end = Date.now() + timeoutMs;
    const pause = new Int32Array(new SharedArrayBuffer(4));
    for (;;) {
      this.poll();
      if (this.#io.inFlight === 0 && this.#waiting.length === 0) return true;
      if (Date.now() > end) return false;
      Atomics.wait(pause, 0, 0, 1);
    }
  }

  /**
   * Buffered I/O of a process ends before the process does, but direct I/O may outlive it in the kernel. Setting the
   * size of a file, be it to what it is, waits for its direct I/O.
   */
  fence(): void {
    if (this.#direct < 0 || this.readOnly) return;
    try {
      ftruncateSync(this.#fd, fileSize(this.#fd));
    } catch {
      // A block device has no size to set.
    }
  }

  close(): void {
    this.#io.close();
  }
}
