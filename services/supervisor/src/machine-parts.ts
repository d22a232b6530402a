/** What a machine is made of, put together. What it does is in machine.ts; here is what each part may ask of it. */
import { join } from 'node:path';
import { files as runFiles } from '@nyx/nyx/files';
import { writeJson } from '@nyx/nyx/rundir';
import type { Result, Status, VmEvent } from '@nyx/protocol/control';
import type { NyxError } from '@nyx/protocol/errors';
import { inheritFiles, keepFiles } from './adoption.ts';
import { BootLoader } from './boot.ts';
import { CdDrives } from './cd.ts';
import { Checkpoints } from './checkpoint.ts';
import { DeviceProcess } from './device-process.ts';
import { adoptDisk } from './disk-files.ts';
import { DiskTable } from './disk-table.ts';
import { Disks } from './disks.ts';
import { isObject } from './estate.ts';
import { FaultDesk, type Patient } from './fault-desk.ts';
import { FaultBook } from './faults.ts';
import { fwCfgBlob } from './fwcfg.ts';
import { GuestChannels } from './guest-channels.ts';
import { inheritCds, inheritDisks } from './kept-disks.ts';
import { type Inheritance, inheritance } from './kept-place.ts';
import type { MachineOptions } from './machine-options.ts';
import { MachineRecord } from './machine-record.ts';
import { MachineWatch } from './machine-watch.ts';
import { type PlaceOwner, placeEvents, sourcesOf, treatPlace } from './place-events.ts';
import { planProcesses } from './plan.ts';
import { PolicyBook } from './policy-book.ts';
import { preflight } from './preflight.ts';
import { reportText, writeReport } from './report.ts';
import { Resources } from './resources.ts';
import { adoptCds } from './sata.ts';
import { StatusReader } from './status.ts';
import { TpmHost } from './tpm.ts';
import type { Vcpu } from './vcpu.ts';
import type { VcpuOwner } from './vcpu-events.ts';
import { type DeviceLine, wiring } from './wiring.ts';

/** The machine, as far as its parts need it. */
export interface MachineActs {
  vcpu(): Vcpu | undefined;
  status(): Status;
  pause(): Promise<void>;
  /** Within `timeout` seconds; 0: now. */
  stop(timeout: number): unknown;
  /** The guest wants it, or a policy. */
  reset(): void;
  upgrade(process: string, service: string): Promise<Result<'upgrade'>>;
  fail(e: NyxError): void;
  /** The set of processes changed. */
  pids(): void;
  /** The guest has powered off. */
  poweredOff(): void;
}

export class MachineParts {
  readonly record: MachineRecord;
  readonly resources: Resources;
  readonly disks: Disks;
  readonly cds: CdDrives;
  readonly channels: GuestChannels;
  readonly loader: BootLoader;
  readonly status: StatusReader;
  readonly desk: FaultDesk;
  readonly faults: FaultBook;
  readonly checkpoints: Checkpoints;
  readonly watch: MachineWatch;
  /** The machine as its places and its vCPUs see it. */
  readonly owner: PlaceOwner & VcpuOwner;
  readonly processes: readonly DeviceProcess[];
  /** What another nyxd has left of the places. */
  readonly left: ReadonlyMap<DeviceProcess, Inheritance | undefined>;
  readonly part: ReturnType<typeof planProcesses>['part'];
  readonly #o: MachineOptions;
  readonly #acts: MachineActs;

  /** @throws NyxError of preflight; ADOPTION_FAILED */
  constructor(o: MachineOptions, acts: MachineActs) {
    this.#o = o;
    this.#acts = acts;
    this.record = new MachineRecord(o, () => this.channels.exec.ready);
    const { keeper, wallClock } = this.record;
    const { spec, heritage } = o;
    const estate = heritage?.estate;
    const files = estate ? inheritFiles(estate) : preflight(spec);
    const oldDisks = estate && inheritDisks(estate, spec);
    const oldCds = estate && inheritCds(estate, spec);
    if (oldDisks) files.disks = oldDisks.map((d) => d.files);
    if (oldCds) files.cds = oldCds.map((c) => c.medium);
    if (!estate) keepFiles(keeper, files);
    const clock = { wallClock, virtual: spec.deterministic };
    this.resources = new Resources(spec.cpus, spec.memory, clock, keeper, estate);
    const r = this.resources;
    for (const [i, d] of files.disks.entries()) adoptDisk(r, `disk${i}`, d, oldDisks?.[i]?.journal);
    for (const [i, fd] of files.standbys) r.adopt(`disk${i}.standby`, fd);
    const lines: readonly DeviceLine[] = heritage?.what.lines ?? [
      ...wiring(spec, files.disks, files.cds),
      ...(o.backends?.lines ?? []),
    ];
    const diskOwner = {
      processes: () => this.processes,
      upgrade: (process: string, service: string) => acts.upgrade(process, service),
      pause: () => void acts.pause().catch(() => {}),
      emit: (e: VmEvent) => this.record.emit(e),
      changed: () => {
        this.record.keepSpec(lines);
        writeJson(join(o.dir, runFiles.spec), { ...spec, name: o.name });
      },
    };
    const journals = (name: string): number | undefined => r.named.get(name);
    const table = new DiskTable(spec, files.disks, journals, diskOwner, keeper, oldDisks);
    this.disks = new Disks(table, diskOwner);
    const controller = (): DeviceProcess | undefined =>
      this.processes.find((p) => p.plan.devices.some((d) => d.kind === 'ahci'));
    this.cds = new CdDrives(spec, files.cds, adoptCds(r, files.cds), controller, keeper, oldCds);
    o.backends?.adopt(r, (level, message) => o.log(level, message));
    r.event('powerButton');
    const tpm = spec.tpm && new TpmHost(spec, files.tpm ?? {}, r);
    r.blob('fwcfg', fwCfgBlob(spec));
    const listens = (): void => {
      this.record.emit({ type: 'agent', at: Date.now() });
      this.record.keep();
    };
    this.channels = new GuestChannels(r, o.dir, o.consoleLog, listens, spec.command);
    this.loader = new BootLoader(spec, files, r, tpm);
    this.status = new StatusReader(r.vmPage.buffer);
    if (!heritage) this.record.keepSpec(lines);
    const standbys = [...files.standbys.keys()].map((i) => `disk${i}`);
    const sources = [...new Set(lines.flatMap((l) => [l.name, l.process]))];
    this.desk = new FaultDesk(new PolicyBook(spec.policy, spec.recovery, sources, standbys), this.#patient());
    const { processes, part } = planProcesses(o.name, lines, r, o.dir, spec.faults?.transcript);
    this.part = part;
    this.owner = this.#asOwner();
    this.processes = processes.map(
      (plan) => new DeviceProcess(plan, o.spares, spec.recovery, placeEvents(plan, this.owner), keeper),
    );
    this.left = new Map(estate ? this.processes.map((p) => [p, inheritance(p.plan, estate)] as const) : []);
    this.faults = new FaultBook(
      this.processes.map((p) => ({
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
    this.watch = new MachineWatch(spec, this.status, this.processes, {
      runs: () => this.record.life.state === 'running',
      look: () => acts.vcpu()?.look(),
      fault: (kind, raised) => this.desk.raise(kind, raised),
      process: (p, kind, data) => {
        const verdict = this.desk.raise(kind, { sources: sourcesOf(p.plan), data });
        treatPlace(p, verdict, kind);
      },
    });
  }

  #asOwner(): PlaceOwner & VcpuOwner {
    const { desk, disks, record } = this;
    const o = this.#o;
    const acts = this.#acts;
    return {
      dir: o.dir,
      desk,
      disks,
      vcpu: () => acts.vcpu(),
      place: (index) => this.processes[index]!,
      emit: (e) => record.emit(e),
      log: (level, message, detail) => o.log(level, message, detail),
      pids: () => acts.pids(),
      nextSaved: () => record.corrupt++,
      fail: (e) => acts.fail(e),
      poweredOff: () => acts.poweredOff(),
    };
  }

  /** The machine as the desk for faults sees it. */
  #patient(): Patient {
    const { record, status } = this;
    const { life } = record;
    const { dir } = this.#o;
    const acts = this.#acts;
    return {
      get state() {
        return life.state;
      },
      guestNs: () => status.clock.now(),
      registers: (cpu) =>
        acts
          .vcpu()!
          .registers(cpu)
          .catch(() => ''),
      halt: async () => void (await acts.vcpu()!.pause()),
      go: async () => void (await acts.vcpu()!.resume()),
      nmi: () => acts.vcpu()!.nmi(0),
      reset: () => acts.reset(),
      canRollBack: () => this.checkpoints.exists,
      rollBack: async () => {
        if (life.can('resetting')) await this.checkpoints.rollBack();
      },
      paused: () => {
        // A guest may stop before we have been told that it runs.
        if (life.state === 'starting') life.go('running');
        if (life.state === 'running') life.go('paused');
      },
      poweroff: () => void acts.stop(30),
      shutdown: (why) => {
        record.endedBy ??= why;
        void acts.stop(0);
      },
      fail: (e) => acts.fail(e),
      emit: (e) => record.emit(e),
      report: (f, registers) =>
        writeReport(dir, reportText(f, registers, acts.status(), this.desk.log.recent, dir)),
    };
  }

  /** The machine as its checkpoints see it. */
  #makeCheckpoints(): Checkpoints {
    const { channels, desk, disks, record, resources, status } = this;
    const { life } = record;
    const { spares, spec } = this.#o;
    const acts = this.#acts;
    return new Checkpoints({
      spec,
      desk,
      disks,
      channels,
      ramBytes: resources.ramBytes,
      store: resources.savedPages,
      get accel() {
        return status.accel;
      },
      get state() {
        return life.state;
      },
      vcpu: () => acts.vcpu(),
      processes: () => this.processes,
      guestNs: () => Math.max(0, Math.round(status.clock.now())),
      goBack: () => life.go('resetting'),
      prestart: (service, count) => spares.start(service, count),
      running: () => {
        if (life.state === 'resetting') life.go('running');
      },
      emit: (e) => record.emit(e),
      fail: (e) => acts.fail(e),
    });
  }
}
