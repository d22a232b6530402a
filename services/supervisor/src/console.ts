/**
 * Consoles (libs/device/src/console.ts) in the event loop: takes the bytes that the device published, gives it the bytes that
 * clients typed. And the stream socket by which any number of clients see and use one.
 */
import { closeSync, fstatSync, openSync, readSync, renameSync, rmSync, writeSync } from 'node:fs';
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
    for (let lost = this.#ring.lost; ; lost = this.#ring.lost) {
      const use = (bytes: Uint8Array): void =>
        this.output(Buffer.from(bytes.buffer as ArrayBuffer), this.#ring.lost - lost);
      if (!this.#ring.take(use)) return;
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
  /** Written at once: what is in it need not be said again when we die. */
  #log: number;
  #logged = 0;

  constructor(
    path: string,
    readonly logPath: string,
    readonly input: (bytes: Buffer) => void,
  ) {
    rmSync(path, { force: true });
    this.#log = openSync(logPath, 'a+', 0o600);
    this.#logged = fstatSync(this.#log).size;
    // Of a machine that another supervisor has started: clients see where they are.
    const tail = Buffer.alloc(Math.min(this.#logged, backlogBytes));
    this.#backlog = tail.subarray(0, readSync(this.#log, tail, 0, tail.length, this.#logged - tail.length));
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
      closeSync(this.#log);
      renameSync(this.logPath, `${this.logPath}.1`);
      this.#log = openSync(this.logPath, 'a', 0o600);
    }
    try {
      writeSync(this.#log, bytes);
    } catch {
      // No room: the guest goes on without a log.
    }
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
    closeSync(this.#log);
  }
}
