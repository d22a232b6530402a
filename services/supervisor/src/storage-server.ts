/**
 * A disk for other programs: a vhost-user back-end that always has somebody in its place. The files, their locks and the
 * listening socket are ours; the process that serves them is jailed, may die, and is replaced. What it had under way
 * comes back with the front-end, which keeps the in-flight region.
 */
import { lstatSync, unlinkSync } from 'node:fs';
import { close, connectUnix, listenUnix } from '@nyx/native';
import type { DiskFormat } from '@nyx/protocol/disk-options';
import { NyxError } from '@nyx/protocol/errors';
import { Child } from './child.ts';
import { adoptDisk, type DiskFile, openDisk } from './disk-files.ts';
import { at, runTool } from './disk-tool.ts';
import { deviceDataLimit } from './jail.ts';
import { addonPath, built, bundleFiles } from './paths.ts';
import { openFile } from './preflight.ts';
import { ServerControl } from './storage-control.ts';
import { wearOf } from './wear.ts';

export interface StorageServerOptions {
  socket: string;
  path: string;
  format?: DiskFormat | undefined;
  readonly: boolean;
  forceShare: boolean;
  queues: number;
  serial: string;
  blockBytes: number;
  spinNs: number;
  /** Tells the front-end's guest how worn the medium is. */
  lifetime: boolean;
}

/** Told by the process; see services/storage/src/serve/role.ts. */
type Reply =
  | { type: 'ready' }
  | { type: 'serving'; bytes: number; readOnly: boolean; missing: string[] }
  | { type: 'connected' | 'gone' }
  | { type: 'failed'; code: string; message: string }
  | { type: 'log'; level: string; message: string };

export interface StorageServerEvents {
  log(level: string, message: string): void;
  /** It serves, for the first time or again. */
  serving(pid: number, bytes: number, missing: readonly string[]): void;
  /** It cannot be served any more. */
  failed(e: NyxError): void;
}

/** Restarts: so many in so many ms; the fourth and later ones wait, in ms. */
const rules = {
  budget: 100,
  window: 60_000,
  backoff: 50,
  maxBackoff: 2000,
  startTimeout: 10_000,
  endTimeout: 15_000,
};

/** A path where nobody listens any more is free. @throws NyxError SOCKET_IN_USE, FILE_KIND */
const freePath = (path: string): void => {
  const s = lstatSync(path, { throwIfNoEntry: false });
  if (s === undefined) return;
  if (!s.isSocket())
    throw new NyxError('FILE_KIND', { expected: 'a path for a new socket', got: `${path} is another file` });
  try {
    close(connectUnix(path));
  } catch (e) {
    if ((e as { code?: string }).code === 'ECONNREFUSED') {
      unlinkSync(path);
      return;
    }
  }
  throw new NyxError('FILE_IN_USE', {
    expected: 'a socket that no other program listens on',
    got: path,
    hint: 'Choose another path, or end the program that serves there.',
  });
};

export class StorageServer {
  readonly #o: StorageServerOptions;
  readonly #events: StorageServerEvents;
  readonly #fds: number[] = [];
  readonly #role: { disk: Record<string, unknown> } & Record<string, unknown>;
  readonly #files: readonly DiskFile[];
  #journal: number | undefined;
  #control: ServerControl | undefined;
  /** One change after the other; nobody serves meanwhile. */
  #turn: Promise<unknown> = Promise.resolve();
  #changing = false;
  /** When processes died, ms; those of the last minute. */
  #deaths: number[] = [];
  #child: Child | undefined;
  #timer: NodeJS.Timeout | undefined;
  #wait: NodeJS.Timeout | undefined;
  #served = false;
  /** Resolves when the process has ended. */
  #over: (() => void) | undefined;
  #closed = false;

  /** Opens and locks the image, listens, starts the process. @throws NyxError FILE_*, DISK_INVALID, HOST_ERROR */
  constructor(o: StorageServerOptions, events: StorageServerEvents) {
    this.#o = o;
    this.#events = events;
    const names: Record<string, number> = {};
    const adopt = (name: string, fd: number): void => {
      names[
        name
          .replace(/^disk\.journal$/, 'journal')
          .replace(/^disk\.(\d+)$/, 'layer$1')
          .replace(/^disk$/, 'file')
      ] = this.#fds.push(fd) - 1;
    };
    const files = openDisk(openFile, 'disk', {
      path: o.path,
      readonly: o.readonly,
      format: o.format,
      forceShare: o.forceShare,
    });
    this.#files = files;
    adoptDisk({ adopt }, 'disk', files);
    this.#journal = names.journal === undefined ? undefined : this.#fds[names.journal];
    freePath(o.socket);
    try {
      adopt('listen', listenUnix(o.socket));
    } catch (e) {
      throw new NyxError('FILE_DENIED', {
        expected: 'a directory where a socket can be made',
        got: `${o.socket} (${(e as { code?: string }).code})`,
      });
    }
    const [top] = files;
    this.#role = {
      type: 'serve',
      disk: {
        readOnly: o.readonly,
        ...(top!.format === 'raw'
          ? { size: top!.bytes }
          : { layers: files.map((f) => ({ format: f.format, size: f.bytes })) }),
      },
      queues: o.queues,
      serial: o.serial,
      blockBytes: o.blockBytes,
      ...(o.lifetime ? { lifetime: wearOf(o.path) } : {}),
      spinNs: o.spinNs,
      fds: names,
    };
    this.#control = new ServerControl(o.socket, (size, relative) => this.resize(size, relative));
    this.#start();
  }

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  #start(): void {
    const bundle = built('services/storage/dist/serve.cjs');
    const child = new Child(
      process.execPath,
      ['--max-semi-space-size=2', '--v8-pool-size=1', '--no-warnings', bundle],
      {
        log: 2,
        jail: { read: [...bundleFiles(bundle), addonPath()], leaves: true, dataLimit: deviceDataLimit },
        onMessage: (bytes) => this.#message(child, bytes),
        onDeath: (reason) => this.#died(child, reason),
      },
    );
    this.#child = child;
    this.#wait = setTimeout(() => child.kill(), rules.startTimeout);
  }

  #message(child: Child, bytes: Uint8Array): void {
    let m: Reply;
    try {
      m = JSON.parse(Buffer.from(bytes).toString()) as Reply;
    } catch {
      child.kill();
      return;
    }
    switch (m.type) {
      case 'ready':
        child.send(Buffer.from(JSON.stringify(this.#role)), this.#fds);
        break;
      case 'serving':
        clearTimeout(this.#wait);
        this.#served = true;
        this.#events.serving(child.pid, Number(m.bytes), [...(child.jail?.missing ?? []), ...m.missing]);
        break;
      case 'failed':
        this.#fail(new NyxError('DEVICE_FAILED', { got: `${this.#o.path}: ${m.code}: ${m.message}` }));
        break;
      case 'log':
        this.#events.log(String(m.level), String(m.message));
        break;
      case 'connected':
        this.#events.log('info', 'a front-end is connected');
    }
  }

  #died(child: Child, reason: string): void {
    if (child !== this.#child) return;
    clearTimeout(this.#wait);
    this.#over?.();
    if (this.#closed || this.#changing) return;
    if (!this.#served) {
      this.#fail(new NyxError('DEVICE_FAILED', { got: `the process ${reason} before it served` }));
      return;
    }
    const now = Date.now();
    this.#deaths = [...this.#deaths.filter((at) => now - at < rules.window), now];
    const late = this.#deaths.filter((at) => now - at < 10_000).length - 4;
    const wait = late < 0 ? 0 : Math.min(rules.backoff * 2 ** late, rules.maxBackoff);
    if (this.#deaths.length > rules.budget) {
      this.#fail(new NyxError('DEVICE_CRASH_LOOP', { got: `the process ${reason} again and again` }));
      return;
    }
    this.#events.log('warn', `the process (${child.pid}) ${reason}; another one takes its place`);
    this.#timer = setTimeout(() => this.#start(), wait);
  }

  /**
   * Makes the disk larger. The process ends what is under way and ends; its successor tells the front-end, when that has
   * connected again, that its disk changed. @param size bytes, or with `relative` how many more
   * @returns bytes @throws NyxError: the disk is as it was
   */
  resize(size: number, relative: boolean): Promise<number> {
    const done = this.#turn.then(() => this.#resize(size, relative));
    this.#turn = done.catch(() => {});
    return done;
  }

  async #resize(size: number, relative: boolean): Promise<number> {
    const expected = 'a disk that is served and written';
    if (this.#o.readonly) throw new NyxError('VM_STATE', { expected, got: 'it is read-only' });
    const child = this.#child;
    if (this.#closed || !this.#served || !child)
      throw new NyxError('VM_STATE', { expected, got: 'not served now' });
    this.#changing = true;
    try {
      clearTimeout(this.#timer);
      await this.#end(child);
      const [top] = this.#files as [DiskFile, ...DiskFile[]];
      const under = this.#files.slice(1).map((f, i) => ({ fd: at(1 + i), format: f.format }));
      const journal = this.#journal === undefined ? {} : { journalFd: at(this.#files.length) };
      const fds = [...this.#files.map((f) => f.fd), ...(this.#journal === undefined ? [] : [this.#journal])];
      const image = { path: this.#o.path, fd: at(0), format: top.format };
      const r = await runTool<{ size: number }>(
        { command: 'resize', ...image, under, ...journal, size, relative },
        fds,
      );
      if (top.format === 'raw') this.#role.disk.size = r.size;
      this.#role.resized = true;
      return r.size;
    } finally {
      this.#changing = false;
      if (!this.#closed) this.#start();
    }
  }

  /** The process ends what is under way, and itself. */
  async #end(child: Child): Promise<void> {
    if (!child.alive) return;
    const over = new Promise<void>((resolve) => {
      this.#over = resolve;
    });
    const late = setTimeout(() => child.kill(), rules.endTimeout);
    if (this.#served) child.send(Buffer.from('{"type":"end"}'));
    else child.kill();
    await over;
    clearTimeout(late);
  }

  #fail(e: NyxError): void {
    void this.close().then(() => this.#events.failed(e));
  }

  /** Ends what is under way; the image is as its format wants it. The front-end sees the connection end. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#wait);
    this.#control?.close();
    if (this.#child) await this.#end(this.#child);
    await this.#turn;
    for (const fd of this.#fds.splice(0)) close(fd);
    try {
      unlinkSync(this.#o.socket);
    } catch {
      // Somebody removed it.
    }
  }
}
