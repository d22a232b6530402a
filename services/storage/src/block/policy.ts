/**
 * What becomes of requests that the backend fails (`werror`, `rerror`; QEMU's names and meanings): report them to the
 * guest, ignore the error, or stop: the request is held, whoever owns the machine is told and pauses it, and `retry`
 * tries it again. `enospc` stops when there is no room, and reports the rest.
 */
import type { ErrorPolicy } from '@nyx/protocol/disk-options';
import {
  BlockOp,
  type BlockOrder,
  type BlockRequest,
  BlockResult,
  type Completed,
  type OpenBlock,
} from './block.ts';
import { Filter } from './filter.ts';

export interface ErrorPolicies {
  /** Writes, flushes, discards, zeroes. Default enospc. */
  werror?: ErrorPolicy;
  /** Reads. Default report. */
  rerror?: ErrorPolicy;
}

export class PolicyDisk extends Filter {
  readonly #held: BlockRequest[] = [];
  /** A batch without the held ones. */
  readonly #passed: BlockRequest[] = [];

  /** @param stopped told for each request that is held, with the policy's error still in `result` */
  constructor(
    private readonly policies: ErrorPolicies,
    private readonly stopped: (r: BlockRequest) => void,
    open: OpenBlock,
    memory: ArrayBuffer,
    completed: Completed,
    /** Hears of every request that the backend failed, whatever becomes of it. */
    private readonly failed: (r: BlockRequest) => void = () => {},
  ) {
    super(open, memory, completed);
  }

  get held(): number {
    return this.#held.length;
  }

  /** True when it is held. */
  #decide(r: BlockRequest): boolean {
    // What a driver cannot do, no retry will change.
    if (r.result === BlockResult.ok || r.result === BlockResult.unsupported) return false;
    this.failed(r);
    const { werror = 'enospc', rerror = 'report' } = this.policies;
    const policy = r.op === BlockOp.read ? rerror : werror;
    if (policy === 'ignore') r.result = BlockResult.ok;
    else if (policy === 'stop' || (policy === 'enospc' && r.result === BlockResult.noSpace)) {
      this.#held.push(r);
      this.stopped(r);
      return true;
    }
    return false;
  }

  protected override finished(requests: readonly BlockRequest[], count: number): void {
    let good = 0;
    while (good < count && requests[good]!.result === BlockResult.ok) good++;
    if (good === count) {
      this.completed(requests, count);
      return;
    }
    const passed = this.#passed;
    let n = 0;
    for (let i = 0; i < count; i++) if (!this.#decide(requests[i]!)) passed[n++] = requests[i]!;
    if (n > 0) this.completed(passed, n);
  }

  override order(order: BlockOrder, fds: readonly number[]): void {
    if (order.name === 'retry') this.#retry();
    else super.order(order, fds);
  }

  /** Tries what is held again, as it came. */
  #retry(): void {
    for (const r of this.#held.splice(0)) {
      r.result = BlockResult.ok;
      r.progress = 0;
      this.inner.submit(r);
    }
    this.inner.kick();
  }

  /** Nobody will try again: what is held ends with its error. */
  override drain(timeoutMs: number): boolean {
    const done = this.inner.drain(timeoutMs);
    const held = this.#held.splice(0);
    if (held.length > 0) this.completed(held, held.length);
    return done;
  }
}
