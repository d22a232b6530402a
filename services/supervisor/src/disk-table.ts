/**
 * The disks of a machine: what each has under it, and where that is written down - the roles of processes, the keeper, the
 * specification. What is done with them is in disks.ts and disk-checkpoint.ts.
 */
import { close } from '@nyx/native';
import type { Result, VmEvent } from '@nyx/protocol/control';
import { isDiskFormat } from '@nyx/protocol/disk-formats';
import { NyxError } from '@nyx/protocol/errors';
import type { VmSpec } from '@nyx/protocol/spec';
import type { DeviceProcess } from './device-process.ts';
import type { DiskFile } from './disk-files.ts';
import { rewire } from './disk-role.ts';
import { at, runTool } from './disk-tool.ts';
import { type Keeping, noKeeper } from './keeper.ts';
import { type DiskSet, type InheritedDisk, keepDisk } from './kept-disks.ts';
import { sataPort } from './sata.ts';

/** The machine, as far as disks need it. */
export interface DiskOwner {
  processes(): readonly DeviceProcess[];
  /** Another build of a process's program. @throws NyxError FILE_MISSING, UPGRADE_REFUSED: the old one serves */
  upgrade(process: string, service: string): Promise<{ ns: number }>;
  /** Guest time stands still; nothing to do when it does already. */
  pause(): void;
  emit(e: VmEvent): void;
  /** The specification changed: whoever asks what a machine uses reads it. */
  changed(): void;
}

/** A disk of a machine. */
export interface Disk {
  name: string;
  index: number;
  /** Of the AHCI controller; undefined: it has a controller, and a process, of its own. */
  port: number | undefined;
  /** As in the specification, whose path and format follow what is done. */
  spec: VmSpec['disks'][number];
  files: DiskFile[];
  journal: number | undefined;
  /** Of the image that was the topmost before: a successor looks into it. */
  retired?: number | undefined;
  /** What the role says already, and `files` will. */
  next?: DiskSet | undefined;
  /** A tool changes the image; half of that may be done. */
  mending?: boolean;
}

export class DiskTable {
  readonly all: readonly Disk[];

  constructor(
    spec: Pick<VmSpec, 'disks' | 'cdroms'>,
    files: readonly DiskFile[][],
    journals: (name: string) => number | undefined,
    readonly owner: DiskOwner,
    private readonly keeper: Keeping = noKeeper,
    inherited?: readonly InheritedDisk[],
  ) {
    this.all = spec.disks.map((s, index) => {
      const name = `disk${index}`;
      const port = s.bus === 'ahci' ? sataPort(spec, { disk: index }) : undefined;
      const journal = journals(`${name}.journal`);
      const { retired, mending = false } = inherited?.[index] ?? {};
      return { name, index, port, spec: s, files: files[index]!, journal, retired, mending };
    });
    for (const d of this.all) this.keep(d);
  }

  /** Tells the keeper what is so now. */
  keep(d: Disk): void {
    const { value, fds } = keepDisk({ now: d, next: d.next, retired: d.retired, mending: d.mending });
    this.keeper.put(`disk/${d.index}`, value, fds);
  }

  /** Makes whole what another supervisor's tool may have left half done; nobody serves the disk yet. */
  async mend(): Promise<void> {
    for (const d of this.all.filter((x) => x.mending)) {
      const [top] = d.files;
      const image = { path: top!.path, fd: at(0), ...(d.journal === undefined ? {} : { journalFd: at(1) }) };
      const fds = [top!.fd, ...(d.journal === undefined ? [] : [d.journal])];
      await runTool({ command: 'check', ...image, repair: 'all' }, fds).catch(() => {});
      d.mending = false;
      this.keep(d);
    }
  }

  /** Roles that were left by another supervisor name copies of the descriptors that are ours here: one of each is enough. */
  unify(): void {
    for (const d of this.all) {
      const [process, of] = d.port === undefined ? [d.name, ''] : ['ahci', `p${d.port}.`];
      const p = this.owner.processes().find((x) => x.name === process);
      const fds = p?.plan.role.devices[0]?.fds ?? {};
      const ours = new Map(d.files.map((f, i) => [`${of}${i === 0 ? 'file' : `layer${i}`}`, f.fd]));
      if (d.journal !== undefined) ours.set(`${of}journal`, d.journal);
      for (const [as, fd] of ours) {
        const slot = fds[as];
        if (!p || slot === undefined || p.plan.fds[slot] === fd) continue;
        close(p.plan.fds[slot]!);
        p.plan.fds[slot] = fd;
      }
      p?.keep();
    }
  }

  list(): Result<'diskList'> {
    return {
      disks: this.all.map((d) => ({
        name: d.name,
        path: d.spec.path,
        format: d.files[0]!.format,
        readonly: d.spec.readonly,
        chain: d.files.flatMap((f) => (f.path === undefined ? [] : [f.path])),
      })),
    };
  }

  /** @throws NyxError DEVICE_UNKNOWN */
  find(name: string): Disk {
    const d = this.all.find((x) => x.name === name);
    if (!d)
      throw new NyxError('DEVICE_UNKNOWN', {
        expected: this.all.map((x) => x.name).join(', ') || 'a machine with disks',
        got: `'${name}'`,
      });
    return d;
  }

  /** Who serves it. @throws NyxError VM_STATE */
  process(d: Disk): DeviceProcess {
    const name = d.port === undefined ? d.name : 'ahci';
    const p = this.owner.processes().find((x) => x.name === name);
    if (!p || d.spec.standby !== undefined)
      throw new NyxError('VM_STATE', {
        expected: `${d.name} without a standby`,
        got: p ? 'it has one' : 'no process',
      });
    return p;
  }

  /** What may be changed: not what a guest only reads. */
  writable(d: Disk): void {
    if (d.spec.readonly)
      throw new NyxError('VM_STATE', { expected: 'a disk that is written', got: `${d.name} is read-only` });
  }

  /** The role of the process says these files from now on. */
  rewire(d: Disk, files: DiskFile[], journal: number | undefined, old?: number): void {
    rewire(this.process(d).plan, d.name, d.port, files, journal, old);
    d.next = { files, journal };
    this.keep(d);
  }

  /** Takes over what is under the disk now. */
  now(d: Disk, files: DiskFile[], journal: number | undefined): void {
    d.files = files;
    d.journal = journal;
    const [top] = files;
    if (top?.path !== undefined) d.spec.path = top.path;
    if (isDiskFormat(top?.format)) d.spec.format = top.format;
    if (top?.direct === undefined) delete d.spec.direct;
    d.next = undefined;
    this.keep(d);
    this.owner.changed();
  }

  /**
   * Other files are under the disk from now on; its process is dead. With a new journal, the present one is that of `files[1]`;
   * with the present one, what lies below has no journal any more.
   */
  over(d: Disk, files: DiskFile[], journal: number | undefined): void {
    const old = journal === d.journal ? undefined : d.journal;
    this.rewire(d, files, journal, old);
    if (d.retired !== undefined) close(d.retired);
    d.retired = old;
    this.now(d, files, journal);
  }
}
