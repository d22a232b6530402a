/**
 * A disk that an NBD server has. The connection comes from outside (a jailed process cannot make one) and may be lost: whoever
 * gives connections is asked for another one, and requests without an answer are sent again. Data go between socket and
 * guest memory without a copy.
 *
 * What a server had begun for a connection that is gone may still take effect after what the next one is told. That is the
 * protocol's: it has no word for "stop that".
 */
import { writevSync } from 'node:fs';
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
  Command,
  CommandFlag,
  type Export,
  handshake,
  Magic,
  requestBytes,
  Transmission,
} from './protocol.ts';
import { eachPiece, Replies, type Slot } from './replies.ts';

export interface NbdOptions {
  exportName: string;
  /** As the export has them; one that differs later is refused. */
  size: number;
  readOnly: boolean;
  discard?: boolean;
  /** Seconds that requests wait for a connection, then they fail until there is one; without it they wait without end. */
  reconnectDelay?: number;
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
/** Buffers of one writev. */
const MOST_BUFFERS = 256;

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
  /** Until requests fail for want of a server; `#failing`: they do. */
  #patience: NodeJS.Timeout | undefined;
  #failing = false;
  readonly #done: BlockRequest[] = [];
  #doneCount = 0;
  #told = false;
  readonly #replies: Replies;

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
    this.#replies = new Replies(this.#slots, memory, (i) => this.#answered(i));
    if (o.fd !== undefined) this.#attach(o.fd);
    else {
      this.#wait();
      o.connect();
    }
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
    clearTimeout(this.#patience);
    this.#failing = false;
    this.#replies.begin(this.#export.structured);
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
    this.#wait();
  }

  /** There is no server: for how long that may be so begins now. */
  #wait(): void {
    const { reconnectDelay } = this.#o;
    if (reconnectDelay === undefined) return;
    clearTimeout(this.#patience);
    this.#patience = setTimeout(() => {
      this.#o.note?.(`nbd: no server for ${reconnectDelay} s, requests fail`);
      this.#failing = true;
      this.kick();
    }, reconnectDelay * 1000);
    this.#patience.unref();
  }

  /** Without a server, and without patience: all that waits fails. */
  #fail(): void {
    this.#unsent = [];
    for (const [i, s] of this.#slots.entries()) {
      const r = s.request;
      if (r === undefined) continue;
      s.request = undefined;
      this.#free.push(i);
      // Not stable: nothing is to be flushed behind it.
      r.fua = false;
      r.result = BlockResult.io;
      // What waits for more slots is told of below.
      if (!this.#waiting.some((w) => w.r === r)) this.#partDone(r);
    }
    for (const { r } of this.#waiting.splice(0)) {
      r.fua = false;
      r.result = BlockResult.io;
      r.progress = 1;
      this.#partDone(r);
    }
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
    if (this.#fd < 0) {
      if (this.#failing) this.#fail();
      return;
    }
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
    if (type === Command.write) eachPiece(this.#memory, r, s.from, s.bytes, (piece) => this.#out.push(piece));
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
        while (this.#replies.pull(this.#fd));
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

  /** A reply is whole. */
  #answered(i: number): void {
    const s = this.#slots[i]!;
    const r = s.request!;
    // A discard is a hint.
    if (s.result !== BlockResult.ok && r.op !== BlockOp.discard) r.result = s.result;
    s.request = undefined;
    this.#free.push(i);
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
    clearTimeout(this.#patience);
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
