/**
 * A machine: starts its processes, drives it through its states (lifecycle.ts), answers what happens to it. Policy is
 * here; mechanisms are in the files that it uses.
 */

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { monotonicNs } from '@nyx/native';
import { files as runFiles } from '@nyx/nyx/files';
import { writeJson } from '@nyx/nyx/rundir';
import type { Fingerprint, Result, Status, VmEvent } from '@nyx/protocol/control';
import { asNyxError, errorFromWire, NyxError } from '@nyx/protocol/errors';
import type { VmSpec } from '@nyx/protocol/spec';
import {
  type Heritage,
  inheritFiles,
  type KeptMachine,
  type KeptSpec,
  type KeptVcpu,
  keepFiles,
  loggedEvents,
} from './adoption.ts';
import { BootLoader } from './boot.ts';
import { CdDrives } from './cd.ts';
import { cgroups } from './cgroup.ts';
import { Checkpoints } from './checkpoint.ts';
import { busError, DeviceProcess } from './device-process.ts';
import { adoptDisk } from './disk-files.ts';
import { DiskTable } from './disk-table.ts';
import { Disks } from './disks.ts';
import { isObject } from './estate.ts';
import { FaultDesk, type Patient } from './fault-desk.ts';
import type { Fault } from './fault-log.ts';
import { FaultBook } from './faults.ts';
import { fingerprintOf } from './fingerprint.ts';
import { fwCfgBlob } from './fwcfg.ts';
import { GuestChannels } from './guest-channels.ts';
import { type Keeping, noKeeper } from './keeper.ts';
import { inheritCds, inheritDisks } from './kept-disks.ts';
import { type Inheritance, inheritance } from './kept-place.ts';
import { layouts } from './layouts.ts';
import { isFinal, Lifecycle } from './lifecycle.ts';
import { descriptionOf } from './machine-description.ts';
import { MachineWatch } from './machine-watch.ts';
import { type PlaceOwner, placeEvents, sourcesOf, treatPlace } from './place-events.ts';
import { planProcesses } from './plan.ts';
import { PolicyBook } from './policy-book.ts';
import { preflight } from './preflight.ts';
import { reportText, writeReport } from './report.ts';
import { Resources } from './resources.ts';
import { adoptCds } from './sata.ts';
import type { Spares } from './spares.ts';
import { StatusReader } from './status.ts';
import { TpmHost } from './tpm.ts';
import { Vcpu, type VcpuEvent, type VcpuHandlers } from './vcpu.ts';
import { onVcpuEvent, stopsVcpus, type VcpuOwner } from './vcpu-events.ts';
import type { Backends } from './vhost-user.ts';
import { type DeviceLine, wiring } from './wiring.ts';

export interface MachineOptions {
  name: string;
  dir: string;
  spec: VmSpec;
  /** Those that wait already get the first roles. */
  spares: Spares;
  /** Devices whose work other programs do. */
  backends?: Backends;
  /** Keeps what another nyxd needs to go on with the machine. */
  keeper?: Keeping;
  /** The machine runs already: what the nyxd before us has left. Then `adopt` comes instead of `start`. */
  heritage?: Heritage;
  vcpuProgram: string;
  vcpuLog: number;
  consoleLog: string;
  log(level: 'debug' | 'info' | 'warn' | 'error', message: string, detail?: object): void;
  onEvent(e: VmEvent): void;
  /** The set of processes changed. */
  onPids(pids: { role: string; pid: number }[]): void;
  /** Once, at the end. */
  onEnd(
    state: 'stopped' | 'failed',
    error: NyxError | undefined,
    fault: string | undefined,
    fingerprint: Fingerprint | undefined,
  ): void;
}

/** Events kept for whoever comes later. */
const historyLength = 512;

/** A deterministic machine always begins on 2025-01-01. */
const fixedWallClock = Date.UTC(2025, 0, 1) / 1000;

export class Machine {
  readonly faults: FaultBook;
  readonly cds: CdDrives;
  readonly disks: Disks;
  readonly #life: Lifecycle;
  readonly #resources: Resources;
  readonly #loader: BootLoader;
  readonly #spares: Spares;
  readonly #processes: DeviceProcess[];
  readonly #part: ReturnType<typeof planProcesses>['part'];
  readonly #status: StatusReader;
  readonly #channels: GuestChannels;
  readonly desk: FaultDesk;
  readonly checkpoints: Checkpoints;
  readonly #watch: MachineWatch;
  readonly #owner: PlaceOwner & VcpuOwner;
  readonly #milestones: Record<string, number> = {};
  #vcpu: Vcpu | undefined;
  #resets = 0;
  readonly #history: VmEvent[] = [];
  /** State blocks that were refused. */
  #corrupt = 0;
  /** The fault that ended the machine. */
  #endedBy: string | undefined;
  #error: NyxError | undefined;
  #fingerprint: Fingerprint | undefined;
  /** UTC seconds at guest time 0. */
  readonly #wallClock: number;
  readonly #keeper: Keeping;
  readonly #lines: readonly DeviceLine[];
  /** Unix milliseconds: somebody wants the machine to end by then. */
  #stopBy: number | undefined;
  /** Events of nyx-vcpu that are being dealt with. */
  #pending: VcpuEvent[] = [];
  /** What another nyxd has left of the places, until `adopt`. */
  readonly #left: Map<DeviceProcess, Inheritance | undefined>;
  #ended: (() => void)[] = [];

  /** @throws NyxError of preflight; ADOPTION_FAILED */
  constructor(readonly o: MachineOptions) {
    this.#mark('code');
    const { spec, keeper = noKeeper, heritage } = o;
    const estate = heritage?.estate;
    this.#keeper = keeper;
    this.#wallClock =
      heritage?.what.wallClock ?? (spec.deterministic ? fixedWallClock : Math.floor(Date.now() / 1000));
    const files = estate ? inheritFiles(estate) : preflight(spec);
    const oldDisks = estate && inheritDisks(estate, spec);
    const oldCds = estate && inheritCds(estate, spec);
    if (oldDisks) files.disks = oldDisks.map((d) => d.files);
    if (oldCds) files.cds = oldCds.map((c) => c.medium);
    if (!estate) keepFiles(keeper, files);
    this.#life = new Lifecycle((from, to) => this.#changed(from, to));
    const clock = { wallClock: this.#wallClock, virtual: spec.deterministic };
    this.#resources = new Resources(spec.cpus, spec.memory, clock, keeper, estate);
    const r = this.#resources;
    for (const [i, d] of files.disks.entries()) adoptDisk(r, `disk${i}`, d, oldDisks?.[i]?.journal);
    for (const [i, fd] of files.standbys) r.adopt(`disk${i}.standby`, fd);
    const diskOwner = {
      processes: () => this.#processes,
      upgrade: (process: string, service: string) => this.upgrade(process, service),
      pause: () => void this.pause().catch(() => {}),
      emit: (e: VmEvent) => this.#emit(e),
      changed: () => {
        this.#keepSpec();
        writeJson(join(o.dir, runFiles.spec), { ...spec, name: o.name });
      },
    };
    const journals = (name: string): number | undefined => r.named.get(name);
    const table = new DiskTable(spec, files.disks, journals, diskOwner, keeper, oldDisks);
    this.disks = new Disks(table, diskOwner);
    const controller = (): DeviceProcess | undefined =>
      this.#processes.find((p) => p.plan.devices.some((d) => d.kind === 'ahci'));
    this.cds = new CdDrives(spec, files.cds, adoptCds(r, files.cds), controller, keeper, oldCds);
    o.backends?.adopt(r, (level, message) => o.log(level, message));
    r.event('powerButton');
    const tpm = spec.tpm && new TpmHost(spec, files.tpm ?? {}, r);
    r.blob('fwcfg', fwCfgBlob(spec));
    this.#channels = new GuestChannels(
      r,
      o.dir,
      o.consoleLog,
      () => {
        this.#emit({ type: 'agent', at: Date.now() });
        this.#keep();
      },
      spec.command,
    );
    this.#loader = new BootLoader(spec, files, r, tpm);
    this.#status = new StatusReader(r.vmPage.buffer);
    this.#spares = o.spares;
    const lines = heritage?.what.lines ?? [
      ...wiring(spec, files.disks, files.cds),
      ...(o.backends?.lines ?? []),
    ];
    this.#lines = lines;
    if (!heritage) this.#keepSpec();
    const standbys = [...files.standbys.keys()].map((i) => `disk${i}`);
    const sources = [...new Set(lines.flatMap((l) => [l.name, l.process]))];
    this.desk = new FaultDesk(new PolicyBook(spec.policy, spec.recovery, sources, standbys), this.#patient());
    const { processes, part } = planProcesses(o.name, lines, r, o.dir, spec.faults?.transcript);
    this.#part = part;
    this.#owner = this.#asOwner();
    this.#processes = processes.map(
      (plan) => new DeviceProcess(plan, this.#spares, spec.recovery, placeEvents(plan, this.#owner), keeper),
    );
    this.#left = new Map(estate ? this.#processes.map((p) => [p, inheritance(p.plan, estate)] as const) : []);
    this.faults = new FaultBook(
      this.#processes.map((p) => ({
        name: p.name,
        devices: p.plan.devices,
        role: p.plan.role,
        page: p.plan.memory.faults.buffer,
        tell: (m) => p.tell(m),
      })),
      () => keeper.put('faults', this.faults.kept),
    );
    const rules = estate?.find<FaultBook['kept']>('faults', (v) => isObject(v) && Array.isArray(v.rules));
    if (rules) this.faults.inherit(rules.value);
    else if (spec.faults && !heritage) this.faults.add(spec.faults);
    this.checkpoints = this.#makeCheckpoints();
    this.#watch = new MachineWatch(spec, this.#status, this.#processes, {
      runs: () => this.#life.state === 'running',
      look: () => this.#vcpu?.look(),
      fault: (kind, raised) => this.desk.raise(kind, raised),
      process: (p, kind, data) => {
        const verdict = this.desk.raise(kind, { sources: sourcesOf(p.plan), data });
        treatPlace(p, verdict, kind);
      },
    });
  }

  get state(): Status['state'] {
    return this.#life.state;
  }

  /** What the machine is, for a nyxd after us. */
  #keepSpec(): void {
    const what: KeptSpec = {
      layouts,
      spec: this.o.spec,
      lines: [...this.#lines],
      wallClock: this.#wallClock,
    };
    this.#keeper.put('spec', what);
  }

  /** How it stands. */
  #keep(): void {
    const how: KeptMachine = {
      state: this.#life.state,
      since: this.#life.since,
      resets: this.#resets,
      corrupt: this.#corrupt,
      milestones: this.#milestones,
      agent: this.#channels.exec.ready,
      ...(this.#stopBy === undefined ? {} : { stopBy: this.#stopBy }),
      ...(this.#endedBy === undefined ? {} : { endedBy: this.#endedBy }),
      ...(this.#error ? { error: this.#error.toJSON() } : {}),
    };
    this.#keeper.put('machine', how);
  }

  /** The policy was changed by somebody. */
  keepPolicy(): void {
    this.#keeper.put('policy', this.desk.book.rules);
  }

  /**
   * Goes on with a machine that another nyxd has started; comes instead of `start`. Does not throw: a failure is the machine's
   * end, told by onEnd.
   */
  async adopt(log: string): Promise<void> {
    const { o } = this;
    const { how, vcpu: old, policy, events } = o.heritage!;
    try {
      this.#life.inherit(how.state, how.since);
      this.#resets = how.resets;
      this.#corrupt = how.corrupt;
      this.#endedBy = how.endedBy;
      this.#error = how.error && errorFromWire(how.error);
      Object.assign(this.#milestones, how.milestones);
      this.#channels.exec.ready = how.agent;
      if (policy) this.desk.book.inherit(policy);
      this.#recall(log);
      await this.disks.table.mend();
      // From here to the places at one go: what it tells finds them.
      const jailed = o.spares.host.jail !== false;
      const inherited = { pid: old.value.pid, jail: old.value.jail, socket: old.fds[0]!, pidfd: old.fds[1]! };
      const vcpu = new Vcpu(o.vcpuProgram, o.vcpuLog, this.#vcpuHandlers(), jailed, inherited);
      this.#vcpu = vcpu;
      if (how.state === 'stopping' || isFinal(how.state)) {
        // It was about to end: so it does.
        this.#life.inherit('stopping', how.since);
        for (const [p, left] of this.#left) if (left) void p.inherit(left);
        this.#end(this.#error ? 'failed' : 'stopped', this.#error);
        return;
      }
      const swaps = [...this.#left].map(([p, left]) => (left ? p.inherit(left) : p.start()));
      this.disks.inherit();
      this.#pids();
      const unknown = o.heritage!.estate.close();
      for (const key of unknown) this.#keeper.drop(key);
      o.log('info', 'adopted', { state: how.state, unknown, vcpuPid: vcpu.pid });
      // What nyx-vcpu had told is told again; what it has told nobody comes with the barrier.
      for (const e of events) this.#vcpuEvent(e);
      await vcpu.barrier();
      // The checkpoint, if there was one, was our predecessor's.
      vcpu.release();
      for (const p of this.#processes) if (p.state === 'serving') vcpu.replaced(p.plan.index);
      await Promise.all(swaps);
      await this.#goOn();
    } catch (e) {
      this.#fail(asNyxError(e));
    }
  }

  /** vCPUs do what the machine's state says, whatever our predecessor was about. */
  async #goOn(): Promise<void> {
    // They stand still because of something, which is being dealt with.
    if (this.#pending.length > 0) return;
    const { how } = this.o.heritage!;
    if (this.#life.state === 'resetting') {
      await this.#vcpu!.pause();
      await this.#restart();
    } else if (this.#life.state === 'paused') await this.#vcpu!.pause();
    else if (this.#life.state === 'running') {
      this.disks.events.retry();
      await this.#vcpu!.resume();
      if (how.stopBy !== undefined) void this.stop(Math.max(1, (how.stopBy - Date.now()) / 1000));
    }
  }

  /** What happened before us counts. */
  #recall(log: string): void {
    for (const e of loggedEvents(log, historyLength)) {
      this.#history.push(e);
      if (e.type !== 'fault') continue;
      const { type: _, ...fault } = e;
      const place = this.#processes.find((p) => p.name === fault.source);
      try {
        this.desk.recall(fault as Fault, place ? sourcesOf(place.plan) : []);
      } catch {
        // A line that is none of ours.
      }
    }
  }

  #vcpuHandlers(): VcpuHandlers {
    return {
      onEvent: (e) => this.#vcpuEvent(e),
      onDeath: (reason) => {
        const what = `${reason}${reason === busError ? ': the host could not give memory' : ''}`;
        const error = new NyxError('VCPU_DIED', { got: `nyx-vcpu ${what}` });
        this.desk.raise('vcpuCrash', { data: { what }, stopped: true, error });
        // When that could not be done: there is nothing left to go on with.
        void this.desk.idle().then(() => this.#fail(error));
      },
    };
  }

  /** What stops vCPUs is kept until it has been dealt with: nobody would tell it again. */
  #vcpuEvent(e: VcpuEvent): void {
    const stops = stopsVcpus(e);
    if (stops) {
      this.#pending.push(e);
      this.#keeper.put('events', this.#pending);
    }
    onVcpuEvent(e, this.#owner);
    if (!stops) return;
    void this.desk.idle().then(() => {
      this.#pending = this.#pending.filter((x) => x !== e);
      this.#keeper.put('events', this.#pending);
    });
  }

  /** From created to running. Does not throw: a failure is the machine's end, told by onEnd. */
  async start(): Promise<void> {
    const { o } = this;
    const { spec } = o;
    try {
      this.#life.go('starting');
      // Device processes need longest, so they go first; the kernel is read while they load.
      const serving = Promise.all(this.#processes.map((p) => p.start()));
      serving.catch(() => {});
      const jailed = o.spares.host.jail !== false;
      const vcpu = new Vcpu(o.vcpuProgram, o.vcpuLog, this.#vcpuHandlers(), jailed);
      this.#vcpu = vcpu;
      this.#keepVcpu();
      this.#pids();
      this.#mark('spawned');
      const verified = this.#loader.verify();
      verified.catch(() => {});
      const payload = this.#loader.load();
      this.#mark('loaded');
      const { bytes, fds } = descriptionOf(spec, this.#resources, payload, this.#part, this.#wallClock);
      const ready = await vcpu.machine(bytes, fds);
      if (ready.text) vcpu.child.jail?.missing.push(ready.text);
      this.#keepVcpu();
      this.#mark('vcpu');
      await serving;
      this.#mark('devices');
      await verified;
      if (this.#life.state !== 'starting') return;
      const started = await vcpu.start();
      this.#mark('started');
      o.log('info', 'the guest runs', {
        engine: this.#status.accel,
        kvmInstructionsPerSecond: ready.b,
        startedNs: started.a,
        // CLOCK_MONOTONIC of what milestones (ms) count from: the start of this process.
        originNs: Math.round(monotonicNs() - performance.now() * 1e6),
        milestones: this.#milestones,
      });
      if (this.#life.state === 'starting') this.#life.go('running');
      this.#tellJails();
      for (const p of this.#processes) p.prepare(500);
    } catch (e) {
      this.#fail(asNyxError(e));
    }
  }

  #keepVcpu(): void {
    const { pid, child } = this.#vcpu!;
    const kept: KeptVcpu = { pid, ...(child.jail ? { jail: child.jail } : {}) };
    this.#keeper.put('vcpu', kept, child.descriptors);
  }

  /** What protects the host from each process; a layer that is missing is a warning with its reason. */
  #tellJails(): void {
    const all = [
      { name: 'nyx-vcpu', jail: this.#vcpu?.child.jail },
      ...this.#processes.map((p) => ({ name: p.name, jail: p.jail })),
    ];
    for (const { name, jail } of all)
      if (jail) this.o.log(jail.missing.length > 0 ? 'warn' : 'info', 'jail', { process: name, ...jail });
  }

  async pause(): Promise<void> {
    this.#life.require('running');
    await this.#vcpu!.pause();
    if (this.#life.state === 'running') this.#life.go('paused');
  }

  async resume(): Promise<void> {
    this.#life.require('paused');
    for (const p of this.#processes) if (p.state === 'dead') p.heal('resume');
    this.disks.events.retry();
    await this.#vcpu!.resume();
    if (this.#life.state === 'paused') this.#life.go('running');
  }

  async reset(): Promise<void> {
    const paused = this.#life.state === 'paused';
    this.#life.go('resetting');
    try {
      if (!paused) await this.#vcpu!.pause();
      await this.#restart();
    } catch (e) {
      this.#fail(asNyxError(e));
      throw e;
    }
  }

  /** Asks the guest to power off; after `timeout` seconds ends it. True when it had to be ended. */
  async stop(timeout: number): Promise<boolean> {
    if (isFinal(this.#life.state)) return false;
    const ended = new Promise<void>((resolve) => this.#ended.push(resolve));
    let forced = timeout === 0 || this.#life.state !== 'running';
    if (!forced) {
      this.#stopBy = Date.now() + timeout * 1000;
      this.#keep();
      this.#powerButton();
      // A guest that is still booting misses the first press.
      const again = setInterval(() => this.#resources.signal('powerButton'), 3000);
      const timer = setTimeout(() => {
        forced = true;
        this.#stop();
      }, timeout * 1000);
      await ended;
      clearTimeout(timer);
      clearInterval(again);
    } else {
      this.#stop();
      await ended;
    }
    return forced;
  }

  /** By its name, or that of one of its devices. @throws NyxError DEVICE_UNKNOWN */
  #processOf(target: string): DeviceProcess {
    const p =
      this.#processes.find((x) => x.name === target) ??
      this.#processes.find((x) => x.plan.devices.some((d) => d.name === target));
    if (p) return p;
    const names = this.#processes.flatMap((x) => [x.name, ...x.plan.devices.map((d) => d.name)]);
    throw new NyxError('DEVICE_UNKNOWN', {
      expected: `one of ${[...new Set(names)].join(', ')}`,
      got: `'${target}'`,
    });
  }

  /** Brings a device process back that was isolated or given up. @throws NyxError DEVICE_UNKNOWN */
  heal(target: string): { process: string; healed: boolean } {
    const p = this.#processOf(target);
    this.desk.book.forgive(p.name);
    return { process: p.name, healed: p.heal('heal') };
  }

  /** @throws NyxError DEVICE_UNKNOWN, VM_STATE */
  kill(target: string): { process: string; pid: number } {
    const p = this.#processOf(target);
    const pid = p.kill();
    if (pid === 0) throw new NyxError('VM_STATE', { expected: `'${p.name}' to run`, got: p.state });
    return { process: p.name, pid };
  }

  /**
   * Another build serves the device. The guest runs on, but for the moment in which state of an older version is migrated.
   * @throws NyxError DEVICE_UNKNOWN, FILE_MISSING, VM_STATE, UPGRADE_REFUSED
   */
  async upgrade(target: string, service: string): Promise<Result<'upgrade'>> {
    const p = this.#processOf(target);
    if (!existsSync(service))
      throw new NyxError('FILE_MISSING', { expected: 'the bundle of a service', got: service });
    const r = await p.upgrade(service, async (migrates, swap) => {
      // The vCPU process answers some reads from the state itself: not while its layout changes.
      const stops = migrates.length > 0 && this.#life.state === 'running';
      if (stops) await this.#vcpu!.pause();
      try {
        return await swap();
      } finally {
        if (stops) await this.#vcpu!.resume();
      }
    });
    this.o.log('info', 'upgraded', { process: p.name, service, migrated: r.migrated, ns: r.ns });
    return { process: p.name, migrated: r.migrated, ns: r.ns };
  }

  status(): Status {
    const { spec, name } = this.o;
    return {
      name,
      state: this.#life.state,
      since: this.#life.since,
      pid: process.pid,
      vcpuPid: this.#vcpu?.pid ?? 0,
      ...(cgroups().refusal ? { noCgroup: cgroups().refusal } : {}),
      ...(this.#vcpu?.child.jail ? { vcpuJail: this.#vcpu.child.jail } : {}),
      accel: this.#status.accel,
      cpus: spec.cpus,
      memory: spec.memory,
      guestNs: Math.max(0, Math.round(this.#status.clock.now())),
      resets: this.#resets,
      agent: this.#channels.exec.ready,
      ...(this.#error ? { error: this.#error.toJSON() } : {}),
      milestones: this.#milestones,
      vcpus: this.#status.vcpus(
        spec.cpus,
        this.#processes.map((p) => p.name),
      ),
      processes: this.#processes.map((p) => this.#status.process(p)),
      faults: this.desk.log.counts,
      ...(this.desk.log.worst ? { lastFault: this.desk.log.worst } : {}),
    };
  }

  /** This machine as its places and its vCPUs see it. */
  #asOwner(): PlaceOwner & VcpuOwner {
    const { desk, disks, o } = this;
    return {
      dir: o.dir,
      desk,
      disks,
      vcpu: () => this.#vcpu,
      place: (index) => this.#processes[index]!,
      emit: (e) => this.#emit(e),
      log: (level, message, detail) => o.log(level, message, detail),
      pids: () => this.#pids(),
      nextSaved: () => this.#corrupt++,
      fail: (e) => this.#fail(e),
      poweredOff: () => {
        if (o.spec.deterministic) this.#identify();
      },
    };
  }

  /** This machine as the desk for faults sees it. */
  #patient(): Patient {
    const machine = this;
    return {
      get state() {
        return machine.state;
      },
      guestNs: () => this.#status.clock.now(),
      registers: (cpu) => this.#vcpu!.registers(cpu).catch(() => ''),
      halt: async () => void (await this.#vcpu!.pause()),
      go: async () => void (await this.#vcpu!.resume()),
      nmi: () => this.#vcpu!.nmi(0),
      reset: () => this.#guestReset(),
      canRollBack: () => this.checkpoints.exists,
      rollBack: async () => {
        if (this.#life.can('resetting')) await this.checkpoints.rollBack();
      },
      paused: () => {
        // A guest may stop before we have been told that it runs.
        if (this.#life.state === 'starting') this.#life.go('running');
        if (this.#life.state === 'running') this.#life.go('paused');
      },
      poweroff: () => void this.stop(30),
      shutdown: (why) => {
        this.#endedBy ??= why;
        this.#stop();
      },
      fail: (e) => this.#fail(e),
      emit: (e) => this.#emit(e),
      report: (f, registers) =>
        writeReport(this.o.dir, reportText(f, registers, this.status(), this.desk.log.recent, this.o.dir)),
    };
  }

  /** This machine as its checkpoints see it. */
  #makeCheckpoints(): Checkpoints {
    const machine = this;
    const { desk, disks, o } = this;
    return new Checkpoints({
      spec: o.spec,
      desk,
      disks,
      channels: this.#channels,
      ramBytes: this.#resources.ramBytes,
      store: this.#resources.savedPages,
      get accel() {
        return machine.#status.accel;
      },
      get state() {
        return machine.state;
      },
      vcpu: () => this.#vcpu,
      processes: () => this.#processes,
      guestNs: () => Math.max(0, Math.round(this.#status.clock.now())),
      goBack: () => this.#life.go('resetting'),
      prestart: (service, count) => this.#spares.start(service, count),
      running: () => {
        if (this.#life.state === 'resetting') this.#life.go('running');
      },
      emit: (e) => this.#emit(e),
      fail: (e) => this.#fail(e),
    });
  }

  #guestReset(): void {
    if (!this.#life.can('resetting')) return;
    this.#life.go('resetting');
    this.#restart().catch((e) => this.#fail(asNyxError(e)));
  }

  /** All vCPUs stand still: boot anew. */
  async #restart(): Promise<void> {
    this.#channels.exec.reset('the machine was reset');
    this.#resets++;
    this.#loader.load();
    this.desk.book.forgive();
    for (const p of this.#processes) p.heal('reset');
    await this.#vcpu!.reset();
    await this.#vcpu!.resume();
    if (this.#life.state === 'resetting') this.#life.go('running');
  }

  /** Of a deterministic machine whose vCPU stands still. */
  #identify(): void {
    this.#fingerprint = fingerprintOf(this.#resources.ram.buffer, this.#status);
    this.o.log('info', 'fingerprint', this.#fingerprint);
  }

  #powerButton(): void {
    // The ACPI power button; a guest that runs our agent is asked by that as well, for it may have no ACPI daemon.
    this.#resources.signal('powerButton');
    if (this.#channels.exec.ready)
      this.#channels.exec.run('nyx-poweroff || poweroff', 60, {
        stdout() {},
        stderr() {},
        end() {},
        error() {},
      });
  }

  #stop(): void {
    if (isFinal(this.#life.state)) return;
    if (this.#life.can('stopping')) this.#life.go('stopping');
    this.#end('stopped', undefined);
  }

  #fail(e: NyxError): void {
    if (isFinal(this.#life.state) || this.#life.state === 'stopping') return;
    this.#error = e;
    this.o.log('error', e.message, e.toJSON());
    this.#end('failed', e);
  }

  #end(state: 'stopped' | 'failed', error: NyxError | undefined): void {
    this.#watch.close();
    this.checkpoints.close();
    for (const p of this.#processes) p.stop();
    this.o.backends?.close();
    this.#spares.close();
    this.#vcpu?.quit();
    // What it wrote is in shared memory; it has nothing to save.
    this.#vcpu?.child.kill();
    const channels = this.#channels.close();
    this.#life.go(state);
    const disks = this.disks.end().then(
      () => undefined,
      (e) => asNyxError(e),
    );
    void Promise.all([channels, disks]).then(([, left]) => {
      for (const done of this.#ended) done();
      this.o.onEnd(left ? 'failed' : state, error ?? left, this.#endedBy, this.#fingerprint);
    });
  }

  #changed(from: Status['state'], to: Status['state']): void {
    this.#keep();
    this.o.log('info', `${from} -> ${to}`);
    this.#emit({
      type: 'state',
      at: Date.now(),
      from,
      to,
      ...(to === 'failed' && this.#error ? { error: this.#error.toJSON() } : {}),
    });
  }

  #emit(e: VmEvent): void {
    if (e.type !== 'state')
      this.o.log(
        e.type === 'death' || e.type === 'isolated' || (e.type === 'fault' && e.severity !== 'info')
          ? 'warn'
          : 'info',
        e.type,
        e,
      );
    this.#history.push(e);
    if (this.#history.length > historyLength) this.#history.shift();
    this.o.onEvent(e);
  }

  /** The newest events, oldest first. */
  get history(): readonly VmEvent[] {
    return this.#history;
  }

  #mark(name: string): void {
    this.#milestones[name] = Math.round(performance.now() * 10) / 10;
  }

  #pids(): void {
    const pids = this.#processes.flatMap((p) => (p.pid ? [{ role: p.name, pid: p.pid }] : []));
    for (const p of this.#processes)
      if (p.standbyPid) pids.push({ role: `standby of ${p.name}`, pid: p.standbyPid });
    for (const c of this.#spares.children) pids.push({ role: 'spare', pid: c.pid });
    if (this.#vcpu) pids.push({ role: 'nyx-vcpu', pid: this.#vcpu.pid });
    this.o.onPids(pids);
  }
}
