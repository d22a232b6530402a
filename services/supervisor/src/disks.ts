/**
 * The disks of a machine that runs: what their processes tell, and what is changed under them. Every change is a change of a
 * role: the process is ended at whatever it does (as any crash ends it), and its successor begins with the files that it has
 * then. Requests that were under way are done again by the successor, so none is lost, and none is done twice as far as the
 * guest can see. What takes long is done while the guest runs, on files that nobody writes:
 *
 *     mirror   overlay on the disk | copy all that is under it       | pause: copy what the overlay has, go on with the copy
 *     commit   overlay on the disk | copy the top into what is below | pause: copy what the overlay has, go on without the top
 */
import { unlinkSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { close } from '@nyx/native';
import type { Result } from '@nyx/protocol/control';
import { type DiskFormat, isDiskFormat } from '@nyx/protocol/disk-formats';
import { NyxError } from '@nyx/protocol/errors';
import { lockImage, unlockImage } from '@nyx/protocol/image-lock';
import { DiskCheckpoints } from './disk-checkpoint.ts';
import { DiskEvents } from './disk-events.ts';
import { type DiskFile, newJournal, openDisk } from './disk-files.ts';
import { mustBeNew, newName, openBytes, overlaySuffix, release, unlock } from './disk-role.ts';
import type { Disk, DiskOwner, DiskTable } from './disk-table.ts';
import { at, runTool } from './disk-tool.ts';
import { openFile } from './preflight.ts';

/** A delta of so many bytes is copied while the guest waits; a larger one gets another round. */
const SMALL = 32 * 2 ** 20;
const ROUNDS = 4;
/** Longest that the end of a machine waits for its images, ms. */
const END_MS = 5000;

export interface SwapOptions {
  path?: string | undefined;
  format?: DiskFormat | undefined;
  service?: string | undefined;
}
export interface SnapshotOptions {
  path?: string | undefined;
  create?: string | undefined;
  remove?: string | undefined;
}

export type Job = 'snapshot' | 'commit' | 'mirror' | 'resize' | 'swap';

export class Disks {
  readonly events: DiskEvents;
  readonly checkpoints: DiskCheckpoints;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(
    readonly table: DiskTable,
    private readonly owner: DiskOwner,
  ) {
    this.events = new DiskEvents(owner, (device) => table.all.find((d) => d.name === device)?.spec.path);
    this.checkpoints = new DiskCheckpoints(this, table);
  }

  /** Goes on with disks that another supervisor has looked after; their processes are ours now. */
  inherit(): void {
    this.table.unify();
    this.events.inherit([...this.table.all.map((d) => d.name), 'ahci']);
    for (const d of this.table.all) void this.inTurn(() => this.#withoutCheckpoint(d)).catch(() => {});
  }

  /** The checkpoint was in the memory of the supervisor that is dead; its overlays go into the image. */
  async #withoutCheckpoint(d: Disk): Promise<void> {
    for (let [top] = d.files; top?.path?.includes(overlaySuffix); [top] = d.files) {
      await this.commitTop(d);
      unlinkSync(top.path);
    }
  }

  /** The disk, to change it: one that no checkpoint holds. @throws NyxError */
  #find(name: string): Disk {
    if (this.checkpoints.active)
      throw new NyxError('VM_STATE', {
        expected: 'a machine without a checkpoint, which holds its disks (nyx checkpoint rm)',
        got: 'it has one',
      });
    return this.table.find(name);
  }

  /** One change after the other. Checkpoints keep the turn while they work. */
  inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(work, work);
    this.#turn = done.catch(() => {});
    return done;
  }

  #progress(d: Disk, job: Job, from = 0, share = 1): (fraction: number) => void {
    let last = -1;
    return (fraction) => {
      const whole = Math.floor((from + share * fraction) * 100);
      if (whole === last) return;
      last = whole;
      this.owner.emit({ type: 'job', at: Date.now(), device: d.name, job, fraction: whole / 100 });
    };
  }

  /** Another program, or other files with the same content. @throws NyxError */
  swap(name: string, o: SwapOptions): Promise<Result<'diskSwap'>> {
    return this.inTurn(async () => {
      const d = this.#find(name);
      const p = this.table.process(d);
      const old = d.files;
      let files = old;
      if (o.path !== undefined) {
        const { format, direct, ...spec } = d.spec;
        const wanted = {
          ...spec,
          path: o.path,
          ...(o.format ? { format: o.format } : format ? { format } : {}),
          direct: direct === true && (o.format ?? format ?? 'raw') === 'raw',
        };
        files = openDisk(openFile, name, wanted);
        const [is, want] = [await this.size(files), await this.size(old)];
        if (is !== want) {
          release(files);
          throw new NyxError('DISK_INVALID', {
            expected: `a disk of ${want} bytes`,
            got: `${o.path}: ${is} bytes`,
          });
        }
      }
      const { journal } = d;
      const fresh = files === old ? journal : newJournal(name);
      // It shows that it can serve before the present one ends.
      let other = 0;
      if (o.service !== undefined)
        try {
          other = (await this.owner.upgrade(p.name, o.service)).ns;
        } catch (e) {
          if (files !== old) release(files);
          throw e;
        }
      if (o.service !== undefined && files === old) return { name, downNs: other };
      const r = await p.replace('swap', async () => {
        if (files === old) return;
        // Whoever opens the old image next finds all of it there.
        await this.#settle(d);
        if (o.format !== undefined) d.spec.format = o.format;
        this.table.rewire(d, files, fresh);
      });
      if (files !== old) {
        this.table.now(d, files, fresh);
        release(old);
        if (journal !== undefined) close(journal);
      }
      return { name, downNs: other + r.ns };
    });
  }

  /**
   * The machine has ended: what was acknowledged goes into the images, so that they are whole for whoever opens them next; an image
   * that cannot be written keeps what it has. @throws NyxError CHECKPOINT_LEFT: an overlay of a checkpoint was not merged
   */
  async end(): Promise<void> {
    if (this.table.all.length === 0) return;
    const images = this.table.all.filter((d) => d.journal !== undefined && !d.spec.readonly);
    const limit = Date.now() + END_MS;
    // Whoever was told to die writes until it is dead.
    while (this.owner.processes().some((p) => p.pid !== 0) && Date.now() < limit) await sleep(5);
    const late = sleep(Math.max(0, limit - Date.now()), undefined, { ref: false });
    await Promise.race([late, Promise.all(images.map((d) => this.#settle(d).catch(() => {})))]);
    await this.checkpoints.end();
    // The kernel keeps the files of a process that was killed for a while, and locks with them.
    for (const f of this.table.all.flatMap((d) => d.files)) unlock(f);
  }

  async #settle(d: Disk): Promise<void> {
    if (d.journal === undefined || d.spec.readonly) return;
    const [top] = d.files;
    await runTool({ command: 'settled', path: top!.path, fd: at(0), journalFd: at(1) }, [top!.fd, d.journal]);
  }

  async size(files: readonly DiskFile[]): Promise<number> {
    const [top] = files;
    if (!isDiskFormat(top!.format) || top!.format === 'raw') return top!.bytes;
    const i = await runTool<Record<string, number>>({ command: 'info', path: top!.path, fd: at(0) }, [
      top!.fd,
    ]);
    return i['virtual-size']!;
  }

  /**
   * Puts a new image over the disk; what was the disk is only read from now on.
   * @returns the new files and journal, which are in force. @throws NyxError; the disk is as before
   */
  async #overlay(d: Disk, path: string, reason: Job): Promise<{ ns: number }> {
    const p = this.table.process(d);
    const [top] = d.files;
    if (top?.path === undefined)
      throw new NyxError('VM_STATE', {
        expected: 'a disk that is a file',
        got: `${d.name} is ${d.spec.path}`,
      });
    const size = await this.size(d.files);
    await runTool({
      command: 'create',
      path,
      format: 'qcow2',
      size,
      backing: top.path,
      backingFormat: top.format,
      unchecked: true,
    });
    let file: DiskFile;
    try {
      const opened = openFile(path, `overlay of ${d.name}`, true);
      lockImage(opened.fd, path, { write: true });
      file = { ...opened, format: 'qcow2', path };
    } catch (e) {
      unlinkSync(path);
      throw e;
    }
    const old = d.journal;
    const journal = newJournal(d.name);
    const files = [file, ...d.files];
    const r = await p.replace(reason, async () => {
      unlockImage(top.fd);
      lockImage(top.fd, top.path!, { write: false });
      d.spec.format = 'qcow2';
      // What the old journal has, the successor writes out before it reads.
      this.table.rewire(d, files, journal, old);
    });
    this.table.now(d, files, journal);
    // Who serves now has written out what the one before left behind: only the newest may still be needed.
    if (d.retired !== undefined) close(d.retired);
    d.retired = old;
    this.table.keep(d);
    return r;
  }

  /** An image over the disk (`path`), or a snapshot inside of it. @throws NyxError */
  snapshot(name: string, o: SnapshotOptions): Promise<Result<'diskSwap'>> {
    return this.inTurn(async () => {
      const d = this.#find(name);
      const p = this.table.process(d);
      this.table.writable(d);
      if (o.path !== undefined) mustBeNew(o.path);
      if (o.path !== undefined) return { name, downNs: (await this.#overlay(d, o.path, 'snapshot')).ns };
      const [top] = d.files;
      if (top!.format !== 'qcow2')
        throw new NyxError('VM_STATE', { expected: 'a qcow2 image', got: `${name} is ${top!.format}` });
      const [action, snapshot] = o.create === undefined ? ['delete', o.remove] : ['create', o.create];
      const image = { path: top!.path, fd: at(0) };
      const fds = [top!.fd, d.journal!];
      d.mending = true;
      this.table.keep(d);
      const r = await p.replace('snapshot', async () => {
        try {
          await runTool({ command: 'snapshot', ...image, journalFd: at(1), action, name: snapshot }, fds);
        } catch (e) {
          // Half of it may be done: counts that are too high, flags that are wrong.
          await runTool({ command: 'check', ...image, journalFd: at(1), repair: 'all' }, fds).catch(() => {});
          throw e;
        } finally {
          d.mending = false;
          this.table.keep(d);
        }
      });
      return { name, downNs: r.ns };
    });
  }

  /** Makes the disk larger; the guest is told. @throws NyxError */
  resize(name: string, o: { size: number; relative: boolean }): Promise<Result<'diskResize'>> {
    return this.inTurn(async () => {
      const d = this.#find(name);
      const p = this.table.process(d);
      this.table.writable(d);
      // ATA has no word for it: a drive says how large it is when it is asked who it is, and drivers ask once.
      if (d.port !== undefined)
        throw new NyxError('VM_STATE', {
          expected: 'a disk at a virtio controller, whose driver can be told of its size',
          got: `${name} at AHCI`,
          hint: 'End the machine, then: nyx disk resize FILE SIZE.',
        });
      const [top] = d.files;
      let size = 0;
      const r = await p.replace('resize', async () => {
        const image = { path: top!.path ?? d.spec.path, fd: at(0), format: top!.format };
        const below = d.files.slice(1);
        const under = below.map((f, i) => ({ fd: at(1 + i), format: f.format }));
        const journal = d.journal === undefined ? {} : { journalFd: at(d.files.length) };
        const fds = [...d.files.map((f) => f.fd), ...(d.journal === undefined ? [] : [d.journal])];
        const request = { command: 'resize', ...image, under, ...journal, ...o };
        ({ size } = await runTool<{ size: number }>(request, fds));
        if (top!.format === 'raw') top!.bytes = size;
        this.table.rewire(d, d.files, d.journal);
      });
      return { name, downNs: r.ns, size };
    });
  }

  /** Copies the top image into the one below it and goes on without it. @throws NyxError */
  commit(name: string): Promise<Result<'diskSwap'>> {
    return this.inTurn(() => this.commitTop(this.#find(name)));
  }

  /** The same, of a disk that the caller has the turn for. */
  async commitTop(d: Disk): Promise<Result<'diskSwap'>> {
    const { name } = d;
    this.table.writable(d);
    const [top, below] = d.files;
    if (top?.format !== 'qcow2' || below?.path === undefined || below.format === 'vhdx')
      throw new NyxError('VM_STATE', {
        expected: 'a qcow2 image over a raw or qcow2 file',
        got: d.files.map((f) => f.format).join(' over '),
      });
    // To write it: another machine that reads it is in the way.
    unlockImage(below.fd);
    let target: DiskFile;
    try {
      const opened = openFile(below.path, `backing file of ${name}`, true);
      lockImage(opened.fd, below.path, { write: true });
      target = { ...opened, format: below.format, path: below.path };
    } catch (e) {
      lockImage(below.fd, below.path, { write: false });
      throw e;
    }
    try {
      return await this.#pivot(d, 'commit', [target, ...d.files.slice(2)], 1, false);
    } catch (e) {
      // It is only read again.
      if (d.files.includes(below))
        try {
          lockImage(below.fd, below.path, { write: false });
        } catch {}
      throw e;
    }
  }

  /** Copies the disk into a new file and goes on with that. @throws NyxError */
  mirror(name: string, o: { path: string; format: DiskFormat }): Promise<Result<'diskSwap'>> {
    return this.inTurn(async () => {
      const d = this.#find(name);
      this.table.writable(d);
      this.table.process(d);
      mustBeNew(o.path);
      const size = await this.size(d.files);
      await runTool({ command: 'create', path: o.path, format: o.format, size });
      const opened = openFile(o.path, `mirror of ${name}`, true);
      lockImage(opened.fd, o.path, { write: true });
      return await this.#pivot(
        d,
        'mirror',
        [{ ...opened, format: o.format, path: o.path }],
        d.files.length,
        true,
      );
    });
  }

  /**
   * Copies what the topmost `layers` files have into `to[0]` while the guest goes on over an overlay, then what the overlay
   * has, and goes on with `to`. @throws NyxError: the disk goes on as it is then, with its overlay
   */
  async #pivot(
    d: Disk,
    job: Job,
    to: DiskFile[],
    layers: number,
    fresh: boolean,
  ): Promise<Result<'diskSwap'>> {
    const p = this.table.process(d);
    const [target] = to as [DiskFile, ...DiskFile[]];
    const before = d.files;
    const deltas: DiskFile[] = [];
    const copy = (
      files: readonly DiskFile[],
      n: number,
      isFresh: boolean,
      progress?: (fraction: number) => void,
    ): Promise<{ copied: number }> => {
      const layer = (f: DiskFile, i: number) => ({ fd: at(i), format: f.format });
      const request = {
        command: 'copy',
        layers: files.map(layer),
        count: n,
        target: [{ fd: at(files.length), format: target.format }, ...this.#under(to, files)],
        fresh: isFresh,
      };
      return runTool(request, [...files.map((f) => f.fd), target.fd], progress);
    };
    let down = 0;
    try {
      const overlay = async (): Promise<void> => {
        const path = newName(`${before[0]!.path ?? target.path}.${job}`);
        down += (await this.#overlay(d, path, job)).ns;
        deltas.push(d.files[0]!);
      };
      await overlay();
      let { copied } = await copy(d.files.slice(1), layers, fresh, this.#progress(d, job, 0, 0.9));
      for (let round = 1; round < ROUNDS && copied > SMALL; round++) {
        await overlay();
        ({ copied } = await copy(d.files.slice(1), 1, false, this.#progress(d, job, 0.9, 0.05)));
      }
      const journal = target.format === 'raw' ? undefined : newJournal(d.name);
      const r = await p.replace(job, async () => {
        await this.#settle(d);
        await copy(d.files, 1, false);
        if (isDiskFormat(target.format)) d.spec.format = target.format;
        target.bytes = openBytes(target);
        this.table.rewire(d, to, journal);
      });
      down += r.ns;
      const old = d.files;
      this.table.now(d, to, journal);
      release(old.filter((f) => !to.includes(f)));
      for (const f of deltas) unlinkSync(f.path!);
      this.#progress(d, job)(1);
      return { name: d.name, downNs: down };
    } catch (e) {
      if (!d.files.includes(target)) release([target]);
      throw e;
    }
  }

  /** Files under the target of a commit, as the tool sees them: they are among the source's. */
  #under(to: readonly DiskFile[], files: readonly DiskFile[]): { fd: number; format: string }[] {
    return to.slice(1).map((f) => ({ fd: at(files.indexOf(f)), format: f.format }));
  }
}
