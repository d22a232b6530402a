/** swtpm as a peer: its process, its two sockets. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Peer } from './corpus.ts';

const words = (...values: number[]) => {
  const b = Buffer.alloc(4 * values.length);
  values.forEach((v, i) => void b.writeUInt32BE(v, 4 * i));
  return b;
};

/** A request and its answer, one at a time. */
class Wire {
  private buf = Buffer.alloc(0);
  private waiter: { size: (b: Buffer) => number | undefined; done: (b: Buffer) => void } | undefined;
  private readonly socket: Socket;
  private failed: Error | undefined;
  constructor(socket: Socket) {
    this.socket = socket.setNoDelay(true);
    socket.on('data', (b) => {
      this.buf = this.buf.length ? Buffer.concat([this.buf, b]) : b;
      this.look();
    });
    socket.on('close', () => {
      this.failed = new Error('the peer closed');
      this.look();
    });
    socket.on('error', () => {});
  }
  private look(): void {
    const { waiter } = this;
    if (!waiter) return;
    const size = waiter.size(this.buf);
    if (this.failed) {
      this.waiter = undefined;
      waiter.done(Buffer.alloc(0));
    } else if (size !== undefined && this.buf.length >= size) {
      this.waiter = undefined;
      const out = this.buf.subarray(0, size);
      this.buf = this.buf.subarray(size);
      waiter.done(out);
    }
  }
  /** Empty: the peer has closed. */
  ask(bytes: Buffer, size: (b: Buffer) => number | undefined): Promise<Buffer> {
    return new Promise((done) => {
      this.waiter = { size, done };
      this.socket.write(bytes);
      if (this.failed) this.look();
    });
  }
  close(): void {
    this.socket.destroy();
  }
}

const open = (path: string) =>
  new Promise<Wire>((resolve, reject) => {
    const s = connect(path, () => resolve(new Wire(s)));
    s.on('error', reject);
  });

export class SwtpmPeer extends Peer {
  private readonly child: ChildProcess;
  private data!: Wire;
  private control!: Wire;
  private readonly dir: string;
  /** @param dir a directory of its own */
  constructor(dir: string) {
    super();
    this.dir = dir;
    mkdirSync(dir, { recursive: true });
    this.child = spawn(
      'swtpm',
      [
        ...['socket', '--tpm2', '--tpmstate', `dir=${dir}`, '--flags', 'not-need-init,startup-clear'],
        ...[
          '--server',
          `type=unixio,path=${join(dir, 'data')}`,
          '--ctrl',
          `type=unixio,path=${join(dir, 'ctrl')}`,
        ],
      ],
      { stdio: 'ignore' },
    );
  }
  async start(): Promise<this> {
    this.data = await this.connect('data');
    this.control = await this.connect('ctrl');
    return this;
  }
  /** It listens when it is ready, within a minute. */
  private async connect(name: string): Promise<Wire> {
    for (let i = 0; ; i++) {
      try {
        return await open(join(this.dir, name));
      } catch (e) {
        if (i === 3000 || this.child.exitCode !== null) throw e;
        await sleep(20);
      }
    }
  }
  raw(bytes: Buffer): Promise<Buffer> {
    return this.data.ask(bytes, (b) => (b.length < 10 ? undefined : b.readUInt32BE(2)));
  }
  private ask(bytes: Buffer): Promise<Buffer> {
    return this.control.ask(bytes, (b) => (b.length < 4 ? undefined : 4));
  }
  /** Permanent and volatile state. */
  async save(): Promise<Buffer[]> {
    const out: Buffer[] = [];
    for (const type of [1, 2]) {
      const blob = await this.control.ask(words(12, 0, type, 0), (b) =>
        b.length < 16 ? undefined : 16 + b.readUInt32BE(12),
      );
      out.push(Buffer.from(blob.subarray(16)));
    }
    return out;
  }
  async load(blobs: readonly Buffer[]): Promise<void> {
    await this.ask(words(14));
    for (const [i, blob] of blobs.entries())
      await this.ask(Buffer.concat([words(13, 0, i + 1, blob.length), blob]));
    const answer = await this.ask(words(2, 1));
    const rc = answer.length === 4 ? answer.readUInt32BE(0) : -1;
    if (rc !== 0) throw new Error(`swtpm does not start from its own state: ${rc}`);
  }
  close(): void {
    this.data.close();
    this.control.close();
    this.child.kill();
  }
}
