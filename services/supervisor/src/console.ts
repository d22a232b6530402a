/**
 * The host's end of a console (libs/protocol/src/console.ts): takes the bytes that the device published, gives it
 * the bytes that clients typed. And the stream socket by which any number of clients see and use it.
 */
import { createWriteStream, renameSync, type WriteStream } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { Memory, type View, view } from '@nyx/layout';
import { eventfdWrite, watch } from '@nyx/native';
import { ConsoleHeader, consoleWire } from '@nyx/protocol';

const outMask = consoleWire.outBytes - 1;
const inMask = consoleWire.inBytes - 1;
const word = (field: Parameters<typeof ConsoleHeader.offsetOf>[0]): number => ConsoleHeader.offsetOf(field) >> 2;

/** A console as bytes. `output` gets a copy of its own; `lost` counts bytes that came too fast. */
export class HostConsole {
  lost = 0;
  readonly #words: Uint32Array;
  readonly #header: View<typeof ConsoleHeader>;
  readonly #input: Buffer[] = [];
  readonly #watch: { close(): void };

  /**
   * @param out eventfd that the device writes
   * @param kick eventfd that the device reads
   */
  constructor(
    readonly buffer: ArrayBuffer,
    out: number,
    readonly kick: number,
    readonly output: (bytes: Buffer, lost: number) => void,
  ) {
    const memory = new Memory(buffer);
    this.#words = memory.u32;
    this.#header = view(ConsoleHeader, memory);
    this.#watch = watch(out, () => this.#serve(), { drain: true });
  }

  /** Bytes for the guest; queued while its ring is full, at most 1 MiB (then dropped: nobody types so fast). */
  write(bytes: Uint8Array): void {
    if (this.#input.reduce((n, b) => n + b.length, 0) > 0x100000) return;
    this.#input.push(Buffer.from(bytes));
    this.#feed();
  }

  close(): void {
    this.#drain();
    this.#watch.close();
  }

  #serve(): void {
    this.#drain();
    this.#feed();
  }

  #drain(): void {
    for (;;) {
      const head = Atomics.load(this.#words, word('outHead'));
      let tail = this.#header.outTail;
      let n = (head - tail) >>> 0;
      if (n === 0) return;
      let lost = 0;
      if (n > consoleWire.outBytes) {
        lost = n - consoleWire.outBytes;
        tail = (head - consoleWire.outBytes) >>> 0;
        n = consoleWire.outBytes;
        this.lost += lost;
      }
      const at = tail & outMask;
      const first = Math.min(n, consoleWire.outBytes - at);
      const bytes = Buffer.allocUnsafe(n);
      bytes.set(new Uint8Array(this.buffer, consoleWire.outAt + at, first));
      bytes.set(new Uint8Array(this.buffer, consoleWire.outAt, n - first), first);
      // Stored before outHead is read again: the device, which stores outHead first, sees one of the two.
      Atomics.store(this.#words, word('outTail'), head);
      this.output(bytes, lost);
    }
  }

  #feed(): void {
    let moved = false;
    while (this.#input.length > 0) {
      const head = this.#header.inHead;
      const used = (head - Atomics.load(this.#words, word('inTail'))) >>> 0;
      const room = used > consoleWire.inBytes ? 0 : consoleWire.inBytes - used;
      const bytes = this.#input[0]!;
      const n = Math.min(room, bytes.length);
      if (n === 0) break;
      const ring = new Uint8Array(this.buffer, consoleWire.inAt, consoleWire.inBytes);
      for (let i = 0; i < n; i++) ring[(head + i) & inMask] = bytes[i]!;
      Atomics.store(this.#words, word('inHead'), (head + n) >>> 0);
      if (n === bytes.length) this.#input.shift();
      else this.#input[0] = bytes.subarray(n);
      moved = true;
    }
    if (moved) eventfdWrite(this.kick);
  }
}

/** Kept for clients that come later, so that they see where they are. */
const backlogBytes = 16 * 1024;
/** A client that does not read is let go before it costs more memory than this. */
const maxUnread = 4 * 1024 * 1024;
/** The log file is begun anew at this size; one old file is kept. */
const maxLog = 16 * 1024 * 1024;

/** Clients of one console. */
export class ConsoleServer {
  readonly #clients = new Set<Socket>();
  readonly #server: Server;
  #backlog: Buffer = Buffer.alloc(0);
  #log: WriteStream;
  #logged = 0;

  constructor(
    path: string,
    readonly logPath: string,
    readonly input: (bytes: Buffer) => void,
  ) {
    this.#log = createWriteStream(logPath, { mode: 0o600 });
    this.#log.on('error', () => {});
    this.#server = createServer((c) => this.#join(c));
    this.#server.listen(path);
  }

  #join(client: Socket): void {
    client.on('error', () => {});
    client.on('close', () => this.#clients.delete(client));
    client.on('data', (b) => this.input(b));
    if (this.#backlog.length) client.write(this.#backlog);
    this.#clients.add(client);
  }

  output(bytes: Buffer): void {
    const all = Buffer.concat([this.#backlog, bytes]);
    this.#backlog = Buffer.from(all.subarray(Math.max(0, all.length - backlogBytes)));
    for (const c of this.#clients) {
      if (c.writableLength > maxUnread) c.destroy();
      else c.write(bytes);
    }
    this.#logged += bytes.length;
    if (this.#logged > maxLog) {
      this.#logged = 0;
      this.#log.end();
      renameSync(this.logPath, `${this.logPath}.1`);
      this.#log = createWriteStream(this.logPath, { mode: 0o600 });
      this.#log.on('error', () => {});
    }
    this.#log.write(bytes);
  }

  /** After everything was delivered. */
  async close(): Promise<void> {
    this.#server.close();
    await Promise.all(
      [...this.#clients].map((c) => new Promise<void>((done) => {
        const patience = setTimeout(() => c.destroy(), 500);
        c.once('close', () => {
          clearTimeout(patience);
          done();
        });
        c.end();
      })),
    );
    await new Promise<void>((done) => this.#log.end(() => done()));
  }
}
