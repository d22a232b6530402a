/**
 * The checkpoint of a machine, in memory, and the way back to it (docs/checkpoints.md).
 *
 *     take       vCPUs stand still, rings are empty -> device processes are stopped; those of disks are ended
 *                -> state of vCPUs, state blocks are copied; overlays go over the disks -> all go on
 *     then       whoever is the first to write to a page of guest RAM saves it (wire.PageStore); or all was copied before
 *     roll back  vCPUs stand still, what they wait for is given up -> all device processes are ended
 *                -> the copies are put back, overlays are emptied -> successors continue, as after any crash
 *
 * A device process that is stopped at an arbitrary instruction leaves memory as a crash would: its successor finishes what was
 * under way, exactly once. That is all that a checkpoint needs of devices.
 */
import { close, fileSize, memfdCreate, mmap, monotonicNs, munmap } from '@nyx/native';
import { machineState } from '@nyx/protocol';
import type { Result, VmEvent, VmState } from '@nyx/protocol/control';
import { asNyxError, NyxError } from '@nyx/protocol/errors';
import type { VmSpec } from '@nyx/protocol/spec';
import type { PageStoreWords } from '@nyx/ring';
import type { DeviceProcess } from './device-process.ts';
import type { Disks } from './disks.ts';
import type { ExecMark } from './exec.ts';
import type { FaultDesk } from './fault-desk.ts';
import type { GuestChannels } from './guest-channels.ts';
import type { Vcpu } from './vcpu.ts';

/** The machine, as far as checkpoints need it. */
export interface CheckpointOwner {
  readonly spec: VmSpec;
  readonly disks: Disks;
  readonly channels: GuestChannels;
  readonly desk: FaultDesk;
  readonly state: VmState;
  /** Of guest RAM. */
  readonly ramBytes: number;
  /** 'kvm', 'soft' */
  readonly accel: string;
  /** Of the page map. */
  readonly store: PageStoreWords;
  vcpu(): Vcpu | undefined;
  processes(): readonly DeviceProcess[];
  guestNs(): number;
  /** vCPUs stand still, or are about to; `running` again when it is over. @throws NyxError VM_STATE */
  goBack(): void;
  running(): void;
  /** Starts processes that will soon get a role. */
  prestart(service: string, count: number): void;
  emit(e: VmEvent): void;
  fail(e: NyxError): void;
}

/** Memory that devices and nyxd share, as it was. */
interface Kept {
  fd: number;
  bytes: Uint8Array;
}

interface Checkpoint {
  at: number;
  guestNs: number;
  kept: Kept[];
  /** By place and device: what its interrupts were counted from. */
  shifts: (number[] | undefined)[][];
  exec: ExecMark;
  told: ReadonlyMap<string, number>;
  /** The memory where it is: state, and the copy of RAM if there is one. */
  memory: readonly [state: number, ram?: number];
  /** Bytes of RAM that were copied, and how long that took. */
  bytes: number;
  copyNs: number;
}

export type Taken = Result<'checkpoint'>;

/** Bulk memory of devices that goes back: their other descriptors are files, events, or only read. */
const bulk = ['console'];

const refuse = (got: string): never => {
  throw new NyxError('CHECKPOINT_REFUSED', { expected: 'a machine whose devices can go back', got });
};

/** Somebody waits for a word that comes once. */
class Gate {
  open!: (go: boolean) => void;
  readonly opened = new Promise<boolean>((resolve) => {
    this.open = resolve;
  });
}

export class Checkpoints {
  #last: Checkpoint | undefined;
  /** memfds: state of the vCPUs, copy of RAM if it is copied. Made once: the next checkpoint overwrites them. */
  #state = -1;
  #ram = -1;
  #rollbacks = 0;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(private readonly owner: CheckpointOwner) {
    const { every } = owner.spec.checkpoint;
    if (every > 0) this.#timer = setInterval(() => this.#periodic(), every * 1000);
  }

  /** There is one to go back to. */
  get exists(): boolean {
    return this.#last !== undefined && !this.#isLost(this.#last);
  }

  #isLost(c: Checkpoint): boolean {
    return c.memory.length === 1 && this.owner.store.lost;
  }

  list(): Result<'checkpointList'> {
    const { rollbacks, last } = { rollbacks: this.#rollbacks, last: this.#last };
    if (!last) return { rollbacks, checkpoints: [] };
    const { at, guestNs, memory } = last;
    const bytes = memory.length === 1 ? this.owner.store.saved * 4096 : last.bytes;
    return { rollbacks, checkpoints: [{ at, guestNs, bytes, lost: this.#isLost(last) }] };
  }

  /** Takes one; it replaces the last. @throws NyxError CHECKPOINT_REFUSED, VM_STATE, DISK_INVALID: the guest goes on */
  take(): Promise<Taken> {
    return this.owner.disks.inTurn(() => this.#take());
  }

  /** @throws NyxError CHECKPOINT_NONE, VM_STATE; what fails later ends the machine */
  rollBack(): Promise<Result<'rollback'>> {
    return this.owner.disks.inTurn(() => this.#rollBack());
  }

  /** Lets it go: what the guest wrote since goes into the images. @throws NyxError CHECKPOINT_NONE */
  drop(): Promise<void> {
    return this.owner.disks.inTurn(async () => {
      if (!this.#last && !this.owner.disks.checkpoints.active) throw new NyxError('CHECKPOINT_NONE', {});
      this.#forget();
      await this.owner.disks.checkpoints.drop();
      this.owner.emit({ type: 'checkpoint', at: Date.now(), action: 'dropped', pauseNs: 0, bytes: 0 });
    });
  }

  /** The machine ends. */
  close(): void {
    this.#closed = true;
    clearInterval(this.#timer);
    this.#forget();
  }

  #forget(): void {
    this.#last = undefined;
    this.owner.vcpu()?.release();
    if (this.#state >= 0) close(this.#state);
    if (this.#ram >= 0) close(this.#ram);
    this.#state = this.#ram = -1;
  }

  /** One that is late is left out. */
  #periodic(): void {
    if (this.owner.state !== 'running' || this.#busy) return;
    this.take().catch((e) => {
      this.owner.emit({
        type: 'checkpoint',
        at: Date.now(),
        action: 'failed',
        pauseNs: 0,
        bytes: 0,
        error: asNyxError(e).toJSON(),
      });
    });
  }
  #busy = false;

  #require(): void {
    const { spec, disks } = this.owner;
    if (spec.deterministic) refuse('a deterministic machine: what comes from outside is no part of it');
    if (spec.tpm !== undefined) refuse('a TPM: its counters and its memory must never go back');
    if (spec.vhostUser.length > 0) refuse('a vhost-user back-end, whose state is its own');
    disks.checkpoints.require();
    for (const p of this.owner.processes())
      if (p.state !== 'serving' && p.state !== 'isolated')
        throw new NyxError('VM_STATE', { expected: `'${p.name}' to serve`, got: p.state });
  }

  async #take(): Promise<Taken> {
    const { owner } = this;
    const { disks } = owner;
    const before = owner.state;
    if (before !== 'running' && before !== 'paused')
      throw new NyxError('VM_STATE', { expected: 'running or paused', got: before });
    this.#require();
    this.#busy = true;
    // Whoever follows at a disk is there already when it is needed.
    const written = disks.checkpoints.places;
    for (const { plan } of written)
      owner.prestart(plan.service, [...written].filter((p) => p.plan.service === plan.service).length);
    const overlays = await disks.checkpoints.prepare().catch((e) => {
      this.#busy = false;
      throw e;
    });
    const vcpu = owner.vcpu()!;
    const frozen = new Map<DeviceProcess, number>();
    const gate = new Gate();
    const successors: Promise<unknown>[] = [];
    const start = monotonicNs();
    let whole = false;
    try {
      await vcpu.quieten(false);
      // The guest may be at its end: that is nothing to come back to.
      if (owner.desk.busy) refuse('a fault, about which something is being done');
      const empty = [...written].map((place) =>
        this.#vacate(place, 'checkpoint', successors, async () => {
          if (!(await gate.opened)) return;
          for (const o of overlays) if (disks.table.process(o.disk) === place) disks.checkpoints.enter(o);
        }),
      );
      for (const place of owner.processes()) {
        if (written.has(place)) continue;
        frozen.set(place, place.pid);
        await place.freeze();
      }
      await Promise.all(empty);
      const copy = await this.#copy(vcpu);
      // A successor of one that died meanwhile has written while we copied.
      for (const [place, pid] of frozen)
        if (place.pid !== pid)
          throw new NyxError('CHECKPOINT_REFUSED', {
            expected: 'device processes that live',
            got: `'${place.name}' died`,
          });
      this.#last = copy;
      whole = true;
    } finally {
      gate.open(whole);
      for (const place of frozen.keys()) place.thaw();
      if (!whole) disks.checkpoints.discard(overlays);
      if (!this.#last) vcpu.release();
      if (before === 'running' && owner.state === 'running') await vcpu.resume().catch(() => {});
      this.#busy = false;
    }
    const pauseNs = monotonicNs() - start;
    await Promise.all(successors);
    disks.checkpoints.merge();
    const { guestNs, bytes, at, copyNs } = this.#last!;
    owner.emit({ type: 'checkpoint', at, action: 'taken', pauseNs, bytes });
    return { guestNs, pauseNs, copyNs, bytes };
  }

  /** Resolves when nobody is in the place; `change` happens then, and a successor follows. */
  #vacate(
    place: DeviceProcess,
    reason: string,
    successors: Promise<unknown>[],
    change: () => Promise<void>,
  ): Promise<void> {
    return new Promise((resolve, reject) => {
      const served = place.replace(reason, () => {
        resolve();
        return change();
      });
      served.catch(reject);
      successors.push(served);
      served.catch(() => {});
    });
  }

  /** Everything stands still. */
  async #copy(vcpu: Vcpu): Promise<Checkpoint> {
    const { owner } = this;
    if (this.#state < 0) this.#state = memfdCreate('nyx-checkpoint', machineState.maxBytes);
    const { checkpoint } = owner.spec;
    // What a guest writes under KVM nobody sees.
    const copied = checkpoint.memory === 'copy' || owner.accel !== 'soft';
    if (copied && this.#ram < 0) this.#ram = memfdCreate('nyx-checkpoint-ram', owner.ramBytes);
    const memory = copied ? ([this.#state, this.#ram] as const) : ([this.#state] as const);
    const exec = owner.channels.mark();
    const kept = this.#memories().map((fd): Kept => {
      const memory = mmap(fd, fileSize(fd));
      const bytes = new Uint8Array(memory).slice();
      munmap(memory);
      return { fd, bytes };
    });
    const shifts = owner.processes().map((p) => p.plan.role.devices.map((d) => d.irqShift?.slice()));
    // From here on the last checkpoint is not whole.
    this.#last = undefined;
    const saved = await vcpu.saveState(memory, checkpoint.verify);
    const told = owner.desk.mark();
    return {
      at: Date.now(),
      guestNs: owner.guestNs(),
      kept,
      shifts,
      exec,
      told,
      memory,
      bytes: saved.b,
      copyNs: saved.c,
    };
  }

  /** State blocks, interrupt pages, consoles. */
  #memories(): number[] {
    const fds = this.owner
      .processes()
      .flatMap(({ plan }) => [
        plan.memory.irqPage.fd,
        ...plan.role.devices.flatMap((d) => [
          plan.fds[d.state]!,
          ...bulk.flatMap((name) => (d.fds[name] === undefined ? [] : [plan.fds[d.fds[name]]!])),
        ]),
      ]);
    return [...new Set(fds)];
  }

  async #rollBack(): Promise<Result<'rollback'>> {
    const { owner } = this;
    const last = this.#last;
    if (!last) throw new NyxError('CHECKPOINT_NONE', {});
    if (this.#isLost(last))
      throw new NyxError('CHECKPOINT_NONE', { got: 'one that is lost: a page of memory could not be saved' });
    owner.goBack();
    const start = monotonicNs();
    const gate = new Gate();
    const successors: Promise<unknown>[] = [];
    try {
      const vcpu = owner.vcpu()!;
      await vcpu.quieten(true);
      const places = owner.processes();
      await Promise.all(
        places.map((p) =>
          this.#vacate(p, 'rollback', successors, async () => {
            await gate.opened;
          }),
        ),
      );
      owner.channels.mark();
      const loaded = await vcpu.loadState(last.memory);
      for (const { fd, bytes } of last.kept) {
        const memory = mmap(fd, bytes.length);
        new Uint8Array(memory).set(bytes);
        munmap(memory);
      }
      places.forEach((p, i) => {
        p.plan.role.devices.forEach((d, k) => {
          const shift = last.shifts[i]![k];
          if (shift) d.irqShift = shift.slice();
          else delete d.irqShift;
        });
      });
      owner.disks.checkpoints.back();
      owner.desk.back(last.told);
      owner.channels.back(last.exec);
      this.#rollbacks++;
      gate.open(true);
      await vcpu.resume();
      owner.running();
      const ns = monotonicNs() - start;
      await Promise.all(successors);
      const lostNs = Math.max(0, (Date.now() - last.at) * 1e6);
      owner.emit({ type: 'checkpoint', at: Date.now(), action: 'rolledBack', pauseNs: ns, bytes: loaded.b });
      return { guestNs: last.guestNs, ns, lostNs, bytes: loaded.b };
    } catch (e) {
      gate.open(false);
      // There is no way forward either: part of it may be old, part of it new.
      if (!this.#closed) owner.fail(asNyxError(e));
      throw e;
    }
  }
}
