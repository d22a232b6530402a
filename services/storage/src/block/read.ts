/** Reading through a chain of images, and the pieces of requests that go to files as they are. */
import { ioOp } from '@nyx/native';
import type { BlockRequest, RamBytes } from './block.ts';
import type { Chain } from './chain.ts';
import { Extent, Kind } from './extent.ts';
import type { Ops } from './ops.ts';

export class Reader {
  /** Of the look-up under way. */
  readonly #extent = new Extent();

  /** @param tag of the operations that are parts of requests; each adds one to the request's `progress` */
  constructor(
    readonly chain: Chain,
    readonly ops: Ops,
    readonly memory: RamBytes,
    readonly tag: number,
  ) {}

  /** Starts all of it. @throws coded errors */
  read(r: BlockRequest): void {
    const e = this.#extent;
    for (let from = 0; from < r.bytes; from += e.bytes) {
      this.chain.lookup(0, r.position + from, r.bytes - from, e);
      if (e.kind === Kind.zero) this.#eachPiece(r, from, e.bytes, undefined, 0);
      else if (e.kind === Kind.compressed) {
        const bytes = this.chain.unpack(e);
        this.#eachPiece(r, from, e.bytes, bytes, (r.position + from) % bytes.length);
      } else this.part(ioOp.read, r, from, e.bytes, e.fd, e.host);
    }
  }

  /** A range of the request from or to a file. `zero`: zeroes instead of its bytes. */
  part(
    io: typeof ioOp.read | typeof ioOp.write,
    r: BlockRequest,
    from: number,
    bytes: number,
    fd: number,
    at: number,
    zero = false,
  ): void {
    const op = this.ops.take(io, this.tag, fd, at, r);
    op.from = from;
    op.middle = op.bytes = bytes;
    op.zero = zero;
    r.progress++;
    this.ops.start(op);
  }

  /** Copies into the request's memory, zeroes without a source. */
  #eachPiece(r: BlockRequest, from: number, bytes: number, source: Uint8Array | undefined, at: number): void {
    for (let i = 0; bytes > 0; i++) {
      const length = r.lengths[i]!;
      if (from >= length) {
        from -= length;
        continue;
      }
      const n = Math.min(length - from, bytes);
      const to = r.offsets[i]! + from;
      if (source) this.memory.set(source.subarray(at, at + n), to);
      else this.memory.fill(0, to, to + n);
      at += n;
      bytes -= n;
      from = 0;
    }
  }
}
