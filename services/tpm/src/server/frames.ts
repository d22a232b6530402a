/** Cuts a stream of octets into messages. */
export class Frames {
  private buf: Buffer = Buffer.alloc(0);
  private readonly lengthOf: (b: Buffer) => number | undefined;

  /** `lengthOf`: octets of the message that starts with `b`; undefined: not known yet. Never 0. */
  constructor(lengthOf: (b: Buffer) => number | undefined) {
    this.lengthOf = lengthOf;
  }

  /** The messages that are complete with `data`. */
  push(data: Buffer): Buffer[] {
    this.buf = this.buf.length === 0 ? data : Buffer.concat([this.buf, data]);
    const out: Buffer[] = [];
    for (;;) {
      const n = this.buf.length === 0 ? undefined : this.lengthOf(this.buf);
      if (n === undefined || this.buf.length < n) return out;
      out.push(this.buf.subarray(0, n));
      this.buf = this.buf.subarray(n);
    }
  }
  get pending(): number {
    return this.buf.length;
  }
}
