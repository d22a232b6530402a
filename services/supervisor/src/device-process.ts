/**
 * One device process as a place that is always to be filled: whoever runs there may die, hang or misbehave; the place, its
 * memory and its descriptors stay, and a successor gets the same role.
 *
 *   starting --> serving --> dead --> (backoff -->) starting        budget spent, or state that cannot be loaded: isolated
 */
import { Memory, view } from '@nyx/layout';
import { monotonicNs } from '@nyx/native';
import type { FaultMessage, RoleReply } from '@nyx/protocol';
import type { ProcessState, Recovered } from '@nyx/protocol/control';
import { NyxError } from '@nyx/protocol/errors';
import type { Recovery } from '@nyx/protocol/spec';
import { ProcessControl, RingsView } from '@nyx/ring';
import type { JailReport } from './jail.ts';
import type { ProcessPlan } from './plan.ts';
import { HangDetector, RestartPolicy } from './recovery.ts';
import type { DeviceChild, Spares } from './spares.ts';

export interface DeviceProcessEvents {
  started(pid: number): void;
  died(pid: number, reason: string): void;
  /** It serves again: the vCPU process must be told. */
  recovered(r: Recovered): void;
  isolated(e: NyxError): void;
  /** No process can load the state; the blocks are as it found them. */
  corrupt(code: string, message: string): void;
}

/** Codes of a `failed` reply that another attempt cannot change. */
const hopeless = /^STATE_|^CONFIG_|^ROLE_/;

export class DeviceProcess {
  state: ProcessState = 'starting';
  restarts = 0;
  violations = 0;
  lastRecovery: Recovered | undefined;
  error: NyxError | undefined;
  readonly control;
  readonly #rings: RingsView;
  readonly #hang: HangDetector;
  readonly #policy: RestartPolicy;
  #child: DeviceChild | undefined;
  #startTimer: NodeJS.Timeout | undefined;
  #backoff: NodeJS.Timeout | undefined;
  /** Why the present recovery runs, and since when (ns); undefined at the first start. */
  #recovering: { reason: string; since: number } | undefined;
  #reason: string | undefined;
  #wished = false;
  #stopped = false;
  #first: { resolve(): void; reject(e: Error): void } | undefined;

  constructor(
    readonly plan: ProcessPlan,
    readonly spares: Spares,
    readonly rules: Recovery,
    readonly events: DeviceProcessEvents,
  ) {
    this.#rings = new RingsView(plan.memory.ring.buffer);
    this.control = view(ProcessControl, new Memory(plan.memory.ring.buffer));
    this.#policy = new RestartPolicy(rules);
    this.#hang = new HangDetector(rules.hangTimeout * 1000);
  }

  get name(): string {
    return this.plan.name;
  }
  /** Of whoever is there now; undefined without a jail. */
  get jail(): JailReport | undefined {
    return this.#child?.child.jail;
  }
  get pid(): number {
    return this.#child && this.#child.death === undefined ? this.#child.child.pid : 0;
  }

  /** The first start. @throws NyxError DEVICE_FAILED, DEVICE_SILENT: what fails now would fail again. */
  start(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#first = { resolve, reject };
      this.#launch();
    });
  }

  /**
   * Ends whoever is there; the successor starts. `reason` is what the report will say. Without one it is somebody's wish, which
   * counts neither for the budget nor for the back-off.
   */
  kill(reason?: string): number {
    const pid = this.pid;
    this.#reason = reason;
    this.#wished = reason === undefined;
    this.#child?.child.kill();
    return pid;
  }

  /** Says something to whoever has the role now; a successor learns it from the role. */
  tell(message: FaultMessage): void {
    this.#child?.child.send(Buffer.from(JSON.stringify(message)));
  }

  stop(): void {
    this.#stopped = true;
    this.state = 'stopped';
    clearTimeout(this.#startTimer);
    clearTimeout(this.#backoff);
    this.#child?.child.kill();
  }

  /** After a reset of the machine: an isolated process gets another chance, the budget is full again. */
  forgive(): void {
    this.#policy.clear();
    if (this.state === 'isolated' && !this.#stopped) {
      this.#recovering = { reason: 'reset', since: monotonicNs() };
      this.#launch();
    }
  }

  /** Called some times a second: kills a process that hangs. `running`: guest time passes. */
  watch(nowMs: number): void {
    if (this.state !== 'serving') return;
    const rings = Array.from({ length: this.#rings.rings }, (_, i) => {
      const h = this.#rings.header(i);
      return { head: h.head, tail: h.tail };
    });
    const stuck = this.#hang.look(nowMs, { heartbeat: this.control.heartbeat, rings });
    if (stuck) this.kill(stuck);
  }

  #launch(): void {
    this.state = 'starting';
    this.error = undefined;
    const child = this.spares.take(this.plan.service);
    // At the machine's start it is the machine that sees to spares, once its guest runs.
    if (!this.#first) this.spares.keep(this.plan.service, 200);
    this.#child = child;
    this.#startTimer = setTimeout(() => this.#silent(), this.rules.startTimeout * 1000);
    child.assign(
      this.plan.role,
      this.plan.fds,
      (reply) => this.#reply(child, reply),
      (reason) => this.#died(child, reason),
    );
    this.events.started(child.child.pid);
  }

  #reply(child: DeviceChild, reply: RoleReply): void {
    if (child !== this.#child || this.#stopped || reply.type === 'ready') return;
    clearTimeout(this.#startTimer);
    if (reply.type === 'failed') {
      this.error = new NyxError('DEVICE_FAILED', { got: `${this.name}: ${reply.code}: ${reply.message}` });
      this.#reason = `${reply.code}: ${reply.message}`;
      if (reply.code.startsWith('STATE_')) this.events.corrupt(reply.code, reply.message);
      if (hopeless.test(reply.code)) this.#giveUp(this.error);
      child.child.kill();
      return;
    }
    this.state = 'serving';
    this.#hang.restart();
    this.#first?.resolve();
    this.#first = undefined;
    const r = this.#recovering;
    this.#recovering = undefined;
    if (!r) return;
    this.lastRecovery = {
      process: this.name,
      reason: r.reason,
      restarts: this.restarts,
      ns: monotonicNs() - r.since,
      attachNs: reply.attachNs,
      republished: reply.republished,
    };
    this.events.recovered(this.lastRecovery);
  }

  #silent(): void {
    const e = new NyxError('DEVICE_SILENT', {
      expected: `'${this.name}' to serve within ${this.rules.startTimeout} s`,
      got: 'no answer',
    });
    this.error = e;
    this.kill('never answered');
  }

  #died(child: DeviceChild, how: string): void {
    if (child !== this.#child || this.#stopped) return;
    clearTimeout(this.#startTimer);
    const reason = this.#reason ?? how;
    const since = monotonicNs();
    this.#reason = undefined;
    this.events.died(child.child.pid, reason);
    if (this.#first) {
      this.#giveUp(
        this.error ?? new NyxError('DEVICE_FAILED', { got: `'${this.name}' ${reason} before it served` }),
      );
      return;
    }
    if (this.state === 'isolated') return;
    const wait = this.#wished ? 0 : this.#policy.died(Date.now());
    this.#wished = false;
    if (wait === undefined) {
      this.#giveUp(
        new NyxError('DEVICE_CRASH_LOOP', {
          expected: `at most ${this.rules.budget} restarts in ${this.rules.window} s`,
          got: `'${this.name}' ${reason} again`,
        }),
      );
      return;
    }
    this.restarts++;
    this.#recovering ??= { reason, since };
    this.state = wait > 0 ? 'backoff' : 'dead';
    if (wait > 0) this.#backoff = setTimeout(() => this.#launch(), wait);
    else this.#launch();
  }

  #giveUp(e: NyxError): void {
    this.state = 'isolated';
    this.error = e;
    if (this.#first) {
      this.#first.reject(e);
      this.#first = undefined;
    } else this.events.isolated(e);
  }
}
