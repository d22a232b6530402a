/**
 * Disks that go back with the machine. A checkpoint puts an overlay over every disk that is written; what the guest writes from then on
 * is there, and a roll-back empties it. With the next checkpoint comes another overlay, and what the one below has is merged
 * into the image meanwhile:
 *
 *     taken          O1 | image
 *     rolled back    O1 (empty) | image
 *     taken again    O2 | O1 | image         O1 is copied into the image, which changes nothing that anybody sees
 *     and again      O3 | O2 | image
 *     dropped        image
 *
 * Overlays lie beside the image: they have its room and last as long. What changes a role happens while its process is dead.
 */
import { ftruncateSync, readSync, unlinkSync, writeSync } from 'node:fs';
import { fileSize, mmap, munmap } from '@nyx/native';
import { NyxError } from '@nyx/protocol/errors';
import { lockImage, unlockImage } from '@nyx/protocol/image-lock';
import type { DeviceProcess } from './device-process.ts';
import type { DiskFile } from './disk-files.ts';
import { newJournal } from './disk-files.ts';
import { newName, overlaySuffix, release } from './disk-role.ts';
import type { Disk, DiskTable } from './disk-table.ts';
import { at, runTool } from './disk-tool.ts';
import type { Disks } from './disks.ts';
import { openFile } from './preflight.ts';

/** Extension of a qcow2 header: the format of the backing file. */
const backingFormat = 0xe2792aca;

/** An overlay of a checkpoint. */
interface Overlay {
  disk: Disk;
  file: DiskFile;
  journal: number;
  /** The file as it was made. */
  empty: Buffer;
  /** The overlay of the checkpoint before, directly below; undefined: there is none, or it was let go. */
  below: { file: DiskFile; merged: Promise<void>; isMerged: boolean } | undefined;
}

/**
 * Changes the header of a qcow2 overlay: what is below is `image`, whose name is the beginning of the name that stands there.
 * @returns bytes from the beginning that may have changed; few enough to be written at once
 */
function standsOn(header: Buffer, image: DiskFile): number {
  header.writeUInt32BE(Buffer.byteLength(image.path!), 16);
  for (let at = header.readUInt32BE(100); ; ) {
    const [type, length] = [header.readUInt32BE(at), header.readUInt32BE(at + 4)];
    if (type === 0) return at;
    const end = at + 8 + Math.ceil(length / 8) * 8;
    if (type === backingFormat) {
      // 'raw' and 'qcow2' have the same room.
      header.fill(0, at + 8, end);
      header.writeUInt32BE(header.write(image.format, at + 8), at + 4);
      return end;
    }
    at = end;
  }
}

const refused = (name: string, got: string): NyxError =>
  new NyxError('CHECKPOINT_REFUSED', { expected: 'disks that can go back', got: `${name}: ${got}` });

export class DiskCheckpoints {
  #inForce: Overlay[] = [];

  constructor(
    private readonly disks: Disks,
    private readonly table: DiskTable,
  ) {}

  /** Whether overlays are over the disks. */
  get active(): boolean {
    return this.#inForce.length > 0;
  }

  /** Processes of the disks that are written. */
  get places(): ReadonlySet<DeviceProcess> {
    return new Set(this.#written().map((d) => this.table.process(d)));
  }

  /** A null disk has no content. */
  #written(): Disk[] {
    return this.table.all.filter((d) => !d.spec.readonly && d.files[0]!.format !== 'null');
  }

  /** @throws NyxError CHECKPOINT_REFUSED */
  require(): void {
    for (const d of this.#written()) {
      const [top] = d.files;
      if (d.spec.standby !== undefined) throw refused(d.name, 'it has a standby, which would not go back');
      if (top!.format === 'nbd') throw refused(d.name, 'an NBD server has it');
      if (top!.path === undefined) throw refused(d.name, `${d.spec.path} is no file`);
      const base = this.#inForce.find((o) => o.disk === d);
      if (!base && top!.format === 'vhdx')
        throw refused(d.name, 'an overlay cannot be merged into a VHDX image (nyx disk convert)');
    }
  }

  /** Makes the next overlays; nothing is changed. @throws NyxError DISK_INVALID, FILE_* */
  async prepare(): Promise<Overlay[]> {
    const made: Overlay[] = [];
    try {
      for (const disk of this.#written()) {
        const [top] = disk.files;
        const now = this.#inForce.find((o) => o.disk === disk);
        // Merged, or it will be before this one goes further: two overlays are never merged at once.
        await now?.below?.merged;
        const image = now ? disk.files.at(this.#imageIndex(now))! : top!;
        const path = newName(`${image.path}${overlaySuffix}`);
        await runTool({
          command: 'create',
          path,
          format: 'qcow2',
          size: await this.disks.size(disk.files),
          backing: top!.path,
          backingFormat: top!.format,
          unchecked: true,
        });
        const opened = openFile(path, `overlay of ${disk.name}`, true);
        lockImage(opened.fd, path, { write: true });
        const empty = Buffer.alloc(fileSize(opened.fd));
        readSync(opened.fd, empty, 0, empty.length, 0);
        const file: DiskFile = { ...opened, format: 'qcow2', path };
        made.push({ disk, file, journal: newJournal(disk.name), empty, below: undefined });
      }
      return made;
    } catch (e) {
      this.discard(made);
      throw e;
    }
  }

  /** They are not wanted after all. */
  discard(made: readonly Overlay[]): void {
    for (const o of made) {
      release([o.file]);
      unlinkSync(o.file.path!);
    }
  }

  /** Puts one in force; the process of the disk is dead. */
  enter(o: Overlay): void {
    const { disk } = o;
    const before = this.#inForce.find((x) => x.disk === disk);
    if (before) this.#letGo(before);
    const [top] = disk.files as [DiskFile, ...DiskFile[]];
    unlockImage(top.fd);
    lockImage(top.fd, top.path!, { write: false });
    disk.spec.format = 'qcow2';
    this.table.over(disk, [o.file, ...disk.files], o.journal);
    if (before) o.below = { file: before.file, merged: Promise.resolve(), isMerged: false };
    this.#inForce = [...this.#inForce.filter((x) => x.disk !== disk), o];
  }

  /** After `enter`, when the processes serve: copies what the overlays below have into their images. Takes its time. */
  merge(): void {
    for (const o of this.#inForce) {
      const { below } = o;
      if (!below || below.isMerged) continue;
      below.merged = this.#copyDown(o.disk, below.file, o.disk.files.slice(2)).then(() => {
        below.isMerged = true;
      });
      below.merged.catch(() => {});
    }
  }

  /** Empties what was written since the checkpoint; no process of a disk lives. */
  back(): void {
    for (const o of this.#inForce) {
      ftruncateSync(o.file.fd, 0);
      writeSync(o.file.fd, o.empty, 0, o.empty.length, 0);
      const journal = mmap(o.journal, fileSize(o.journal));
      new Uint8Array(journal).fill(0);
      munmap(journal);
      this.#letGo(o);
    }
  }

  /** Everything that was written goes into the images; the guest runs on. @throws NyxError; overlays that are left go on */
  async drop(): Promise<void> {
    for (const o of [...this.#inForce]) {
      const { disk, below } = o;
      await below?.merged;
      if (below) await this.table.process(disk).replace('checkpoint', async () => this.#letGo(o));
      await this.disks.commitTop(disk);
      this.#inForce = this.#inForce.filter((x) => x !== o);
      unlinkSync(o.file.path!);
    }
  }

  /** The machine has ended, journals are settled: as `drop`. @throws NyxError CHECKPOINT_LEFT */
  async end(): Promise<void> {
    const left: string[] = [];
    for (const o of [...this.#inForce]) {
      const { disk } = o;
      try {
        await o.below?.merged;
        this.#letGo(o);
        await this.#copyDown(disk, o.file, disk.files.slice(1));
        this.table.now(disk, disk.files.slice(1), undefined);
        release([o.file]);
        unlinkSync(o.file.path!);
      } catch (e) {
        left.push(`${o.file.path} (${(e as Error).message})`);
      }
    }
    this.#inForce = [];
    if (left.length > 0)
      throw new NyxError('CHECKPOINT_LEFT', {
        expected: 'overlays merged into their images',
        got: left.join(', '),
      });
  }

  /** Index in the files of a disk of the image under its overlays. */
  #imageIndex(o: Overlay): number {
    return o.below ? 2 : 1;
  }

  /** The overlay below is not needed any more, if it was merged. */
  #letGo(o: Overlay): void {
    const { below, disk } = o;
    if (!below?.isMerged) return;
    const image = disk.files[disk.files.indexOf(below.file) + 1]!;
    const header = Buffer.alloc(o.empty.length);
    readSync(o.file.fd, header, 0, header.length, 0);
    writeSync(o.file.fd, header, 0, standsOn(header, image), 0);
    standsOn(o.empty, image);
    this.table.over(
      disk,
      disk.files.filter((f) => f !== below.file),
      disk.journal,
    );
    release([below.file]);
    unlinkSync(below.file.path!);
    o.below = undefined;
  }

  /** What `overlay` has goes into `to[0]`, which lies under it. */
  async #copyDown(disk: Disk, overlay: DiskFile, to: readonly DiskFile[]): Promise<void> {
    const [image] = to as [DiskFile, ...DiskFile[]];
    unlockImage(image.fd);
    const opened = openFile(image.path!, `image of ${disk.name}`, true);
    try {
      lockImage(opened.fd, image.path!, { write: true });
      const source = [overlay, ...to];
      const layers = source.map((f, i) => ({ fd: at(i), format: f.format }));
      const target = [{ fd: at(source.length), format: image.format }, ...layers.slice(2)];
      const fds = [...source.map((f) => f.fd), opened.fd];
      await runTool({ command: 'copy', layers, count: 1, target, fresh: false }, fds);
    } finally {
      release([{ ...opened, format: image.format }]);
      lockImage(image.fd, image.path!, { write: false });
    }
  }
}
