/** Replies of an NBD server: what belongs to no request that was sent, or not there, ends the connection. */
import { readSync } from 'node:fs';
import { BlockOp, type BlockRequest, BlockResult } from '../block.ts';
import { broken, Chunk, gone, Magic, ReplyFlag } from './protocol.ts';

const EINVAL = 22;
const ENOSPC = 28;
const ENOTSUP = 95;
const LONGEST_MESSAGE = 65536;

/** A part of a request that has a place in the protocol. */
export interface Slot {
  request: BlockRequest | undefined;
  /** First byte of the request, and bytes. */
  from: number;
  bytes: number;
  /** Bytes of a read that have come. */
  got: number;
  result: number;
  /** Made of the request once. */
  head: Uint8Array;
  sent: boolean;
}

/** The memory of bytes from..from+bytes of a request. */
export function eachPiece(
  memory: ArrayBuffer,
  r: BlockRequest,
  from: number,
  bytes: number,
  use: (piece: Uint8Array) => unknown,
): void {
  for (let i = 0; bytes > 0; i++) {
    const length = r.lengths[i]!;
    if (from >= length) {
      from -= length;
      continue;
    }
    const n = Math.min(length - from, bytes);
    use(new Uint8Array(memory, r.offsets[i]! + from, n));
    bytes -= n;
    from = 0;
  }
}

type State = 'head' | 'payload' | 'data';

export class Replies {
  readonly #head = new DataView(new ArrayBuffer(LONGEST_MESSAGE));
  readonly #headBytes = new Uint8Array(this.#head.buffer);
  #have = 0;
  #need = 16;
  #state: State = 'head';
  #slot = 0;
  /** Of a structured reply. */
  #chunk = { flags: 0, type: 0, bytes: 0 };
  /** Bytes of data to come, and where in the slot's part they belong. */
  #data = { at: 0, left: 0 };

  #structuredReplies = false;

  /** @param done a slot has its whole answer: `result` is set */
  constructor(
    private readonly slots: readonly Slot[],
    private readonly memory: ArrayBuffer,
    private readonly done: (slot: number) => void,
  ) {}

  /** Another connection. */
  begin(structured: boolean): void {
    this.#structuredReplies = structured;
    this.#expect('head', 16);
  }

  /** Receives a piece. @throws EAGAIN when there is none; NBD_* */
  pull(fd: number): boolean {
    if (this.#state === 'data') {
      const s = this.slots[this.#slot]!;
      let piece: Uint8Array | undefined;
      eachPiece(this.memory, s.request!, s.from + this.#data.at, this.#data.left, (p) => {
        piece ??= p;
      });
      const n = readSync(fd, piece!, 0, piece!.length, null);
      if (n === 0) throw gone('the server closed the connection');
      this.#data.at += n;
      this.#data.left -= n;
      s.got += n;
      if (this.#data.left === 0) this.#chunkDone();
      return true;
    }
    const n = readSync(fd, this.#headBytes, this.#have, this.#need - this.#have, null);
    if (n === 0) throw gone('the server closed the connection');
    this.#have += n;
    if (this.#have === this.#need) this.#received();
    return true;
  }

  #expect(state: State, bytes: number): void {
    this.#state = state;
    this.#need = bytes;
    this.#have = 0;
  }

  /** As many bytes as were needed are here. */
  #received(): void {
    const v = this.#head;
    if (this.#state === 'head') {
      const structured = v.getUint32(0) === Magic.structuredReply;
      if (!structured && v.getUint32(0) !== Magic.simpleReply) throw broken('a reply that is none');
      if (structured && !this.#structuredReplies) throw broken('a structured reply that was not asked for');
      if (structured && this.#need === 16) {
        this.#need = 20;
        return;
      }
      const s = this.#slotAt(v.getUint32(8), v.getUint32(12));
      if (structured) {
        this.#chunk = { flags: v.getUint16(4), type: v.getUint16(6), bytes: v.getUint32(16) };
        this.#structured(s);
        return;
      }
      const error = v.getUint32(4);
      this.#chunk = { flags: ReplyFlag.done, type: Chunk.none, bytes: 0 };
      if (error !== 0) this.#failed(s, error);
      else if (s.request!.op === BlockOp.read) {
        this.#data = { at: 0, left: s.bytes };
        this.#state = 'data';
        return;
      }
      this.#chunkDone();
      return;
    }
    const s = this.slots[this.#slot]!;
    const { type, bytes } = this.#chunk;
    if (type === Chunk.data || type === Chunk.hole) {
      const offset = v.getUint32(0) * 4294967296 + v.getUint32(4);
      const length = type === Chunk.data ? bytes - 8 : v.getUint32(8);
      const at = offset - (s.request!.position + s.from);
      if (s.request!.op !== BlockOp.read || at < 0 || at + length > s.bytes || s.got + length > s.bytes)
        throw broken('data that were not asked for');
      if (type === Chunk.data && length > 0) {
        this.#data = { at, left: length };
        this.#state = 'data';
        return;
      }
      eachPiece(this.memory, s.request!, s.from + at, length, (p) => p.fill(0));
      s.got += length;
    } else if (type & 0x8000) this.#failed(s, v.getUint32(0));
    this.#chunkDone();
  }

  #slotAt(hi: number, lo: number): Slot {
    const s = hi === 0 ? this.slots[lo] : undefined;
    if (s?.request === undefined || !s.sent) throw broken('a reply to nothing');
    this.#slot = lo;
    return s;
  }

  #structured(s: Slot): void {
    const { type, bytes } = this.#chunk;
    if (type === Chunk.none && bytes === 0) this.#chunkDone();
    else if (type === Chunk.data && bytes >= 8 && bytes <= 8 + s.bytes) this.#expect('payload', 8);
    else if (type === Chunk.hole && bytes === 12) this.#expect('payload', 12);
    else if (type & 0x8000 && bytes >= 6 && bytes <= LONGEST_MESSAGE) this.#expect('payload', bytes);
    else throw broken(`a chunk of type ${type} with ${bytes} bytes`);
  }

  #failed(s: Slot, error: number): void {
    s.result =
      error === ENOSPC
        ? BlockResult.noSpace
        : error === ENOTSUP || (error === EINVAL && s.request!.op > BlockOp.flush)
          ? BlockResult.unsupported
          : BlockResult.io;
  }

  #chunkDone(): void {
    this.#expect('head', 16);
    if (!(this.#chunk.flags & ReplyFlag.done)) return;
    const s = this.slots[this.#slot]!;
    if (s.result === BlockResult.ok && s.request!.op === BlockOp.read && s.got !== s.bytes)
      throw broken(`${s.got} bytes of ${s.bytes}`);
    this.done(this.#slot);
  }
}
