/** Drives a disk in tests: requests against a model, on real files. */
import { type BlockDriver, BlockOp, BlockRequest, type Completed } from '../block.ts';

const MEMORY = 4 << 20;

/** Pseudo-random numbers below n. */
export const random = (seed: number) => {
  let x = seed >>> 0 || 1;
  return (n: number): number => {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    return Math.floor((x / 4294967296) * n);
  };
};

export class Rig {
  readonly memory: ArrayBuffer;
  readonly bytes: Uint8Array;
  readonly done: BlockRequest[] = [];
  disk!: BlockDriver;

  constructor(readonly size = MEMORY) {
    this.memory = new ArrayBuffer(size);
    this.bytes = new Uint8Array(this.memory);
  }

  open(make: (memory: ArrayBuffer, completed: Completed) => BlockDriver): this {
    this.disk = make(this.memory, (list, n) => this.done.push(...list.slice(0, n)));
    return this;
  }

  request(op: number, position: number, bytes: number, at: number): BlockRequest {
    const r = new BlockRequest(0);
    r.start(op, position, bytes);
    if (op !== BlockOp.read && op !== BlockOp.write) return r;
    // Uneven pieces.
    for (let done = 0, n = 512; done < bytes; done += n) {
      n = Math.min(bytes - done, n * 3 + 512);
      r.add(at + done, n);
    }
    return r;
  }

  /** Submits all, waits for all; their results. */
  run(...list: BlockRequest[]): number[] {
    for (const r of list) this.disk.submit(r);
    this.disk.kick();
    if (!this.disk.drain(20_000)) throw new Error('the disk does not finish');
    if (this.done.length !== list.length)
      throw new Error(`${list.length} requests, ${this.done.length} reported`);
    this.done.length = 0;
    return list.map((r) => r.result);
  }

  /** Bytes of the disk. */
  read(position: number, bytes: number): Uint8Array {
    const [result] = this.run(this.request(BlockOp.read, position, bytes, 0));
    if (result !== 0) throw new Error(`read at ${position}+${bytes}: ${result}`);
    return this.bytes.slice(0, bytes);
  }

  /** The whole disk. */
  all(): Uint8Array {
    const content = new Uint8Array(this.disk.size);
    for (let at = 0; at < content.length; at += this.size / 2)
      content.set(this.read(at, Math.min(this.size / 2, content.length - at)), at);
    return content;
  }

  /**
   * Random requests, several at a time and not two on the same bytes, against `model`.
   * @param rounds of up to 8 requests
   */
  work(model: Uint8Array, seed: number, rounds: number, most = 96): void {
    const rand = random(seed);
    for (let round = 0; round < rounds; round++) {
      const list: BlockRequest[] = [];
      const checks: (() => void)[] = [];
      const taken: [number, number][] = [];
      for (let i = 0; i < 1 + rand(8); i++) {
        const sectors = model.length / 512;
        const n = 1 + rand(rand(4) === 0 ? most : 12);
        const first = rand(sectors);
        const [from, to] = [first * 512, Math.min(sectors, first + n) * 512];
        if (taken.some(([a, b]) => from < b && to > a)) continue;
        taken.push([from, to]);
        const op = [
          BlockOp.read,
          BlockOp.write,
          BlockOp.write,
          BlockOp.write,
          BlockOp.writeZeroes,
          BlockOp.discard,
        ][rand(6)]!;
        const at = i * 65536 * 4;
        const r = this.request(op, from, to - from, at);
        r.fua = rand(8) === 0;
        r.unmap = rand(2) === 0;
        list.push(r);
        if (op === BlockOp.write) {
          const value = 1 + rand(255);
          for (let b = 0; b < to - from; b++) this.bytes[at + b] = (value + (b >> 9)) & 0xff;
          model.set(this.bytes.subarray(at, at + to - from), from);
        } else if (op === BlockOp.read) {
          const want = model.slice(from, to);
          checks.push(() => {
            if (Buffer.compare(this.bytes.subarray(at, at + to - from), want) !== 0)
              throw new Error(`round ${round}: read at ${from}+${to - from} is wrong`);
          });
        } else if (op === BlockOp.writeZeroes) model.fill(0, from, to);
        else this.discarded(r, from, to);
      }
      if (rand(4) === 0) list.push(this.request(BlockOp.flush, 0, 0, 0));
      for (const [i, result] of this.run(...list).entries())
        if (result !== 0) throw new Error(`round ${round}: request ${i} (op ${list[i]!.op}): ${result}`);
      for (const check of checks) check();
      for (const [from, to] of this.unknown.splice(0)) model.set(this.read(from, to - from), from);
    }
  }
  /** Discarded ranges hold anything afterwards: read back into the model. */
  readonly unknown: [number, number][] = [];
  discarded(_r: BlockRequest, from: number, to: number): void {
    this.unknown.push([from, to]);
  }
}
