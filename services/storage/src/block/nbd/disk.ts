/**
 * A disk that an NBD server has. The connection comes from outside (a jailed process cannot make one) and may be lost: whoever
 * gives connections is asked for another one, and requests without an answer are sent again. Data go between socket and
 * guest memory without a copy.
 *
 * What a server had begun for a connection that is gone may still take effect after what the next one is told. That is the
 * protocol's: it has no word for "stop that".
 */
import { readSync, writevSync } from 'node:fs';
import { close, type Watch, watch } from '@nyx/native';
import {
  type BlockDriver,
  BlockOp,
  type BlockOrder,
  type BlockRequest,
  BlockResult,
  type Completed,
} from '../block.ts';
import {
  broken,
  Chunk,
  Command,
  CommandFlag,
  type Export,
  gone,
  handshake,
  Magic,
  ReplyFlag,
  requestBytes,
  Transmission,
} from './protocol.ts';

export interface NbdOptions {
  exportName: string;
  /** As the export has them; one that differs later is refused. */
  size: number;
  readOnly: boolean;
  discard?: boolean;
  /** A connected socket, if there is one already. */
  fd?: number;
  /** Asks for a connection: it comes by the order 'connection', with a descriptor. */
  connect(): void;
  /** Something about the connection, for the log. */
  note?(text: string): void;
}

/** Parts of requests under way. */
const SLOTS = 128;
const HANDSHAKE_MS = 3000;
/** A pause after a connection that did not hold, ms. */
const AGAIN_MS = 200;
const EINVAL = 22;
const ENOSPC = 28;
const ENOTSUP = 95;
/** Buffers of one writev. */
const MOST_BUFFERS = 256;
const LONGEST_MESSAGE = 65536;

/** A part of a request that has a place in the protocol. */
interface Slot {
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

type State = 'head' | 'payload' | 'data';

export class NbdDisk implements BlockDriver {
  readonly size: number;
  readonly readOnly: boolean;
  physicalBytes = 4096;
  readonly canDiscard: boolean;
  readonly #o: NbdOptions;
  readonly #memory: ArrayBuffer;
  readonly #completed: Completed;
  #export: Export | undefined;
  #fd = -1;
  #watch: Watch | undefined;
  readonly #slots: Slot[];
  readonly #free: number[];
  /** Slots to be sent; requests that have no slot yet. */
  #unsent: number[] = [];
  #waiting: { r: BlockRequest; from: number }[] = [];
  /** Bytes on their way out. */
  #out: Uint8Array[] = [];
  #retry: NodeJS.Timeout | undefined;
  readonly #done: BlockRequest[] = [];
  #doneCount = 0;
  #told = false;
  // ---- what is being received ----
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

  /** @throws NBD_*, when there is a connection and it is of no use */
  constructor(o: NbdOptions, memory: ArrayBuffer, completed: Completed) {
    this.#o = o;
    this.size = Math.floor(o.size / 512) * 512;
    this.readOnly = o.readOnly;
    this.canDiscard = !o.readOnly && (o.discard ?? true);
    this.#memory = memory;
    this.#completed = completed;
    this.#slots = Array.from({ length: SLOTS }, () => ({
      request: undefined,
      from: 0,
      bytes: 0,
      got: 0,
      result: 0,
      head: new Uint8Array(requestBytes),
      sent: false,
    }));
    this.#free = Array.from({ length: SLOTS }, (_, i) => i);
    if (o.fd !== undefined) this.#attach(o.fd);
    else o.connect();
  }

  get connected(): boolean {
    return this.#fd >= 0;
  }

  // ---- the connection ----

  order(order: BlockOrder, fds: readonly number[]): void {
    if (order.name !== 'connection' || fds[0] === undefined) return;
    if (this.#fd >= 0) {
      close(fds[0]);
      return;
    }
    try {
      this.#attach(fds[0]);
    } catch (e) {
      this.#o.note?.((e as Error).message);
      this.#retry = setTimeout(() => this.#o.connect(), AGAIN_MS);
      this.#retry.unref();
    }
  }

  /** @throws NBD_* */
  #attach(fd: number): void {
    try {
      const e = handshake(fd, this.#o.exportName, HANDSHAKE_MS);
      if (e.size !== this.#o.size) throw broken(`an export of ${e.size} bytes, it had ${this.#o.size}`);
      if (e.flags & Transmission.readOnly && !this.readOnly) throw broken('the export cannot be written');
      this.#export = e;
      this.physicalBytes = e.physicalBytes;
    } catch (e) {
      close(fd);
      throw e;
    }
    this.#fd = fd;
    this.#state = 'head';
    this.#have = 0;
    this.#need = 16;
    this.#watch = watch(fd, () => this.poll(), { drain: false });
    this.kick();
  }

  /** What has no answer is sent again, on the next connection. */
  #lost(why: string): void {
    this.#o.note?.(why);
    this.#watch?.close();
    this.#watch = undefined;
    close(this.#fd);
    this.#fd = -1;
    this.#out = [];
    this.#unsent = [];
    for (const [i, s] of this.#slots.entries()) {
      if (s.request === undefined) continue;
      s.sent = false;
      s.got = 0;
      s.result = BlockResult.ok;
      this.#unsent.push(i);
    }
    this.#retry = setTimeout(() => this.#o.connect(), AGAIN_MS);
    this.#retry.unref();
  }

  // ---- requests ----

  submit(r: BlockRequest): void {
    r.result = BlockResult.ok;
    r.progress = 1;
    this.#waiting.push({ r, from: 0 });
  }

  /** Gives what waits a place, as far as there is one. */
  #place(): void {
    const e = this.#export!;
    for (let w = this.#waiting[0]; w !== undefined; w = this.#waiting[0]) {
      const { r } = w;
      const { flags } = e;
      if (
        (r.op === BlockOp.flush && !(flags & Transmission.flush)) ||
        (r.op === BlockOp.discard && !(flags & Transmission.trim))
      )
        w.from = r.bytes;
      const zeroes = r.op === BlockOp.writeZeroes && !(flags & Transmission.writeZeroes);
      if (zeroes) r.result = BlockResult.unsupported;
      // A flush is one part without bytes.
      let begun = zeroes || (r.op === BlockOp.flush && !(flags & Transmission.flush));
      while (!begun || (w.from < r.bytes && !zeroes)) {
        begun = true;
        if (r.op !== BlockOp.flush && w.from >= r.bytes) break;
        const i = this.#free.pop();
        if (i === undefined) return;
        const s = this.#slots[i]!;
        s.request = r;
        s.from = w.from;
        s.bytes = Math.min(r.bytes - w.from, e.most);
        s.got = 0;
        s.result = BlockResult.ok;
        s.sent = false;
        w.from += s.bytes;
        r.progress++;
        this.#unsent.push(i);
      }
      this.#waiting.shift();
      this.#partDone(r);
    }
  }

  #partDone(r: BlockRequest): void {
    if (--r.progress > 0) return;
    // Stable although the server has no flag for that.
    if (
      r.fua &&
      r.op !== BlockOp.flush &&
      r.op !== BlockOp.read &&
      r.result === BlockResult.ok &&
      this.#export!.flags & Transmission.flush &&
      !(this.#export!.flags & Transmission.fua)
    ) {
      const i = this.#free.pop();
      if (i !== undefined) {
        const s = this.#slots[i]!;
        Object.assign(s, { request: r, from: 0, bytes: -1, got: 0, result: BlockResult.ok, sent: false });
        r.progress = 1;
        r.fua = false;
        this.#unsent.push(i);
        return;
      }
      r.result = BlockResult.io;
    }
    this.#done[this.#doneCount++] = r;
    if (this.#told) return;
    this.#told = true;
    setImmediate(this.#tell);
  }
  readonly #tell = (): void => {
    this.#told = false;
    this.poll();
  };

  kick(): void {
    if (this.#fd < 0) return;
    this.#place();
    for (const i of this.#unsent.splice(0)) this.#encode(i);
    this.#push();
  }

  #encode(i: number): void {
    const s = this.#slots[i]!;
    const r = s.request!;
    const v = new DataView(s.head.buffer);
    const flush = s.bytes < 0 || r.op === BlockOp.flush;
    const type = flush
      ? Command.flush
      : [Command.read, Command.write, Command.flush, Command.trim, Command.writeZeroes][r.op]!;
    let flags = 0;
    if (r.fua && !flush && r.op !== BlockOp.read && this.#export!.flags & Transmission.fua)
      flags |= CommandFlag.fua;
    if (r.op === BlockOp.writeZeroes && !r.unmap) flags |= CommandFlag.noHole;
    const position = flush ? 0 : r.position + s.from;
    v.setUint32(0, Magic.request);
    v.setUint16(4, flags);
    v.setUint16(6, type);
    v.setUint32(8, 0);
    v.setUint32(12, i);
    v.setUint32(16, Math.floor(position / 4294967296));
    v.setUint32(20, position >>> 0);
    v.setUint32(24, flush ? 0 : s.bytes);
    s.sent = true;
    this.#out.push(s.head);
    if (type === Command.write) this.#eachPiece(r, s.from, s.bytes, (piece) => this.#out.push(piece));
  }

  /** The memory of bytes from..from+bytes of a request. */
  #eachPiece(r: BlockRequest, from: number, bytes: number, use: (piece: Uint8Array) => unknown): void {
    for (let i = 0; bytes > 0; i++) {
      const length = r.lengths[i]!;
      if (from >= length) {
        from -= length;
        continue;
      }
      const n = Math.min(length - from, bytes);
      use(new Uint8Array(this.#memory, r.offsets[i]! + from, n));
      bytes -= n;
      from = 0;
    }
  }

  /** Sends what the socket takes. */
  #push(): void {
    clearTimeout(this.#retry);
    try {
      while (this.#out.length > 0) {
        let n = writevSync(this.#fd, this.#out.slice(0, MOST_BUFFERS));
        let whole = 0;
        for (; whole < this.#out.length && n >= this.#out[whole]!.length; whole++)
          n -= this.#out[whole]!.length;
        this.#out.splice(0, whole);
        if (n > 0) this.#out[0] = this.#out[0]!.subarray(n);
      }
    } catch (e) {
      const { code } = e as { code?: string };
      if (code === undefined) throw e;
      if (code !== 'EAGAIN') this.#lost(`nbd: ${code}`);
      // The server does not read: a moment later.
      else this.#retry = setTimeout(() => this.kick(), 1);
    }
  }

  // ---- replies ----

  poll(): void {
    if (this.#fd >= 0) {
      try {
        while (this.#pull());
      } catch (e) {
        const { code } = e as { code?: string };
        if (code === undefined) throw e;
        if (code !== 'EAGAIN') this.#lost(`nbd: ${(e as Error).message}`);
      }
      this.kick();
    }
    if (this.#doneCount === 0) return;
    const count = this.#doneCount;
    this.#doneCount = 0;
    this.#completed(this.#done, count);
  }

  /** Receives a piece. @throws EAGAIN when there is none; NBD_* */
  #pull(): boolean {
    if (this.#state === 'data') {
      const s = this.#slots[this.#slot]!;
      let piece: Uint8Array | undefined;
      this.#eachPiece(s.request!, s.from + this.#data.at, this.#data.left, (p) => {
        piece ??= p;
      });
      const n = readSync(this.#fd, piece!, 0, piece!.length, null);
      if (n === 0) throw gone('the server closed the connection');
      this.#data.at += n;
      this.#data.left -= n;
      s.got += n;
      if (this.#data.left === 0) this.#chunkDone();
      return true;
    }
    const n = readSync(this.#fd, this.#headBytes, this.#have, this.#need - this.#have, null);
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
      if (structured && !this.#export!.structured) throw broken('a structured reply that was not asked for');
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
    const s = this.#slots[this.#slot]!;
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
      this.#eachPiece(s.request!, s.from + at, length, (p) => p.fill(0));
      s.got += length;
    } else if (type & 0x8000) this.#failed(s, v.getUint32(0));
    this.#chunkDone();
  }

  #slotAt(hi: number, lo: number): Slot {
    const s = hi === 0 ? this.#slots[lo] : undefined;
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
    const s = this.#slots[this.#slot]!;
    const r = s.request!;
    if (s.result === BlockResult.ok && r.op === BlockOp.read && s.got !== s.bytes)
      throw broken(`${s.got} bytes of ${s.bytes}`);
    // A discard is a hint.
    if (s.result !== BlockResult.ok && r.op !== BlockOp.discard) r.result = s.result;
    s.request = undefined;
    this.#free.push(this.#slot);
    this.#partDone(r);
  }

  get #idle(): boolean {
    return this.#free.length === SLOTS && this.#waiting.length === 0 && this.#doneCount === 0;
  }

  drain(timeoutMs: number): boolean {
    const end = Date.now() + timeoutMs;
    const pause = new Int32Array(new SharedArrayBuffer(4));
    for (;;) {
      this.kick();
      this.poll();
      if (this.#idle) return true;
      // Another connection comes through the event loop.
      if (Date.now() > end || this.#fd < 0) return false;
      Atomics.wait(pause, 0, 0, 1);
    }
  }

  fence(): void {}

  close(): void {
    clearTimeout(this.#retry);
    this.#watch?.close();
    if (this.#fd < 0) return;
    const bye = new DataView(new ArrayBuffer(requestBytes));
    bye.setUint32(0, Magic.request);
    bye.setUint16(6, Command.disconnect);
    try {
      writevSync(this.#fd, [new Uint8Array(bye.buffer)]);
    } catch {}
    close(this.#fd);
    this.#fd = -1;
  }
}
