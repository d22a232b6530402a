/**
 * A machine: starts its processes, drives it through its states (lifecycle.ts), answers what happens to it. Policy is
 * here; mechanisms are in the files that it uses.
 */
import { appendFileSync } from 'node:fs';
import { join } from 'node:path';
import { monotonicNs } from '@nyx/native';
import { ControlEvent } from '@nyx/protocol';
import { type Status, sockets, type VmEvent } from '@nyx/protocol/control';
import { describeMachine } from '@nyx/protocol/describe';
import { asNyxError, NyxError } from '@nyx/protocol/errors';
import type { VmSpec } from '@nyx/protocol/spec';
import { MachineEvent } from '@nyx/ring';
import { BootLoader, type Payload } from './boot.ts';
import { ConsoleServer, HostConsole } from './console.ts';
import { DeviceProcess } from './device-process.ts';
import { adoptDisk } from './disk-files.ts';
import { ExecChannel, serveExec } from './exec.ts';
import { FaultBook } from './faults.ts';
import { fwCfgBlob } from './fwcfg.ts';
import { isFinal, Lifecycle } from './lifecycle.ts';
import { planProcesses } from './plan.ts';
import { preflight } from './preflight.ts';
import { Resources } from './resources.ts';
import type { Spares } from './spares.ts';
import { saveBlocks } from './state-files.ts';
import { StatusReader } from './status.ts';
import { rejection, Vcpu, type VcpuEvent } from './vcpu.ts';
import { wiring } from './wiring.ts';

export interface MachineOptions {
  name: string;
  dir: string;
  spec: VmSpec;
  /** Those that wait already get the first roles. */
  spares: Spares;
  vcpuProgram: string;
  vcpuLog: number;
  consoleLog: string;
  log(level: 'debug' | 'info' | 'warn' | 'error', message: string, detail?: object): void;
  onEvent(e: VmEvent): void;
  /** The set of processes changed. */
  onPids(pids: { role: string; pid: number }[]): void;
  /** Once, at the end. */
  onEnd(state: 'stopped' | 'failed', error: NyxError | undefined): void;
}

const machineEvents: Record<number, 'reset' | 'shutdown' | 'suspend' | 'panic'> = {
  [MachineEvent.reset]: 'reset',
  [MachineEvent.shutdown]: 'shutdown',
  [MachineEvent.suspend]: 'suspend',
  [MachineEvent.panic]: 'panic',
};

export class Machine {
  readonly faults: FaultBook;
  readonly #life: Lifecycle;
  readonly #resources: Resources;
  readonly #loader: BootLoader;
  readonly #spares: Spares;
  readonly #processes: DeviceProcess[];
  readonly #part: ReturnType<typeof planProcesses>['part'];
  readonly #status: StatusReader;
  readonly #consoles: HostConsole[];
  readonly #clients: ConsoleServer;
  readonly #exec: ExecChannel;
  readonly #execServer: { close(): void };
  readonly #watch: NodeJS.Timeout;
  readonly #milestones: Record<string, number> = {};
  #vcpu: Vcpu | undefined;
  #resets = 0;
  /** State blocks that were refused. */
  #corrupt = 0;
  #error: NyxError | undefined;
  #ended: (() => void)[] = [];

  /** @throws NyxError of preflight */
  constructor(readonly o: MachineOptions) {
    this.#mark('code');
    const { spec } = o;
    const files = preflight(spec);
    this.#life = new Lifecycle((from, to) => this.#changed(from, to));
    this.#resources = new Resources(spec.cpus, spec.memory);
    const r = this.#resources;
    for (const [i, d] of files.disks.entries()) adoptDisk(r, `disk${i}`, d);
    r.event('powerButton');
    r.blob('fwcfg', fwCfgBlob(spec));
    this.#clients = new ConsoleServer(join(o.dir, sockets.console), o.consoleLog, (b) =>
      this.#consoles[0]!.write(b),
    );
    this.#exec = new ExecChannel(
      (b) => this.#consoles[1]!.write(b),
      () => this.#emit({ type: 'agent', at: Date.now() }),
    );
    const host = (name: string, output: (b: Buffer, lost: number) => void): HostConsole => {
      const buffer = r.console(name);
      return new HostConsole(buffer, r.named.get(`${name}.out`)!, r.named.get(`${name}.in`)!, output);
    };
    this.#consoles = [
      host('com1', (b) => this.#clients.output(b)),
      host('com2', (b, lost) => this.#exec.feed(b, lost)),
      host('debug', (b) => appendFileSync(join(o.dir, 'debugcon.log'), b)),
    ];
    this.#execServer = serveExec(join(o.dir, sockets.exec), this.#exec);
    this.#loader = new BootLoader(spec, files, r.ram.buffer, r.lowBytes);
    this.#status = new StatusReader(r.vmPage.buffer);
    this.#spares = o.spares;
    const { processes, part } = planProcesses(
      o.name,
      wiring(spec, files.disks),
      r,
      o.dir,
      spec.faults?.transcript,
    );
    this.#part = part;
    this.#processes = processes.map(
      (plan) =>
        new DeviceProcess(plan, this.#spares, spec.recovery, {
          started: () => this.#pids(),
          died: (pid, reason) =>
            this.#emit({ type: 'death', at: Date.now(), process: plan.name, pid, reason }),
          recovered: (recovery) => {
            this.#vcpu?.replaced(plan.index);
            this.#emit({ type: 'recovered', at: Date.now(), recovery });
          },
          corrupt: (code, message) => {
            const saved = saveBlocks(o.dir, plan, this.#corrupt++);
            o.log('error', 'state corrupt', { process: plan.name, code, text: message, saved });
          },
          isolated: (e) => {
            this.#vcpu?.isolate(plan.index);
            this.#emit({ type: 'isolated', at: Date.now(), process: plan.name, error: e.toJSON() });
          },
        }),
    );
    this.faults = new FaultBook(
      this.#processes.map((p) => ({
        name: p.name,
        devices: p.plan.devices,
        role: p.plan.role,
        page: p.plan.memory.faults.buffer,
        tell: (m) => p.tell(m),
      })),
    );
    if (spec.faults) this.faults.add(spec.faults);
    this.#watch = setInterval(() => {
      for (const p of this.#processes) p.watch(performance.now());
    }, 250);
  }

  get state(): Status['state'] {
    return this.#life.state;
  }

  /** From created to running. Does not throw: a failure is the machine's end, told by onEnd. */
  async start(): Promise<void> {
    const { o } = this;
    try {
      this.#life.go('starting');
      // Device processes need longest, so they go first; the kernel is read while they load.
      const serving = Promise.all(this.#processes.map((p) => p.start()));
      serving.catch(() => {});
      const handlers = {
        onEvent: (e: VcpuEvent): void => this.#vcpuEvent(e),
        onDeath: (reason: string): void =>
          this.#fail(new NyxError('VCPU_DIED', { got: `nyx-vcpu ${reason}` })),
      };
      const vcpu = new Vcpu(o.vcpuProgram, o.vcpuLog, handlers, o.spares.host.jail !== false);
      this.#vcpu = vcpu;
      this.#pids();
      this.#mark('spawned');
      const verified = this.#loader.verify();
      verified.catch(() => {});
      const payload = this.#loader.load();
      this.#mark('loaded');
      const { bytes, fds } = this.#describe(payload);
      const ready = await vcpu.machine(bytes, fds);
      if (ready.text) vcpu.child.jail?.missing.push(ready.text);
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
      for (const p of new Set(this.#processes.map((p) => p.plan.service))) this.#spares.keep(p, 500);
    } catch (e) {
      this.#fail(asNyxError(e));
    }
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

  /** @throws NyxError DEVICE_UNKNOWN, VM_STATE */
  kill(target: string): { process: string; pid: number } {
    const p =
      this.#processes.find((x) => x.name === target) ??
      this.#processes.find((x) => x.plan.devices.some((d) => d.name === target));
    if (!p) {
      const names = this.#processes.flatMap((x) => [x.name, ...x.plan.devices.map((d) => d.name)]);
      throw new NyxError('DEVICE_UNKNOWN', {
        expected: `one of ${[...new Set(names)].join(', ')}`,
        got: `'${target}'`,
      });
    }
    const pid = p.kill();
    if (pid === 0) throw new NyxError('VM_STATE', { expected: `'${p.name}' to run`, got: p.state });
    return { process: p.name, pid };
  }

  status(): Status {
    const { spec, name } = this.o;
    return {
      name,
      state: this.#life.state,
      since: this.#life.since,
      pid: process.pid,
      vcpuPid: this.#vcpu?.pid ?? 0,
      ...(this.#vcpu?.child.jail ? { vcpuJail: this.#vcpu.child.jail } : {}),
      accel: this.#status.accel,
      cpus: spec.cpus,
      memory: spec.memory,
      guestNs: Math.max(0, Math.round(this.#status.clock.now())),
      resets: this.#resets,
      agent: this.#exec.ready,
      ...(this.#error ? { error: this.#error.toJSON() } : {}),
      milestones: this.#milestones,
      vcpus: this.#status.vcpus(
        spec.cpus,
        this.#processes.map((p) => p.name),
      ),
      processes: this.#processes.map((p) => this.#status.process(p)),
    };
  }

  #describe(payload: Payload): ReturnType<typeof describeMachine> {
    const r = this.#resources;
    const { spec } = this.o;
    const memories = [{ gpa: 0, size: r.lowBytes, fd: r.ram.fd, fdOffset: 0 }];
    if (r.ramBytes > r.lowBytes)
      memories.push({ gpa: 2 ** 32, size: r.ramBytes - r.lowBytes, fd: r.ram.fd, fdOffset: r.lowBytes });
    const rom = payload.rom && {
      gpa: payload.rom.address,
      size: payload.rom.bytes.length,
      fd: r.blob('firmware', payload.rom.bytes).fd,
      fdOffset: 0,
      readonly: true,
    };
    return describeMachine({
      accel: spec.accel,
      cpus: spec.cpus,
      boot: payload.plan,
      startPaused: true,
      vmPage: r.vmPage.fd,
      pageMap: r.pageMap.fd,
      memories: rom ? [...memories, rom] : memories,
      ...this.#part,
    });
  }

  #vcpuEvent(e: VcpuEvent): void {
    const at = Date.now();
    const name = (i: number): string => this.#processes[i]?.name ?? `process ${i}`;
    switch (e.op) {
      case ControlEvent.machineEvent:
        this.#machineEvent(machineEvents[e.a], e.b);
        break;
      case ControlEvent.tripleFault:
        this.#emit({ type: 'machine', at, event: 'tripleFault', vcpu: e.a });
        this.o.log('warn', 'triple fault', { vcpu: e.a, rip: `0x${e.b.toString(16)}` });
        if (this.o.spec.onTripleFault === 'reset') this.#guestReset();
        else if (this.o.spec.onTripleFault === 'stop') this.#stop();
        else
          this.#fail(
            new NyxError('GUEST_FAILED', { got: `triple fault of vCPU ${e.a} at 0x${e.b.toString(16)}` }),
          );
        break;
      case ControlEvent.violation: {
        const p = this.#processes[e.a];
        if (!p) break;
        p.violations++;
        this.o.log('warn', 'protocol violation', { process: p.name, what: e.b });
        p.kill(`protocol violation ${e.b}`);
        break;
      }
      case ControlEvent.waiting:
      case ControlEvent.answered:
        this.#emit({ type: 'wait', at, process: name(e.a), ns: e.b, over: e.op === ControlEvent.answered });
        break;
      case ControlEvent.internalError:
        this.#fail(
          new NyxError('VCPU_ERROR', { got: `${e.text || `exit ${e.a}`} at 0x${e.b.toString(16)}` }),
        );
        break;
      case ControlEvent.rejected:
        this.#fail(rejection(e.text));
        break;
    }
  }

  #machineEvent(event: (typeof machineEvents)[number] | undefined, vcpu: number): void {
    if (!event) return;
    this.#emit({ type: 'machine', at: Date.now(), event, vcpu });
    if (event === 'shutdown') this.#stop();
    else if (event === 'panic')
      this.#fail(new NyxError('GUEST_FAILED', { got: 'the guest reported a panic' }));
    else if (event === 'reset' && this.o.spec.onReset === 'stop') this.#stop();
    // There is no waking from S3 yet: a guest that suspends starts anew, as after a power loss in that state.
    else this.#guestReset();
  }

  #guestReset(): void {
    if (!this.#life.can('resetting')) return;
    this.#life.go('resetting');
    this.#restart().catch((e) => this.#fail(asNyxError(e)));
  }

  /** All vCPUs stand still: boot anew. */
  async #restart(): Promise<void> {
    this.#exec.reset('the machine was reset');
    this.#resets++;
    this.#loader.load();
    for (const p of this.#processes) p.forgive();
    await this.#vcpu!.reset();
    await this.#vcpu!.resume();
    if (this.#life.state === 'resetting') this.#life.go('running');
  }

  #powerButton(): void {
    // The ACPI power button; a guest that runs our agent is asked by that as well, for it may have no ACPI daemon.
    this.#resources.signal('powerButton');
    if (this.#exec.ready)
      this.#exec.run('nyx-poweroff || poweroff', 60, { stdout() {}, stderr() {}, end() {}, error() {} });
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
    clearInterval(this.#watch);
    for (const p of this.#processes) p.stop();
    this.#spares.close();
    this.#vcpu?.quit();
    // What it wrote is in shared memory; it has nothing to save.
    this.#vcpu?.child.kill();
    for (const c of this.#consoles) c.close();
    this.#exec.close('the machine has stopped');
    this.#execServer.close();
    this.#life.go(state);
    void this.#clients.close().then(() => {
      for (const done of this.#ended) done();
      this.o.onEnd(state, error);
    });
  }

  #changed(from: Status['state'], to: Status['state']): void {
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
      this.o.log(e.type === 'death' || e.type === 'isolated' ? 'warn' : 'info', e.type, e);
    this.o.onEvent(e);
  }

  #mark(name: string): void {
    this.#milestones[name] = Math.round(performance.now() * 10) / 10;
  }

  #pids(): void {
    const pids = this.#processes.flatMap((p) => (p.pid ? [{ role: p.name, pid: p.pid }] : []));
    for (const c of this.#spares.children) pids.push({ role: 'spare', pid: c.pid });
    if (this.#vcpu) pids.push({ role: 'nyx-vcpu', pid: this.#vcpu.pid });
    this.o.onPids(pids);
  }
}
