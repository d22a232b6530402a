/** Host I/O of a disk made of images: pooled operations on one queue, resumed when short, retried when interrupted. */
import { type IoOps, ioOp } from '@nyx/native';
import { type BlockRequest, BlockResult, type RamBytes } from './block.ts';
import type { HostIo, HostQueue } from './host.ts';

const [EINTR, EAGAIN, ENOSPC, EDQUOT] = [4, 11, 28, 122];
const MAX_SEGMENTS = 256;

/** One read, write or sync of a file. Its bytes are: `head` of a private buffer, a range of the request, `tail`. */
export class Op {
  io = 0;
  fd = 0;
  position = 0;
  /** All of it. */
  bytes = 0;
  done = 0;
  request: BlockRequest | undefined;
  /** First byte of the request's that is meant. */
  from = 0;
  head = 0;
  middle = 0;
  /** Where head, then tail, lie in the private buffer. */
  headAt = 0;
  tailAt = 0;
  buffer = -1;
  /** The middle is zeroes, whatever the request holds. */
  zero = false;
  epoch = 0;
  /** What to do with the result. */
  tag = 0;
  owner: unknown;
}

export class Ops {
  readonly queue: HostQueue;
  readonly #memory: number;
  readonly #zeroes: number;
  readonly #zeroBytes = 1 << 16;
  readonly #running: (Op | undefined)[];
  readonly #free: Int32Array;
  #freeCount: number;
  readonly #pool: Op[] = [];
  readonly #waiting: Op[] = [];
  #waitingFrom = 0;
  #queued = false;
  /** Operations under way that began while the epoch was even, and odd. */
  readonly inEpoch = new Int32Array(2);
  epoch = 0;

  constructor(
    io: HostIo,
    memory: ArrayBuffer,
    depth: number,
    onReady: () => void,
    /** An operation is over: BlockResult. It goes back to the pool afterwards. */
    private readonly finished: (op: Op, result: number) => void,
  ) {
    this.queue = io.openQueue(depth, onReady);
    this.#memory = this.queue.addMemory(memory);
    this.#zeroes = this.queue.addMemory(new ArrayBuffer(this.#zeroBytes));
    this.#running = new Array(depth).fill(undefined);
    this.#free = Int32Array.from({ length: depth }, (_, i) => i);
    this.#freeCount = depth;
  }

  /** Operations that came back so far. */
  ended = 0;

  get idle(): boolean {
    return this.queue.inFlight === 0 && this.#waiting.length === this.#waitingFrom;
  }

  take(io: IoOps[keyof IoOps], tag: number, fd: number, position: number, request?: BlockRequest): Op {
    const op = this.#pool.pop() ?? new Op();
    op.io = io;
    op.tag = tag;
    op.fd = fd;
    op.position = position;
    op.bytes = op.done = op.from = op.head = op.middle = 0;
    op.buffer = -1;
    op.zero = false;
    op.request = request;
    op.owner = undefined;
    return op;
  }

  start(op: Op): void {
    op.epoch = this.epoch & 1;
    this.inEpoch[op.epoch]!++;
    if (this.#freeCount === 0) this.#waiting.push(op);
    else this.#queue(this.#free[--this.#freeCount]!, op);
  }

  kick(): void {
    if (!this.#queued) return;
    this.#queued = false;
    this.queue.submit();
  }

  poll(): void {
    const { completions } = this.queue;
    do {
      this.kick();
      const n = this.queue.harvest();
      this.ended += n;
      for (let i = 0; i < n; i++) this.#completed(completions[2 * i]!, completions[2 * i + 1]!);
    } while (this.#queued);
  }

  #queue(id: number, op: Op): void {
    this.#running[id] = op;
    this.#queued = true;
    const count = op.io === ioOp.fdatasync ? 0 : this.#segments(op);
    if (!this.queue.queue(op.io, id, op.fd, op.position + op.done, count)) this.#end(id, op, BlockResult.io);
  }

  /** Where the bytes from `done` on are: as many pieces as go in one call. */
  #segments(op: Op): number {
    const { segments } = this.queue;
    let skip = op.done;
    let n = 0;
    const put = (memory: number, at: number, length: number): void => {
      if (skip >= length) {
        skip -= length;
        return;
      }
      if (n === MAX_SEGMENTS) return;
      segments[3 * n] = memory;
      segments[3 * n + 1] = at + skip;
      segments[3 * n + 2] = length - skip;
      skip = 0;
      n++;
    };
    if (op.head > 0) put(op.buffer, op.headAt, op.head);
    if (op.zero)
      for (let left = op.middle; left > 0; left -= this.#zeroBytes)
        put(this.#zeroes, 0, Math.min(left, this.#zeroBytes));
    else if (op.middle > 0) {
      const r = op.request!;
      let { from } = op;
      let left = op.middle;
      for (let i = 0; left > 0; i++) {
        const length = r.lengths[i]!;
        if (from >= length) {
          from -= length;
          continue;
        }
        const take = Math.min(length - from, left);
        put(this.#memory, r.offsets[i]! + from, take);
        left -= take;
        from = 0;
      }
    }
    const tail = op.bytes - op.head - op.middle;
    if (tail > 0) put(op.buffer, op.tailAt, tail);
    return n;
  }

  /** Fills what is left of a read with zeroes. */
  #pad(op: Op, memory: RamBytes, buffer: (i: number) => Uint8Array): void {
    const n = this.#segments(op);
    const { segments } = this.queue;
    for (let i = 0; i < n; i++) {
      const to = segments[3 * i] === this.#memory ? memory : buffer(segments[3 * i]!);
      to.fill(0, segments[3 * i + 1]!, segments[3 * i + 1]! + segments[3 * i + 2]!);
    }
  }
  /** Set by the owner: the bytes of guest memory, and of a private buffer. */
  memory!: RamBytes;
  buffer!: (index: number) => Uint8Array;

  #completed(id: number, result: number): void {
    const op = this.#running[id];
    if (!op) return;
    if (result === -EINTR || result === -EAGAIN) this.#queue(id, op);
    else if (result < 0)
      this.#end(id, op, result === -ENOSPC || result === -EDQUOT ? BlockResult.noSpace : BlockResult.io);
    else if (op.io === ioOp.read && result === 0) {
      // Behind the end of the file: what an image refers to there was never written.
      this.#pad(op, this.memory, this.buffer);
      this.#end(id, op, BlockResult.ok);
    } else if (op.io === ioOp.write && result === 0) this.#end(id, op, BlockResult.io);
    else {
      op.done += result;
      if (op.done < op.bytes) this.#queue(id, op);
      else this.#end(id, op, BlockResult.ok);
    }
  }

  #end(id: number, op: Op, result: number): void {
    this.#running[id] = undefined;
    this.inEpoch[op.epoch]!--;
    this.#free[this.#freeCount++] = id;
    if (this.#waitingFrom < this.#waiting.length) {
      const next = this.#waiting[this.#waitingFrom++]!;
      if (this.#waitingFrom === this.#waiting.length) this.#waiting.length = this.#waitingFrom = 0;
      this.#queue(this.#free[--this.#freeCount]!, next);
    }
    this.finished(op, result);
    op.request = undefined;
    op.owner = undefined;
    this.#pool.push(op);
  }
}
