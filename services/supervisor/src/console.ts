/**
 * Consoles (libs/device/src/console.ts) in the event loop: takes the bytes that the device published, gives it the bytes that
 * clients typed. And the stream socket by which any number of clients see and use one.
 */
import { createWriteStream, renameSync, type WriteStream } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { ConsoleHost } from '@nyx/device';
import { eventfdWrite, watch } from '@nyx/native';

/** Bytes typed and not yet taken by the guest; what comes on top is dropped: nobody types so fast. */
const maxTyped = 0x100000;

export class HostConsole {
  readonly #ring: ConsoleHost;
  readonly #input: Buffer[] = [];
  #typed = 0;
  readonly #watch: { close(): void };

  /**
   * @param out eventfd that the device writes
   * @param kick eventfd that the device reads
   * @param output gets bytes, and how many were lost before them
   */
  constructor(
    buffer: ArrayBuffer,
    out: number,
    readonly kick: number,
    readonly output: (bytes: Buffer, lost: number) => void,
  ) {
    this.#ring = new ConsoleHost(buffer);
    this.#watch = watch(
      out,
      () => {
        this.#drain();
        this.#feed();
      },
      { drain: true },
    );
  }

  /** Bytes for the guest, queued while its ring is full. */
  write(bytes: Uint8Array): void {
    if (this.#typed + bytes.length > maxTyped) return;
    this.#typed += bytes.length;
    this.#input.push(Buffer.from(bytes));
    this.#feed();
  }

  /** Everything that the device has published is out. */
  drain(): void {
    this.#drain();
  }

  /** What was typed and is not in the ring yet is not wanted any more. */
  forget(): void {
    this.#input.length = 0;
    this.#typed = 0;
  }

  close(): void {
    this.#drain();
    this.#watch.close();
  }

  #drain(): void {
    for (let before = this.#ring.lost; ; before = this.#ring.lost) {
      const bytes = this.#ring.take();
      if (!bytes) return;
      this.output(Buffer.from(bytes.buffer), this.#ring.lost - before);
    }
  }

  #feed(): void {
    let moved = false;
    for (let bytes = this.#input[0]; bytes; bytes = this.#input[0]) {
      const n = this.#ring.push(bytes);
      if (n === 0) break;
      moved = true;
      this.#typed -= n;
      if (n === bytes.length) this.#input.shift();
      else this.#input[0] = bytes.subarray(n);
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
      [...this.#clients].map(
        (c) =>
          new Promise<void>((done) => {
            const patience = setTimeout(() => c.destroy(), 500);
            c.once('close', () => {
              clearTimeout(patience);
              done();
            });
            c.end();
          }),
      ),
    );
    await new Promise<void>((done) => this.#log.end(() => done()));
  }
}
