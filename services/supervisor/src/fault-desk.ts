/**
 * Where faults of a machine end up, whoever noticed: counted, told as an event, answered by the policy, and, when they are
 * serious, written down for a person (report.ts). What is done to a device process is done by its place
 * (device-process.ts), which asks here; what is done to the machine is done from here.
 */
import {
  type FaultData,
  type FaultKind,
  type FaultReport,
  faultKind,
  reportedFaults,
  type Strategy,
} from '@nyx/protocol';
import type { PolicyRule, VmEvent, VmState } from '@nyx/protocol/control';
import { asNyxError, NyxError } from '@nyx/protocol/errors';
import { describe, type Fault, FaultLog } from './fault-log.ts';
import type { PolicyBook, Verdict } from './policy-book.ts';

/** The machine, as far as faults need it. */
export interface Patient {
  readonly state: VmState;
  guestNs(): number;
  /** Of vCPU `cpu`, all vCPUs standing still; '' when it cannot be had. */
  registers(cpu: number): Promise<string>;
  /** Stops vCPUs, or lets them go on, without a change of the machine's state. */
  halt(): Promise<void>;
  go(): Promise<void>;
  nmi(): void;
  reset(): void;
  /** The machine's state becomes `paused`; vCPUs stand still already. */
  paused(): void;
  /** There is a checkpoint to go back to. */
  canRollBack(): boolean;
  rollBack(): Promise<void>;
  poweroff(): void;
  /** `why`: what went wrong; a guest that powers off is nothing to keep a machine's files for. */
  shutdown(why?: string): void;
  fail(e: NyxError): void;
  emit(e: VmEvent): void;
  /** A report is to be kept. */
  report(f: Fault, registers: string): void;
}

export interface Raised {
  /** The process and its devices; empty: the machine. */
  sources?: readonly string[];
  data?: FaultData;
  /** All vCPUs stand still because of it. */
  stopped?: boolean;
  /** What the machine fails with, if it comes to that. */
  error?: NyxError;
}

const codes = {
  guestPanic: 'GUEST_FAILED',
  tripleFault: 'GUEST_FAILED',
  guestHang: 'GUEST_FAILED',
  watchdogExpired: 'GUEST_FAILED',
  guestReset: 'GUEST_FAILED',
  vcpuCrash: 'VCPU_DIED',
  emulationFailure: 'VCPU_ERROR',
  entryFailure: 'VCPU_ERROR',
  unhandledExit: 'VCPU_ERROR',
  engineFailure: 'VCPU_ERROR',
} as const satisfies Partial<Record<FaultKind, string>>;

/** Kinds whose report wants the registers of a vCPU. */
const wantsRegisters = (kind: FaultKind): boolean => faultKind(kind).of === 'machine' && kind !== 'vcpuCrash';

export class FaultDesk {
  readonly log = new FaultLog();
  /** Newest counts that devices told: they tell again after a crash. */
  readonly #told = new Map<string, number>();
  /** One after the other: each may stop the machine, look at it and let it go on. */
  #work: Promise<void> = Promise.resolve();

  /** Roll-backs so far. */
  #era = 0;
  #active = 0;

  /** Something is being done about a fault. */
  get busy(): boolean {
    return this.#active > 0;
  }

  /** What was told so far, for `back`. */
  mark(): Map<string, number> {
    return new Map(this.#told);
  }

  /** The guest is where it was at `mark`. */
  back(told: ReadonlyMap<string, number>): void {
    this.#era++;
    this.#told.clear();
    for (const [device, count] of told) this.#told.set(device, count);
    this.book.forgive();
  }

  constructor(
    readonly book: PolicyBook,
    readonly patient: Patient,
  ) {}

  /** Something went wrong. What concerns the machine is done soon; what concerns a process is the caller's. */
  raise(kind: FaultKind, raised: Raised = {}): Verdict {
    const { sources = [], data = {}, stopped = false } = raised;
    const { patient } = this;
    const verdict = this.book.decide(kind, sources, performance.now());
    if (verdict.strategy === 'rollback' && !patient.canRollBack()) {
      verdict.strategy = this.book.instead(kind, sources);
      verdict.escalated = true;
    }
    if (patient.state === 'stopping' || patient.state === 'stopped' || patient.state === 'failed')
      return verdict;
    const k = faultKind(kind);
    const fault: Fault = {
      at: Date.now(),
      guestNs: Math.max(0, Math.round(patient.guestNs())),
      kind,
      severity: k.severity,
      source: sources[0] ?? '',
      data,
      strategy: verdict.strategy,
      escalated: verdict.escalated,
    };
    this.log.add(fault);
    patient.emit({ type: 'fault', ...fault });
    // A process that is replaced needs no report: its log ring and the event tell all, and time counts.
    const serious =
      (k.severity === 'error' || k.severity === 'critical') &&
      !(k.of === 'device' && (verdict.strategy === 'restart' || verdict.strategy === 'ignore'));
    if (!stopped && !serious && verdict.strategy === 'ignore') return verdict;
    const era = this.#era;
    this.#active++;
    this.#work = this.#work
      // The guest that had it is not there any more.
      .then(() => (era !== this.#era ? undefined : this.#treat(fault, serious, stopped, raised.error)))
      .catch((e) => patient.fail(asNyxError(e)))
      .finally(() => this.#active--);
    return verdict;
  }

  /** When all that was raised so far has been dealt with. */
  idle(): Promise<void> {
    return this.#work;
  }

  /** A fault that another supervisor has dealt with: it counts, and for budgets, too. */
  recall(fault: Fault, sources: readonly string[]): void {
    const age = Math.max(0, Date.now() - fault.at);
    this.log.add(fault);
    this.book.decide(fault.kind, sources, performance.now() - age);
  }

  /** The policy in force. */
  rules(): PolicyRule[] {
    const now = performance.now();
    return this.book.list().map((r) => ({
      ...r,
      recent: this.book.recent(r.kind, r.source === '' ? [] : [r.source], now),
    }));
  }

  /** What a device process told, or what was noticed in its name. It is not trusted. */
  reported(sources: readonly string[], r: FaultReport): Verdict | undefined {
    if (!reportedFaults.includes(r.kind) && r.kind !== 'stateRepaired') return undefined;
    const kind = r.kind as FaultKind;
    if (!sources.includes(r.device)) return undefined;
    const data: FaultData = { device: r.device };
    for (const [name, type] of Object.entries(faultKind(kind).data)) {
      const v = r.data[name];
      if (name === 'device' || v === undefined) continue;
      const good =
        type === 'number' ? Number.isFinite(v) && Number(v) >= 0 : typeof v === 'string' && v.length <= 200;
      if (!good) return undefined;
      data[name] = v;
    }
    // A watchdog counts in its state and tells after every commit.
    if (kind === 'watchdogExpired') {
      if (data.count === this.#told.get(r.device)) return undefined;
      this.#told.set(r.device, Number(data.count));
    }
    return this.raise(kind, { sources: faultKind(kind).of === 'device' ? sources : [], data });
  }

  async #treat(fault: Fault, serious: boolean, stopped: boolean, error: NyxError | undefined): Promise<void> {
    const { patient } = this;
    let registers = '';
    let halted = stopped;
    const runs = (): boolean => patient.state === 'running';
    if (serious && wantsRegisters(fault.kind)) {
      if (!halted && runs()) {
        halted = await patient.halt().then(
          () => true,
          () => false,
        );
        // vCPUs that do not stop have no registers to show; whenever they do, they shall go on.
        if (!halted) patient.go().catch(() => {});
      }
      if (halted) registers = await patient.registers(Number(fault.data.vcpu ?? 0));
    }
    if (serious) patient.report(fault, registers);
    await this.#act(fault, fault.strategy, halted, error);
  }

  async #act(fault: Fault, strategy: Strategy, halted: boolean, error?: NyxError): Promise<void> {
    const { patient } = this;
    const words = describe(fault.kind, fault.data);
    switch (strategy) {
      case 'pause':
        if (patient.state !== 'running') return;
        if (!halted) await patient.halt();
        patient.paused();
        return;
      case 'reset':
        patient.reset();
        return;
      case 'rollback':
        await patient.rollBack();
        return;
      case 'shutdown':
        if (fault.severity === 'info') patient.shutdown();
        else patient.shutdown(`${fault.kind}: ${words}`);
        return;
      case 'fail': {
        const code = codes[fault.kind as keyof typeof codes] ?? 'DEVICE_FAILED';
        patient.fail(
          error ??
            new NyxError(code, { got: `${fault.kind}${fault.source && ` of ${fault.source}`}: ${words}` }),
        );
        return;
      }
      case 'poweroff':
        patient.poweroff();
        break;
      case 'nmi':
        patient.nmi();
        break;
    }
    if (halted && patient.state === 'running') await patient.go();
  }
}
