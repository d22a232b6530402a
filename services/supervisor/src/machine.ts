/**
 * A machine: starts its processes, drives it through its states (lifecycle.ts), answers what happens to it. Policy is
 * here; mechanisms are in the files that it uses, put together in machine-parts.ts.
 */

import { existsSync } from 'node:fs';
import { monotonicNs } from '@nyx/native';
import type { Result, Status, VmEvent } from '@nyx/protocol/control';
import { asNyxError, NyxError } from '@nyx/protocol/errors';
import type { KeptVcpu } from './adoption.ts';
import type { CdDrives } from './cd.ts';
import { cgroups } from './cgroup.ts';
import type { Checkpoints } from './checkpoint.ts';
import { busError, type DeviceProcess } from './device-process.ts';
import type { Disks } from './disks.ts';
import type { FaultDesk } from './fault-desk.ts';
import type { Fault } from './fault-log.ts';
import type { FaultBook } from './faults.ts';
import { fingerprintOf } from './fingerprint.ts';
import { isFinal } from './lifecycle.ts';
import { descriptionOf } from './machine-description.ts';
import type { MachineOptions } from './machine-options.ts';
import { MachineParts } from './machine-parts.ts';
import type { MachineRecord } from './machine-record.ts';
import { sourcesOf } from './place-events.ts';
import { Vcpu, type VcpuEvent, type VcpuHandlers } from './vcpu.ts';
import { onVcpuEvent, stopsVcpus } from './vcpu-events.ts';

export class Machine {
  readonly #parts: MachineParts;
  readonly #record: MachineRecord;
  readonly #processes: readonly DeviceProcess[];
  #vcpu: Vcpu | undefined;
  /** Events of nyx-vcpu that are being dealt with. */
  #pending: VcpuEvent[] = [];
  #ended: (() => void)[] = [];

  /** @throws NyxError of preflight; ADOPTION_FAILED */
  constructor(readonly o: MachineOptions) {
    this.#parts = new MachineParts(o, {
      vcpu: () => this.#vcpu,
      status: () => this.status(),
      pause: () => this.pause(),
      stop: (timeout) => (timeout === 0 ? this.#stop() : this.stop(timeout)),
      reset: () => this.#guestReset(),
      upgrade: (process, service) => this.upgrade(process, service),
      fail: (e) => this.#fail(e),
      pids: () => this.#pids(),
      poweredOff: () => {
        if (o.spec.deterministic) this.#identify();
      },
    });
    this.#record = this.#parts.record;
    this.#processes = this.#parts.processes;
  }

  get state(): Status['state'] {
    return this.#record.life.state;
  }
  get disks(): Disks {
    return this.#parts.disks;
  }
  get cds(): CdDrives {
    return this.#parts.cds;
  }
  get desk(): FaultDesk {
    return this.#parts.desk;
  }
  get faults(): FaultBook {
    return this.#parts.faults;
  }
  get checkpoints(): Checkpoints {
    return this.#parts.checkpoints;
  }
  /** The newest events, oldest first. */
  get history(): readonly VmEvent[] {
    return this.#record.history;
  }

  /** The policy was changed by somebody. */
  keepPolicy(): void {
    this.#record.keeper.put('policy', this.desk.book.rules);
  }

  /**
   * Goes on with a machine that another nyxd has started; comes instead of `start`. Does not throw: a failure is the machine's
   * end, told by onEnd.
   */
  async adopt(log: string): Promise<void> {
    const { o } = this;
    const { how, vcpu: old, policy, events } = o.heritage!;
    try {
      this.#record.inherit(how);
      this.#parts.channels.exec.ready = how.agent;
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
        this.#record.life.inherit('stopping', how.since);
        for (const [p, left] of this.#parts.left) if (left) void p.inherit(left);
        this.#end(this.#record.error ? 'failed' : 'stopped', this.#record.error);
        return;
      }
      const swaps = [...this.#parts.left].map(([p, left]) => (left ? p.inherit(left) : p.start()));
      this.disks.inherit();
      this.#pids();
      const unknown = o.heritage!.estate.close();
      for (const key of unknown) this.#record.keeper.drop(key);
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
    if (this.#record.life.state === 'resetting') {
      await this.#vcpu!.pause();
      await this.#restart();
    } else if (this.#record.life.state === 'paused') await this.#vcpu!.pause();
    else if (this.#record.life.state === 'running') {
      this.disks.events.retry();
      await this.#vcpu!.resume();
      if (how.stopBy !== undefined) void this.stop(Math.max(1, (how.stopBy - Date.now()) / 1000));
    }
  }

  /** What happened before us counts. */
  #recall(log: string): void {
    for (const e of this.#record.recall(log)) {
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
      this.#record.keeper.put('events', this.#pending);
    }
    onVcpuEvent(e, this.#parts.owner);
    if (!stops) return;
    void this.desk.idle().then(() => {
      this.#pending = this.#pending.filter((x) => x !== e);
      this.#record.keeper.put('events', this.#pending);
    });
  }

  /** From created to running. Does not throw: a failure is the machine's end, told by onEnd. */
  async start(): Promise<void> {
    const { o } = this;
    const { spec } = o;
    try {
      this.#record.life.go('starting');
      // Device processes need longest, so they go first; the kernel is read while they load.
      const serving = Promise.all(this.#processes.map((p) => p.start()));
      serving.catch(() => {});
      const jailed = o.spares.host.jail !== false;
      const vcpu = new Vcpu(o.vcpuProgram, o.vcpuLog, this.#vcpuHandlers(), jailed);
      this.#vcpu = vcpu;
      this.#keepVcpu();
      this.#pids();
      this.#record.mark('spawned');
      const verified = this.#parts.loader.verify();
      verified.catch(() => {});
      const payload = this.#parts.loader.load();
      this.#record.mark('loaded');
      const { bytes, fds } = descriptionOf(
        spec,
        this.#parts.resources,
        payload,
        this.#parts.part,
        this.#record.wallClock,
      );
      const ready = await vcpu.machine(bytes, fds);
      if (ready.text) vcpu.child.jail?.missing.push(ready.text);
      this.#keepVcpu();
      this.#record.mark('vcpu');
      await serving;
      this.#record.mark('devices');
      await verified;
      if (this.#record.life.state !== 'starting') return;
      const started = await vcpu.start();
      this.#record.mark('started');
      o.log('info', 'the guest runs', {
        engine: this.#parts.status.accel,
        kvmInstructionsPerSecond: ready.b,
        startedNs: started.a,
        // CLOCK_MONOTONIC of what milestones (ms) count from: the start of this process.
        originNs: Math.round(monotonicNs() - performance.now() * 1e6),
        milestones: this.#record.milestones,
      });
      if (this.#record.life.state === 'starting') this.#record.life.go('running');
      this.#tellJails();
      for (const p of this.#processes) p.prepare(500);
    } catch (e) {
      this.#fail(asNyxError(e));
    }
  }

  #keepVcpu(): void {
    const { pid, child } = this.#vcpu!;
    const kept: KeptVcpu = { pid, ...(child.jail ? { jail: child.jail } : {}) };
    this.#record.keeper.put('vcpu', kept, child.descriptors);
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
    this.#record.life.require('running');
    await this.#vcpu!.pause();
    if (this.#record.life.state === 'running') this.#record.life.go('paused');
  }

  async resume(): Promise<void> {
    this.#record.life.require('paused');
    for (const p of this.#processes) if (p.state === 'dead') p.heal('resume');
    this.disks.events.retry();
    await this.#vcpu!.resume();
    if (this.#record.life.state === 'paused') this.#record.life.go('running');
  }

  async reset(): Promise<void> {
    const paused = this.#record.life.state === 'paused';
    this.#record.life.go('resetting');
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
    if (isFinal(this.#record.life.state)) return false;
    const ended = new Promise<void>((resolve) => this.#ended.push(resolve));
    let forced = timeout === 0 || this.#record.life.state !== 'running';
    if (!forced) {
      this.#record.stopBy = Date.now() + timeout * 1000;
      this.#record.keep();
      this.#powerButton();
      // A guest that is still booting misses the first press.
      const again = setInterval(() => this.#parts.resources.signal('powerButton'), 3000);
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
      const stops = migrates.length > 0 && this.#record.life.state === 'running';
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
      state: this.#record.life.state,
      since: this.#record.life.since,
      pid: process.pid,
      vcpuPid: this.#vcpu?.pid ?? 0,
      ...(cgroups().refusal ? { noCgroup: cgroups().refusal } : {}),
      ...(this.#vcpu?.child.jail ? { vcpuJail: this.#vcpu.child.jail } : {}),
      accel: this.#parts.status.accel,
      cpus: spec.cpus,
      memory: spec.memory,
      guestNs: Math.max(0, Math.round(this.#parts.status.clock.now())),
      resets: this.#record.resets,
      agent: this.#parts.channels.exec.ready,
      ...(this.#record.error ? { error: this.#record.error.toJSON() } : {}),
      milestones: this.#record.milestones,
      vcpus: this.#parts.status.vcpus(
        spec.cpus,
        this.#processes.map((p) => p.name),
      ),
      processes: this.#processes.map((p) => this.#parts.status.process(p)),
      faults: this.desk.log.counts,
      ...(this.desk.log.worst ? { lastFault: this.desk.log.worst } : {}),
    };
  }

  #guestReset(): void {
    if (!this.#record.life.can('resetting')) return;
    this.#record.life.go('resetting');
    this.#restart().catch((e) => this.#fail(asNyxError(e)));
  }

  /** All vCPUs stand still: boot anew. */
  async #restart(): Promise<void> {
    this.#parts.channels.exec.reset('the machine was reset');
    this.#record.resets++;
    this.#parts.loader.load();
    this.desk.book.forgive();
    for (const p of this.#processes) p.heal('reset');
    await this.#vcpu!.reset();
    await this.#vcpu!.resume();
    if (this.#record.life.state === 'resetting') this.#record.life.go('running');
  }

  /** Of a deterministic machine whose vCPU stands still. */
  #identify(): void {
    this.#record.fingerprint = fingerprintOf(this.#parts.resources.ram.buffer, this.#parts.status);
    this.o.log('info', 'fingerprint', this.#record.fingerprint);
  }

  #powerButton(): void {
    // The ACPI power button; a guest that runs our agent is asked by that as well, for it may have no ACPI daemon.
    this.#parts.resources.signal('powerButton');
    if (this.#parts.channels.exec.ready)
      this.#parts.channels.exec.run('nyx-poweroff || poweroff', 60, {
        stdout() {},
        stderr() {},
        end() {},
        error() {},
      });
  }

  #stop(): void {
    if (isFinal(this.#record.life.state)) return;
    if (this.#record.life.can('stopping')) this.#record.life.go('stopping');
    this.#end('stopped', undefined);
  }

  #fail(e: NyxError): void {
    if (isFinal(this.#record.life.state) || this.#record.life.state === 'stopping') return;
    this.#record.error = e;
    this.o.log('error', e.message, e.toJSON());
    this.#end('failed', e);
  }

  #end(state: 'stopped' | 'failed', error: NyxError | undefined): void {
    this.#parts.watch.close();
    this.checkpoints.close();
    for (const p of this.#processes) p.stop();
    this.o.backends?.close();
    this.o.spares.close();
    this.#vcpu?.quit();
    // What it wrote is in shared memory; it has nothing to save.
    this.#vcpu?.child.kill();
    const channels = this.#parts.channels.close();
    this.#record.life.go(state);
    const disks = this.disks.end().then(
      () => undefined,
      (e) => asNyxError(e),
    );
    void Promise.all([channels, disks]).then(([, left]) => {
      for (const done of this.#ended) done();
      this.o.onEnd(left ? 'failed' : state, error ?? left, this.#record.endedBy, this.#record.fingerprint);
    });
  }

  #pids(): void {
    const pids = this.#processes.flatMap((p) => (p.pid ? [{ role: p.name, pid: p.pid }] : []));
    for (const p of this.#processes)
      if (p.standbyPid) pids.push({ role: `standby of ${p.name}`, pid: p.standbyPid });
    for (const c of this.o.spares.children) pids.push({ role: 'spare', pid: c.pid });
    if (this.#vcpu) pids.push({ role: 'nyx-vcpu', pid: this.#vcpu.pid });
    this.o.onPids(pids);
  }
}
