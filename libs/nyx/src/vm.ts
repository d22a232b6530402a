/**
 * A virtual machine, as programs use it:
 *
 *   const vm = await Vm.start({ image: 'debian', memory: '512M' });
 *   const { stdout } = await vm.exec('uname -r');
 *   await vm.kill('disk0');            // the guest does not notice
 *   for await (const e of vm.events()) if (e.type === 'recovered') console.log(e.recovery.ns);
 *   await vm.stop();
 *
 * The machine is a process of its own: it goes on when this program ends, and `Vm.connect(name)` finds it again.
 */
import { connect, type Socket } from 'node:net';
import { join, resolve } from 'node:path';
import type { FaultKind } from '@nyx/protocol';
import { type PolicyRule, type Result, type Status, sockets, type VmEvent } from '@nyx/protocol/control';
import type { DiskFormat } from '@nyx/protocol/disk-formats';
import { NyxError } from '@nyx/protocol/errors';
import type { FaultPlanInput } from '@nyx/protocol/fault-plan';
import { parseSpec, type VmSpec, type VmSpecInput } from '@nyx/protocol/spec';
import { adopt } from './adopt.ts';
import { ControlClient, hasEnded } from './client.ts';
import { type ExecOptions, type ExecResult, execIn } from './exec.ts';
import { resolveImage } from './image.ts';
import { type Launched, launch } from './launch.ts';
import { find, type ProcessId, type RunInfo, signal } from './rundir.ts';

/** Copying a large disk takes long. */
const diskJobSeconds = 24 * 3600;

export interface StartOptions {
  /** Directory that relative paths count from (default: the current one). */
  base?: string;
  /** What is done that takes time, e.g. the building of an image; `fraction` (0..1) of this step, when known. */
  onProgress?(message: string, fraction?: number): void;
}

/** One rule of a plan. */
export type FaultRuleInput = NonNullable<FaultPlanInput['rules']>[number];

export interface Metrics {
  guestInstructions: number;
  guestInstructionsPerSecond: number;
  exits: number;
  exitsPerSecond: number;
  restarts: number;
  /** Nanoseconds that vCPUs waited for devices; the longest wait. */
  waitNs: number;
  maxWaitNs: number;
}

export class Vm {
  readonly #client: ControlClient;

  private constructor(
    readonly name: string,
    /** Run directory: logs, console.log, sockets. */
    readonly dir: string,
    readonly launched: Launched | undefined,
    /** Resolves when the machine has a supervisor: at once, unless it had to get another one; rejects with ADOPTION_FAILED. */
    readonly supervised: Promise<void> = Promise.resolve(),
  ) {
    this.#client = new ControlClient(dir, supervised);
    // Whoever asks the machine something is told.
    supervised.catch(() => {});
  }

  /**
   * Starts a machine and waits until its guest runs.
   * @throws NyxError what is wrong with the specification, its files or the host
   */
  static async start(spec: VmSpecInput | VmSpec, options: StartOptions = {}): Promise<Vm> {
    const vm = await Vm.launch(spec, options);
    await vm.launched!.running;
    return vm;
  }

  /** As `start`, but does not wait: `launched.running` tells. */
  static async launch(spec: VmSpecInput | VmSpec, options: StartOptions = {}): Promise<Vm> {
    const checked = parseSpec(spec);
    const l = await launch(checked, options.base ?? process.cwd(), (dir, s) =>
      resolveImage(s, dir, options.onProgress ?? (() => {})),
    );
    return new Vm(l.name, l.dir, l);
  }

  /**
   * A machine that runs already. Whose supervisor is gone gets another one; requests wait for that, and fail with
   * ADOPTION_FAILED if there can be none. @throws NyxError VM_UNKNOWN, VM_AMBIGUOUS, VM_STATE
   */
  static connect(name?: string): Vm {
    const info = find(name);
    if (info.kind === 'ended') throw hasEnded(info.dir, info);
    return new Vm(info.name, info.dir, undefined, info.kind === 'orphaned' ? adopt(info) : undefined);
  }

  status(): Promise<Status> {
    return this.#client.request('status', {});
  }
  async pause(): Promise<void> {
    await this.#client.request('pause', {}, 15);
  }
  async resume(): Promise<void> {
    await this.#client.request('resume', {}, 15);
  }
  async reset(): Promise<void> {
    await this.#client.request('reset', {}, 60);
  }

  /** Presses the power button; after `timeout` seconds (default 30; 0: at once) ends the machine. @returns whether it had to */
  async stop(timeout = 30): Promise<{ forced: boolean }> {
    const result = await this.#client.request('stop', { timeout }, timeout + 15);
    this.#client.close();
    return result;
  }

  /** SIGKILL to the process of a device, by the device's or the process's name. */
  kill(target: string): Promise<{ process: string; pid: number }> {
    return this.#client.request('kill', { target });
  }

  /** Another build of the program behind a device. @throws NyxError UPGRADE_REFUSED: the old one goes on */
  upgrade(target: string, service: string): Promise<Result<'upgrade'>> {
    return this.#client.request('upgrade', { target, service: resolve(service) }, 60);
  }

  /** Disks, and the files that each consists of. */
  async disks(): Promise<Result<'diskList'>['disks']> {
    return (await this.#client.request('diskList', {})).disks;
  }
  /** Another program, or other files with the same content, behind a disk. @throws NyxError FILE_*, DISK_INVALID, VM_STATE */
  swapBackend(
    name: string,
    o: { path?: string; format?: DiskFormat; service?: string },
  ): Promise<Result<'diskSwap'>> {
    const paths = {
      ...(o.path === undefined ? {} : { path: resolve(o.path) }),
      ...(o.service === undefined ? {} : { service: resolve(o.service) }),
    };
    return this.#client.request('diskSwap', { name, ...o, ...paths }, diskJobSeconds);
  }
  /** A new image over a disk (`path`), or a snapshot inside its qcow2 image. @throws NyxError */
  snapshotDisk(
    name: string,
    o: { path: string } | { create: string } | { remove: string },
  ): Promise<Result<'diskSwap'>> {
    const place = 'path' in o ? { path: resolve(o.path) } : o;
    return this.#client.request('diskSnapshot', { name, ...place }, diskJobSeconds);
  }
  /** Makes a disk larger, to `size` bytes or by so many. @throws NyxError */
  resizeDisk(name: string, size: number, relative = false): Promise<Result<'diskResize'>> {
    return this.#client.request('diskResize', { name, size, relative }, diskJobSeconds);
  }
  /** Writes the topmost image of a disk into the one below, and goes on without it. @throws NyxError */
  commitDisk(name: string): Promise<Result<'diskCommit'>> {
    return this.#client.request('diskCommit', { name }, diskJobSeconds);
  }
  /** Copies a disk into a new image while the guest runs, and goes on with that. @throws NyxError */
  mirrorDisk(name: string, path: string, format: DiskFormat): Promise<Result<'diskMirror'>> {
    return this.#client.request('diskMirror', { name, path: resolve(path), format }, diskJobSeconds);
  }

  /** CD drives and their media. */
  async cds(): Promise<Result<'cdList'>['drives']> {
    return (await this.#client.request('cdList', {})).drives;
  }
  /**
   * Takes the medium out of a CD drive (`cd0`; may be left out where there is one).
   * @returns false: the guest has locked the drive, and was asked to eject; with `force` nobody is asked
   */
  async ejectCd(drive?: string, force = false): Promise<boolean> {
    const args = { ...(drive === undefined ? {} : { drive }), force };
    return (await this.#client.request('cdEject', args, 20)).ejected;
  }
  /** Puts an ISO image into a CD drive. @throws NyxError FILE_*, DISK_INVALID, CD_LOCKED, DEVICE_UNKNOWN */
  async insertCd(path: string, drive?: string, force = false): Promise<void> {
    const args = { ...(drive === undefined ? {} : { drive }), path: resolve(path), force };
    await this.#client.request('cdInsert', args, 20);
  }

  /** Makes faults on purpose from now on. @returns ids of the rules. @throws NyxError SPEC_*, DEVICE_UNKNOWN, FAULT_LIMIT */
  async inject(plan: FaultPlanInput | FaultRuleInput): Promise<number[]> {
    const { parseFaultPlan } = await import('@nyx/protocol/fault-file');
    const full = parseFaultPlan('point' in plan ? { rules: [plan] } : plan);
    return (await this.#client.request('faultAdd', full)).ids;
  }
  /** Rules in force with what they did, and the newest faults. */
  faults(): Promise<Result<'faultList'>> {
    return this.#client.request('faultList', {});
  }
  /** Ends a rule, or all. @returns how many. @throws NyxError FAULT_UNKNOWN */
  async heal(id?: number): Promise<number> {
    return (await this.#client.request('faultRemove', id === undefined ? {} : { id })).removed;
  }

  /** Takes a checkpoint in memory, disks included; it replaces the last. @throws NyxError CHECKPOINT_REFUSED: the guest goes on */
  checkpoint(): Promise<Result<'checkpoint'>> {
    return this.#client.request('checkpoint', {}, diskJobSeconds);
  }
  checkpoints(): Promise<Result<'checkpointList'>> {
    return this.#client.request('checkpointList', {});
  }
  /** Lets the checkpoint go; what the guest wrote since stays. @throws NyxError CHECKPOINT_NONE */
  async dropCheckpoint(): Promise<void> {
    await this.#client.request('checkpointRemove', {}, diskJobSeconds);
  }
  /** The machine goes on where it was at the checkpoint. @throws NyxError CHECKPOINT_NONE */
  rollback(): Promise<Result<'rollback'>> {
    return this.#client.request('rollback', {}, diskJobSeconds);
  }

  /** Brings the process of a device back that was isolated or given up. False: it serves. */
  async healDevice(target: string): Promise<boolean> {
    return (await this.#client.request('heal', { target })).healed;
  }

  /** What is done about faults: every rule in force. */
  async policy(): Promise<PolicyRule[]> {
    return (await this.#client.request('policyGet', {})).rules;
  }
  /**
   * From now on, for a kind of fault; for one device or process (`source`) if given. What a rule leaves out stays.
   * @throws NyxError POLICY_INVALID, DEVICE_UNKNOWN
   */
  async setPolicy(kind: FaultKind, rule: string | Record<string, unknown>, source?: string): Promise<void> {
    await this.#client.request('policySet', { kind, rule, ...(source === undefined ? {} : { source }) });
  }
  /** What the machine file says again: of one kind, one source, or everything. */
  async resetPolicy(kind?: FaultKind, source?: string): Promise<void> {
    await this.#client.request('policyReset', {
      ...(kind === undefined ? {} : { kind }),
      ...(source === undefined ? {} : { source }),
    });
  }

  /** The newest events, oldest first. */
  async history(): Promise<VmEvent[]> {
    return (await this.#client.request('history', {})).events as VmEvent[];
  }

  /** Runs a command in the guest. @throws NyxError EXEC_NO_AGENT when nothing in the guest listens, EXEC_TIMEOUT */
  async exec(command: string, options: ExecOptions = {}): Promise<ExecResult> {
    await this.supervised;
    return execIn(this.dir, command, options);
  }

  /** The serial console: a stream of raw bytes, both ways. It begins with what was printed last. */
  async console(): Promise<Socket> {
    await this.supervised;
    return new Promise((resolve, reject) => {
      const socket = connect(join(this.dir, sockets.console));
      socket.once('error', (e) =>
        reject(new NyxError('SUPERVISOR_DIED', { expected: 'a console', got: e.message })),
      );
      socket.once('connect', () => {
        socket.removeAllListeners('error');
        resolve(socket);
      });
    });
  }

  /** Events from now on. */
  events(): AsyncGenerator<VmEvent, void, void> {
    return this.#client.events();
  }

  async metrics(): Promise<Metrics> {
    const s = await this.status();
    const sum = (f: (v: Status['vcpus'][number]) => number): number => s.vcpus.reduce((n, v) => n + f(v), 0);
    return {
      guestInstructions: sum((v) => v.instructions),
      guestInstructionsPerSecond: sum((v) => v.instructionsPerSecond),
      exits: sum((v) => Object.values(v.exits).reduce((a, b) => a + b, 0)),
      exitsPerSecond: sum((v) => v.exitsPerSecond),
      restarts: s.processes.reduce((n, p) => n + p.restarts, 0),
      waitNs: sum((v) => v.waitNs),
      maxWaitNs: Math.max(0, ...s.vcpus.map((v) => v.maxWaitNs)),
    };
  }

  /** Frees this program's connections; the machine goes on. */
  close(): void {
    this.#client.close();
    this.launched?.unref();
  }
}

/** Ends a machine without its supervisor's help: all of its processes that are known, and its directory's claim. */
export const forceStop = (info: RunInfo): ProcessId[] => info.pids.filter((p) => signal(p, 'SIGKILL'));
