/**
 * A disk whose requests suffer the faults that rules ask for (libs/device/src/faults). Between the controller and the
 * real driver; without a rule it passes everything on.
 */
import type { FaultRule } from '@nyx/protocol';
import { BlockOp, BlockRequest, BlockResult, type Completed, type OpenBlock } from './block.ts';
import { Filter } from './filter.ts';

/** What is needed of the device's context. */
export interface FaultSource {
  /** The fault that this request is to suffer. */
  fault?(op: number, position: number): FaultRule | undefined;
}

/** Longest time that a request waits for another one to overtake it. */
const reorderMs = 10;
/** Values of `mask` for an error that is more than an I/O error. */
const ENOSPC = 28;
const ENODEV = 19;

/** The first bytes of another request. */
class Part extends BlockRequest {
  constructor(readonly of: BlockRequest) {
    super(of.id);
  }
}

class FaultyDisk extends Filter {
  readonly #source: FaultSource;
  readonly #memory: DataView;
  /** Rules of requests under way. */
  readonly #rules = new Map<BlockRequest, FaultRule>();
  /** Finished without the driver. */
  readonly #answered: BlockRequest[] = [];
  /** Finished, but told only after another one is. */
  readonly #held: BlockRequest[] = [];
  /** Second executions: their completions are nobody's. */
  readonly #echoes = new Set<BlockRequest>();
  /** Dropped: never finished, unless the machine is reset. */
  readonly #lost: BlockRequest[] = [];
  #later = 0;
  /** There was a fault: until then, completions are passed on as they come. */
  #touched = false;

  constructor(source: FaultSource, open: OpenBlock, memory: ArrayBuffer, completed: Completed) {
    super(open, memory, completed);
    this.#source = source;
    this.#memory = new DataView(memory);
  }

  override submit(r: BlockRequest): void {
    const rule = this.#source.fault?.(r.op, r.position);
    if (rule === undefined) this.inner.submit(r);
    else {
      this.#touched = true;
      this.#suffer(r, rule);
    }
  }

  #suffer(r: BlockRequest, rule: FaultRule): void {
    switch (rule.verb) {
      case 'error':
        r.result =
          rule.mask === ENOSPC
            ? BlockResult.noSpace
            : rule.mask === ENODEV
              ? BlockResult.gone
              : BlockResult.io;
        this.#answer(r);
        return;
      case 'drop':
        this.#lost.push(r);
        return;
      case 'delay':
        this.#later++;
        setTimeout(() => {
          this.#later--;
          this.inner.submit(r);
          this.inner.kick();
        }, rule.delayNs / 1e6);
        return;
      case 'short':
        this.#short(r, rule.bytes);
        return;
      case 'corrupt':
        // What is written is damaged while it is read from guest memory; the guest's own copy is made good again after.
        if (r.op === BlockOp.write) this.#damage(r, rule);
        this.#rules.set(r, rule);
        break;
      case 'duplicate':
      case 'reorder':
        this.#rules.set(r, rule);
    }
    this.inner.submit(r);
  }

  /** Only the first bytes are done, and the request fails: what a disk that is torn off leaves behind. */
  #short(r: BlockRequest, bytes: number): void {
    if (r.op !== BlockOp.read && r.op !== BlockOp.write) {
      r.result = BlockResult.io;
      this.#answer(r);
      return;
    }
    const part = new Part(r);
    part.start(r.op, r.position, 0);
    for (let i = 0; i < r.count && part.bytes < bytes; i++) {
      const length = Math.min(r.lengths[i]!, bytes - part.bytes);
      part.add(r.offsets[i]!, length);
      part.bytes += length;
    }
    if (part.bytes === 0) {
      r.result = BlockResult.io;
      this.#answer(r);
    } else this.inner.submit(part);
  }

  /** Turns bits over in one byte of the request's memory; doing it again takes it back. */
  #damage(r: BlockRequest, rule: FaultRule): void {
    let at = rule.seed % Math.max(1, r.bytes);
    for (let i = 0; i < r.count; i++) {
      const length = r.lengths[i]!;
      if (at < length) {
        const byte = r.offsets[i]! + at;
        this.#memory.setUint8(byte, this.#memory.getUint8(byte) ^ (rule.mask & 0xff || 1));
        return;
      }
      at -= length;
    }
  }

  #answer(r: BlockRequest): void {
    this.#answered.push(r);
    this.#later++;
    setImmediate(() => {
      this.#later--;
      this.#tell();
    });
  }

  protected override finished(requests: readonly BlockRequest[], count: number): void {
    if (!this.#touched) {
      this.completed(requests, count);
      return;
    }
    let again = false;
    for (let i = 0; i < count; i++) {
      const r = requests[i]!;
      if (r instanceof Part) {
        r.of.result = BlockResult.io;
        this.#answered.push(r.of);
        continue;
      }
      if (this.#echoes.delete(r)) {
        this.#answered.push(r);
        continue;
      }
      const rule = this.#rules.get(r);
      this.#rules.delete(r);
      if (rule?.verb === 'corrupt') {
        // Also for a read: the damage is in what the guest gets.
        this.#damage(r, rule);
        this.#answered.push(r);
      } else if (rule?.verb === 'duplicate') {
        r.progress = 0;
        this.#echoes.add(r);
        this.inner.submit(r);
        again = true;
      } else if (rule?.verb === 'reorder') {
        this.#held.push(r);
        this.#later++;
        setTimeout(() => {
          this.#later--;
          this.#release();
        }, reorderMs);
      } else {
        this.#answered.push(r);
        this.#answered.push(...this.#held.splice(0));
      }
    }
    if (again) this.inner.kick();
    this.#tell();
  }

  #release(): void {
    this.#answered.push(...this.#held.splice(0));
    this.#tell();
  }

  #tell(): void {
    if (this.#answered.length === 0) return;
    const list = this.#answered.splice(0);
    this.completed(list, list.length);
  }

  override drain(timeoutMs: number): boolean {
    for (const r of this.#lost.splice(0)) {
      r.result = BlockResult.io;
      this.#answered.push(r);
    }
    const done = this.inner.drain(timeoutMs);
    this.#release();
    // A delayed request waits for the event loop, which waits for us.
    return done && this.#later === 0;
  }
}

/** The disk that `open` opens, as rules let it be. */
export const faulty =
  (source: FaultSource, open: OpenBlock): OpenBlock =>
  (memory, completed) =>
    new FaultyDisk(source, open, memory, completed);
