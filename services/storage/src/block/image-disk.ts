/**
 * What disks in images of any format have in common: requests become parts (reads and writes of files), wait when there is
 * no room for what they change, and are reported when all of their parts are over.
 */
import {
  type BlockDriver,
  BlockOp,
  type BlockRequest,
  BlockResult,
  type Completed,
  RamBytes,
} from './block.ts';
import { blockError, type HostIo } from './host.ts';
import { type Op, Ops } from './ops.ts';

export abstract class ImageDisk implements BlockDriver {
  abstract readonly size: number;
  abstract readonly readOnly: boolean;
  abstract readonly physicalBytes: number;
  abstract readonly canDiscard: boolean;
  protected readonly ops: Ops;
  readonly #completed: Completed;
  readonly #done: BlockRequest[] = [];
  #doneCount = 0;
  #told = false;
  #polling = false;
  /** Requests that wait for room, an allocation or a buffer, and how far they are. */
  #blocked: BlockRequest[] = [];
  #blockedFrom: number[] = [];
  protected blockedCount = 0;
  /** It must not be written any more. */
  protected broken = false;

  constructor(
    readonly io: HostIo,
    memory: ArrayBuffer,
    completed: Completed,
    depth = 128,
  ) {
    this.#completed = completed;
    this.ops = new Ops(
      io,
      memory,
      depth,
      () => this.poll(),
      (op, result) => this.opDone(op, result),
    );
    this.ops.memory = new RamBytes(memory);
  }

  /** Starts all parts of a read. @throws coded errors */
  protected abstract read(r: BlockRequest): void;
  /** Goes on with a write, discard or zeroes at `from`: how many bytes are done or under way, 0 when it must wait. @throws coded errors */
  protected abstract change(r: BlockRequest, from: number): number;
  /** `r` is over when everything before is stable: `report` it then. */
  protected abstract flush(r: BlockRequest): void;
  /** Begins to write out what is acknowledged. */
  protected abstract commit(): void;
  /** Requests wait: whether writing out would help them. */
  protected abstract get short(): boolean;
  /** Nothing of the driver's own is under way. */
  protected abstract get settled(): boolean;
  protected abstract opDone(op: Op, result: number): void;
  /** A change failed with this. */
  protected failing(_code: string): void {}

  submit(r: BlockRequest): void {
    // Parts under way, and this one.
    r.progress = 1;
    r.result = BlockResult.ok;
    this.#go(r, 0);
  }

  #go(r: BlockRequest, from: number): void {
    try {
      if (r.op === BlockOp.read) this.read(r);
      else if (r.op === BlockOp.flush) {
        this.flush(r);
        return;
      } else {
        if (this.readOnly || this.broken) throw blockError('EROFS', 'not written');
        for (let at = from; at < r.bytes; ) {
          const n = this.change(r, at);
          if (n === 0) {
            this.#block(r, at);
            return;
          }
          at += n;
        }
      }
    } catch (e) {
      const { code } = e as { code?: string };
      if (code === undefined) throw e;
      r.result = /^ENOSPC$|^EDQUOT$|_FULL$/.test(code) ? BlockResult.noSpace : BlockResult.io;
      if (r.op !== BlockOp.read) this.failing(code);
    }
    this.partDone(r, BlockResult.ok);
  }

  #block(r: BlockRequest, from: number): void {
    this.blockedCount++;
    this.#blocked.push(r);
    this.#blockedFrom.push(from);
    if (this.short) this.commit();
  }

  /** Something that requests waited for has changed. */
  protected wake(): void {
    if (this.#blocked.length === 0) return;
    const [requests, from] = [this.#blocked, this.#blockedFrom];
    this.#blocked = [];
    this.#blockedFrom = [];
    for (const [i, r] of requests.entries()) this.#go(r, from[i]!);
    this.ops.kick();
  }

  protected partDone(r: BlockRequest, result: number): void {
    if (result !== BlockResult.ok && r.result === BlockResult.ok) r.result = result;
    if (--r.progress > 0) return;
    if (r.fua && r.result === BlockResult.ok && r.op !== BlockOp.read) this.flush(r);
    else this.report(r);
  }

  protected report(r: BlockRequest): void {
    this.#done[this.#doneCount++] = r;
    if (this.#told || this.#polling) return;
    // Nothing of the host may be under way that would call us.
    this.#told = true;
    setImmediate(this.#tell);
  }
  readonly #tell = (): void => {
    this.#told = false;
    this.poll();
  };

  kick(): void {
    this.ops.kick();
  }

  poll(): void {
    this.#polling = true;
    this.ops.poll();
    this.#polling = false;
    if (this.#doneCount === 0) return;
    const count = this.#doneCount;
    this.#doneCount = 0;
    this.#completed(this.#done, count);
  }

  drain(timeoutMs: number): boolean {
    const end = Date.now() + timeoutMs;
    const pause = new Int32Array(new SharedArrayBuffer(4));
    for (;;) {
      const { ended } = this.ops;
      this.kick();
      this.poll();
      if (this.ops.idle && this.settled && this.#blocked.length === 0 && this.#doneCount === 0) return true;
      if (Date.now() > end) return false;
      if (!this.ops.idle && this.ops.ended === ended) Atomics.wait(pause, 0, 0, 1);
    }
  }

  fence(): void {}

  /** Writes out what was acknowledged, when nothing is under way. */
  close(): void {
    if (!this.readOnly && !this.broken) {
      this.commit();
      this.drain(10_000);
    }
    this.ops.queue.close();
  }
}
