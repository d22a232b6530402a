/**
 * One device process as a place that is always to be filled: whoever runs there may die, hang or misbehave; the place, its
 * memory and its descriptors stay, and a successor gets the same role.
 *
 *   starting --> serving --> dead --> (backoff -->) starting        policy says so, or its budget is spent: isolated
 *
 * What is done about a death is not decided here: `fault` is asked (policy-book.ts). A place that is `dead` stays empty, and
 * vCPUs wait for it, until `heal`.
 *
 * Length: one state machine. What may come at any moment (a death, a reply, a wish, an upgrade, another supervisor) is told apart
 * by the same fields, which nobody else may touch; what could be done without them is in files of its own.
 */
import { Memory, view } from '@nyx/layout';
import { monotonicNs } from '@nyx/native';
import type { DeviceOrder, FaultKind, FaultMessage, Role, RoleReply } from '@nyx/protocol';
import type { ProcessState, Recovered } from '@nyx/protocol/control';
import { asNyxError, errorFromWire, NyxError } from '@nyx/protocol/errors';
import type { Recovery } from '@nyx/protocol/spec';
import { ProcessControl, RingsView } from '@nyx/ring';
import type { DeviceProcessEvents } from './device-process-events.ts';
import type { JailReport } from './jail.ts';
import { type Keeping, noKeeper } from './keeper.ts';
import { type Inheritance, inheritedChild, type KeptLife, type KeptPlace, keptChild } from './kept-place.ts';
import type { ProcessPlan } from './plan.ts';
import { HangDetector } from './recovery.ts';
import type { DeviceChild, Spares } from './spares.ts';
import { canAnswer, StandIn } from './stand-in.ts';
import { Standby, type Successor, takeOver } from './standby.ts';

/** Codes of a `failed` reply that another attempt cannot change. */
const hopeless = /^CONFIG_|^ROLE_/;
/** Milliseconds after a process serves until its standby is started; what has waited for it has the CPU first. */
const standbyDelay = 200;
/** Memory that the host could not give. */
export const busError = 'killed by SIGBUS';

const refused = (process: string, got: string): NyxError =>
  new NyxError('UPGRADE_REFUSED', { expected: `a build that can serve '${process}'`, got });

export class DeviceProcess {
  #state: ProcessState = 'starting';
  restarts = 0;
  violations = 0;
  lastRecovery: Recovered | undefined;
  error: NyxError | undefined;
  readonly control;
  readonly #rings: RingsView;
  readonly #hang: HangDetector;
  readonly #standby: Standby;
  #child: DeviceChild | undefined;
  #startTimer: NodeJS.Timeout | undefined;
  #backoff: NodeJS.Timeout | undefined;
  /** Why the present recovery runs, and since when (ns); undefined at the first start. */
  #recovering: { reason: string; since: number } | undefined;
  #reason: string | undefined;
  #kind: FaultKind | undefined;
  /** A device whose state could not be loaded. */
  #corrupt: string | undefined;
  #wished = false;
  /** Who serves was a standby; it took over before we said so. */
  #followed = false;
  #alone = false;
  /** A standby that took over where the policy wants nobody; it was told to die. */
  #unwanted = false;
  /** What was decided about a state that could not be loaded: it begins anew. */
  #decided = false;
  #healing: string | undefined;
  /** Who answers for an isolated device; undefined: nobody shall. */
  #standIn: StandIn | undefined;
  #stopped = false;
  /** Stopped for a checkpoint: nobody is to wonder that it does nothing. */
  #frozen = false;
  /** Somebody changes what the place is, while it is empty. */
  #replacing: { dead(): void } | undefined;
  /** The build that served before, until the new one does. */
  #upgrading: { from: string; error?: NyxError } | undefined;
  /** The new build is about to take over, or has: from now on it is its place. */
  #swapping = false;
  /** The policy wants nobody here. */
  #left = false;
  #successor: { resolve(r: Recovered): void; reject(e: Error): void } | undefined;
  #first: { resolve(): void; reject(e: Error): void } | undefined;

  constructor(
    readonly plan: ProcessPlan,
    readonly spares: Spares,
    readonly rules: Recovery,
    readonly events: DeviceProcessEvents,
    readonly keeper: Keeping = noKeeper,
  ) {
    this.#rings = new RingsView(plan.memory.ring.buffer);
    this.control = view(ProcessControl, new Memory(plan.memory.ring.buffer));
    this.#hang = new HangDetector(rules.hangTimeout * 1000);
    this.#standby = new Standby(plan, spares, () => events.started(), keeper);
  }

  get name(): string {
    return this.plan.name;
  }
  get state(): ProcessState {
    return this.#state;
  }
  private set state(state: ProcessState) {
    this.#state = state;
    this.#keepLife();
  }
  /** Of whoever is there now; undefined without a jail. */
  get jail(): JailReport | undefined {
    return this.#child?.child.jail;
  }
  get pid(): number {
    return this.#child && this.#child.death === undefined ? this.#child.child.pid : 0;
  }
  /** Of the process that will serve next; 0: there is none yet. */
  get standbyPid(): number {
    return this.#standby.pid;
  }
  /** It could take over now. */
  get standbyArmed(): boolean {
    return this.#standby.armed;
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
  kill(reason?: string, kind?: FaultKind): number {
    const pid = this.pid;
    this.#reason = reason;
    this.#kind = kind;
    this.#wished = reason === undefined;
    // What is done about anything but a wish is decided when it is dead.
    if (!this.#wished) this.#standby.allow(false);
    this.#child?.child.kill();
    return pid;
  }

  /**
   * Whoever is there stands still until `thaw`. @throws NyxError CHECKPOINT_REFUSED: it does not
   */
  async freeze(): Promise<void> {
    const child = this.#child;
    if (!child || child.death !== undefined) return;
    this.#frozen = true;
    this.#standby.allow(false);
    if (await child.stand()) return;
    this.thaw();
    throw new NyxError('CHECKPOINT_REFUSED', {
      expected: 'device processes that can be stopped',
      got: this.name,
    });
  }

  thaw(): void {
    this.#frozen = false;
    this.#hang.restart();
    this.#child?.child.kill('SIGCONT');
  }

  /** A successor gets the role as it is now, and not as it was when the standby got it. */
  renew(): void {
    this.#standby.close();
    this.kill();
  }

  /** Takes it out: nobody serves here until `heal`. */
  isolate(why: string): void {
    if (this.#stopped || this.state === 'isolated') return;
    this.#standby.close();
    this.#giveUp(new NyxError('DEVICE_ISOLATED', { got: `'${this.name}': ${why}` }));
    this.#child?.child.kill();
  }

  /** Says something to whoever has the role now; a successor learns it from the role. Descriptors stay the caller's. */
  tell(message: FaultMessage | DeviceOrder, fds: readonly number[] = []): void {
    this.#child?.child.send(Buffer.from(JSON.stringify(message)), fds);
    if (message.type === 'faults') this.#standby.tell(message);
    else {
      // It has the role as it was.
      this.#standby.close();
      this.prepare();
    }
  }

  /**
   * Empties the place, lets `change` happen while nobody is there, and fills it again, whatever became of the change. vCPUs
   * that need the device wait meanwhile. One after the other: several disks and drives may be in one process.
   * @returns how the successor came @throws what `change` threw; NyxError VM_STATE, or why no successor serves
   */
  replace(reason: string, change: () => Promise<void>): Promise<Recovered> {
    const done = this.#replaced.then(() => this.#replace(reason, change));
    this.#replaced = done.catch(() => {});
    return done;
  }
  #replaced: Promise<unknown> = Promise.resolve();

  async #replace(reason: string, change: () => Promise<void>): Promise<Recovered> {
    if (this.#stopped || this.#replacing || this.#first)
      throw new NyxError('VM_STATE', { expected: `'${this.name}' to serve`, got: this.state });
    const since = monotonicNs();
    this.#standby.close();
    await new Promise<void>((dead) => {
      this.#replacing = { dead };
      clearTimeout(this.#backoff);
      if (this.pid === 0) dead();
      else this.#child!.child.kill();
    });
    await new Promise<void>((left) => this.#standby.whenLeft(left));
    if (!this.#stopped) this.state = 'dead';
    this.#standIn = undefined;
    if (reason === 'rollback') this.#corrupt = undefined;
    let failed: { error: unknown } | undefined;
    try {
      await change();
    } catch (error) {
      failed = { error };
    }
    this.#replacing = undefined;
    // The machine may have been stopped meanwhile.
    if ((this.state as ProcessState) === 'stopped')
      throw new NyxError('VM_STATE', { expected: 'a machine that runs', got: 'it stopped' });
    const served = new Promise<Recovered>((resolve, reject) => {
      this.#successor = { resolve, reject };
    });
    this.#again(reason, since, 0);
    const recovered = await served;
    if (failed) throw failed.error;
    return recovered;
  }

  /**
   * Another build of the program serves from now on. It is started and looks at the state while the present one serves;
   * what it cannot load is refused then. `around` may stop the guest when the state will be migrated.
   * @throws NyxError VM_STATE, UPGRADE_REFUSED: the old build serves
   */
  async upgrade(
    service: string,
    around: (migrates: string[], swap: () => Promise<Recovered>) => Promise<Recovered>,
  ): Promise<Recovered & { migrated: string[] }> {
    const child = this.#child;
    if (this.#stopped || this.#replacing || this.#upgrading || this.state !== 'serving' || !child)
      throw new NyxError('VM_STATE', { expected: `'${this.name}' to serve`, got: this.state });
    const { plan } = this;
    const upgrading: { from: string; error?: NyxError } = { from: plan.service };
    this.#upgrading = upgrading;
    plan.service = service;
    try {
      const migrated = await this.#standby.ready(child, this.rules.startTimeout);
      if ((this.state as ProcessState) !== 'serving' || child !== this.#child)
        throw new NyxError('VM_STATE', { expected: `'${this.name}' to serve`, got: this.state });
      const swap = (): Promise<Recovered> => {
        // From here on another supervisor would let the new build take over, too: state may be migrated already.
        this.#swapping = true;
        this.keep();
        this.#keepLife();
        const served = new Promise<Recovered>((resolve, reject) => {
          this.#successor = { resolve, reject };
        });
        this.kill();
        return served;
      };
      const r = await around(migrated, swap);
      if (upgrading.error) throw upgrading.error;
      return { ...r, migrated };
    } catch (e) {
      plan.service = upgrading.from;
      this.#standby.close();
      throw e;
    } finally {
      this.#upgrading = undefined;
      this.#swapping = false;
      this.keep();
      this.#keepLife();
      if (!this.#standby.pid) this.prepare();
    }
  }

  stop(): void {
    this.#stopped = true;
    this.state = 'stopped';
    clearTimeout(this.#startTimer);
    clearTimeout(this.#backoff);
    this.#standby.close();
    this.#child?.child.kill();
  }

  /**
   * Fills a place that is isolated or was left empty: by somebody's wish, or because the machine was reset. State that could
   * not be loaded begins anew; else the successor goes on where the last one stopped. False: somebody is there.
   */
  heal(reason: string): boolean {
    if (this.#stopped || this.#replacing || this.state === 'serving' || this.state === 'starting')
      return false;
    clearTimeout(this.#backoff);
    if (this.pid !== 0) {
      // Somebody answers for it, or was told to die a moment ago; it may write until it is dead.
      this.#healing = reason;
      this.#child?.child.kill();
      return true;
    }
    this.#standIn = undefined;
    if (this.#corrupt !== undefined) this.events.empty(this.#corrupt);
    this.#corrupt = undefined;
    this.#recovering ??= { reason, since: monotonicNs() };
    this.#launch();
    return true;
  }

  /** Called some times a second: kills a process that hangs. `running`: guest time passes. */
  watch(nowMs: number): void {
    if (this.state !== 'serving' || this.#frozen) return;
    this.#standby.allow(this.events.mayFollow());
    const rings = Array.from({ length: this.#rings.rings }, (_, i) => {
      const h = this.#rings.header(i);
      return { head: h.head, tail: h.tail };
    });
    const stuck = this.#hang.look(nowMs, { heartbeat: this.control.heartbeat, rings });
    if (stuck) this.kill(stuck, 'deviceHang');
  }

  #launch(): void {
    this.#left = false;
    this.state = 'starting';
    this.error = undefined;
    this.#standby.whenLeft(() => {
      if (this.state === 'starting') this.#begin();
    });
  }

  #begin(): void {
    let child: DeviceChild;
    try {
      child = this.spares.take(this.plan.service);
    } catch (e) {
      this.#notStarted(e as Error);
      return;
    }
    this.#followed = false;
    this.#alone = false;
    this.#expect(child);
    this.#give(child, this.plan.role, (reply) => this.#reply(child, reply));
    this.events.started();
  }

  /** Gives a role of this place to a child, once another supervisor would know of it. */
  #give(child: DeviceChild, role: Role, onReply: (r: RoleReply) => void): void {
    this.keep();
    this.#keepChild(child);
    child.listen(onReply, (reason) => this.#died(child, reason));
    this.keeper.after(() => child.give(role, this.plan.fds));
  }

  /** The role as it is now; whoever is next gets it, from us or from another supervisor. */
  keep(): void {
    const { role, service, fds, name } = this.plan;
    const place: KeptPlace = { role, service };
    this.keeper.put(`place/${name}`, place, fds);
  }
  #keepChild(child: DeviceChild): void {
    this.keeper.put(`child/${this.name}`, keptChild(child), child.child.descriptors);
  }
  #keepLife(): void {
    const reason = this.#recovering?.reason;
    const from = this.#swapping ? this.#upgrading?.from : undefined;
    const life: KeptLife = {
      state: this.#state,
      restarts: this.restarts,
      violations: this.violations,
      ...(reason === undefined ? {} : { reason }),
      ...(this.error ? { error: this.error.toJSON() } : {}),
      ...(this.#left ? { left: true } : {}),
      ...(this.#corrupt === undefined ? {} : { corrupt: this.#corrupt }),
      ...(from === undefined ? {} : { upgradedFrom: from }),
    };
    this.keeper.put(`life/${this.name}`, life);
  }

  /**
   * Goes on with a place that another supervisor has filled. Whoever serves goes on serving; who was about to is ended, and
   * another begins: where it stood is not known, and begins is all that it has to. What died meanwhile is told as any death.
   * @returns when a build that was about to take over has done so: until then state may be migrated
   */
  inherit({ life, child, standby }: Inheritance): Promise<unknown> | undefined {
    this.restarts = life.restarts;
    this.violations = life.violations;
    this.error = life.error && errorFromWire(life.error);
    this.#corrupt = life.corrupt;
    const { state, reason = 'its supervisor died' } = life;
    const since = monotonicNs();
    const c = child && this.spares.inherit(child.value.service, inheritedChild(child));
    if (c) {
      this.#child = c;
      c.listen(
        (reply) => this.#reply(c, reply),
        (how) => this.#died(c, how),
      );
    }
    const swapping = life.upgradedFrom !== undefined && (state === 'starting' || c?.child.gone === true);
    if (life.upgradedFrom !== undefined && !swapping) this.plan.service = life.upgradedFrom;
    if (standby && standby.value.pid !== child?.value.pid) {
      if (standby.value.service === this.plan.service)
        this.#standby.inherit(standby.value, standby.fds, () =>
          this.state === 'serving' ? this.#child : undefined,
        );
      else this.spares.inherit(standby.value.service, inheritedChild(standby)).child.kill();
    }
    if (swapping) {
      this.#upgrading = { from: life.upgradedFrom! };
      this.#swapping = true;
    }
    const swapped = swapping
      ? new Promise<Recovered>((resolve, reject) => {
          this.#successor = { resolve, reject };
        })
          .catch(() => {})
          .finally(() => {
            this.#upgrading = undefined;
            this.#swapping = false;
            this.keep();
            this.#keepLife();
          })
      : undefined;
    switch (state) {
      case 'serving':
        if (!c) break;
        // Our predecessor may have died while it took a checkpoint, and have left it stopped.
        c.child.kill('SIGCONT');
        this.state = 'serving';
        this.prepare();
        return swapped;
      case 'starting':
        if (!c) break;
        this.state = 'starting';
        this.#recovering = { reason, since };
        if (swapping) {
          takeOver(c);
          this.#startTimer = setTimeout(() => this.#silent(), this.rules.startTimeout * 1000);
        } else this.kill();
        return swapped;
      case 'isolated': {
        this.state = 'isolated';
        const answered = this.#answerable();
        if (c) c.child.kill();
        else if (answered) this.#answer();
        return undefined;
      }
      case 'dead':
        if (!life.left) break;
        this.#left = true;
        this.state = 'dead';
        this.#recovering = { reason, since };
        return undefined;
    }
    this.state = 'dead';
    this.#recovering = { reason, since };
    // Whoever is there still was told to die.
    if (c) this.kill();
    else this.#again(reason, since, 0);
    return swapped;
  }

  /** The standby is who serves. */
  #succeed({ child, claimed, replies }: Successor): void {
    this.state = 'starting';
    this.error = undefined;
    this.#followed = true;
    this.#alone = claimed;
    this.#expect(child);
    this.#keepChild(child);
    child.listen(
      (reply) => this.#reply(child, reply),
      (reason) => this.#died(child, reason),
    );
    // One that has decided itself does not need it; who told us so may have been a supervisor before us.
    takeOver(child);
    this.events.started();
    for (const r of replies) this.#reply(child, r);
  }

  #expect(child: DeviceChild): void {
    this.#child = child;
    this.#startTimer = setTimeout(() => this.#silent(), this.rules.startTimeout * 1000);
  }

  /** Has somebody ready for the next death. */
  prepare(delay = standbyDelay): void {
    if (this.rules.standby)
      this.#standby.prepare(delay, () => (this.state === 'serving' ? this.#child : undefined));
    this.spares.keep(this.plan.service, this.rules.spares, delay);
  }

  /** The host had no process for us. */
  #notStarted(e: Error): void {
    this.events.reported({
      type: 'fault',
      kind: 'resourceExhausted',
      device: this.plan.devices[0]!.name,
      data: { what: e.message.slice(0, 200) },
    });
    if (this.#first) this.#giveUp(asNyxError(e));
    else this.#failed('deviceStart', 0, e.message, monotonicNs());
  }

  #reply(child: DeviceChild, reply: RoleReply): void {
    if (child !== this.#child || this.#stopped || reply.type === 'ready' || reply.type === 'armed') return;
    if (reply.type === 'device') {
      this.events.told(reply);
      return;
    }
    if (reply.type === 'fault') {
      this.events.reported(reply);
      return;
    }
    clearTimeout(this.#startTimer);
    if (reply.type === 'failed') {
      const what = `${reply.code}: ${reply.message}`;
      this.error = new NyxError('DEVICE_FAILED', { got: `${this.name}: ${what}` });
      this.#reason = what;
      this.#kind = reply.code.startsWith('RING_') ? 'ringCorruption' : 'deviceStart';
      // The state is as it was: the old build takes it back when this one is dead.
      if (this.#upgrading) this.#upgrading.error = refused(this.name, what);
      else if (reply.code.startsWith('STATE_')) this.#lost(reply.device ?? '', what, this.error);
      else if (hopeless.test(reply.code)) this.#giveUp(this.error);
      child.child.kill();
      return;
    }
    if (this.#swapping && this.#upgrading && !this.#first) this.#swapping = false;
    this.state = 'serving';
    for (const device of reply.repaired)
      this.events.reported({ type: 'fault', kind: 'stateRepaired', device, data: { device } });
    this.#hang.restart();
    this.#first?.resolve();
    this.#first = undefined;
    const r = this.#recovering;
    this.#recovering = undefined;
    if (!r) return;
    this.prepare();
    this.lastRecovery = {
      process: this.name,
      reason: r.reason,
      restarts: this.restarts,
      // A standby that took over by itself has not waited for us.
      ns: this.#alone ? reply.attachNs : monotonicNs() - r.since,
      attachNs: reply.attachNs,
      republished: reply.republished,
      standby: this.#followed,
    };
    this.events.recovered(this.lastRecovery);
    this.#successor?.resolve(this.lastRecovery);
    this.#successor = undefined;
  }

  #silent(): void {
    const e = new NyxError('DEVICE_SILENT', {
      expected: `'${this.name}' to serve within ${this.rules.startTimeout} s`,
      got: 'no answer',
    });
    this.error = e;
    this.kill('never answered', 'deviceStart');
  }

  #died(child: DeviceChild, how: string): void {
    if (child !== this.#child || this.#stopped) return;
    clearTimeout(this.#startTimer);
    const reason = this.#reason ?? how;
    const since = monotonicNs();
    this.#reason = undefined;
    this.keeper.drop(`child/${this.name}`);
    this.events.died(child.child.pid, reason);
    if (this.#replacing) {
      this.#replacing.dead();
      return;
    }
    if (this.#unwanted) {
      this.#unwanted = false;
      if (!this.#heal() && this.state === 'isolated' && this.#standIn) this.#answer();
      return;
    }
    if (this.#first) {
      this.#giveUp(
        this.error ?? new NyxError('DEVICE_FAILED', { got: `'${this.name}' ${reason} before it served` }),
      );
      return;
    }
    if (this.state === 'isolated') {
      if (!this.#heal() && this.#standIn) this.#answer();
      return;
    }
    if (this.#upgrading && this.state === 'starting') {
      this.#upgrading.error ??= refused(this.name, reason);
      this.plan.service = this.#upgrading.from;
      this.#kind = undefined;
      this.#again(reason, since, 0);
      return;
    }
    const kind = this.#kind ?? (how === busError ? 'memoryFault' : 'deviceCrash');
    this.#kind = undefined;
    const wished = this.#wished;
    this.#wished = false;
    // Its state is empty now, and what is to be done was decided when that was found.
    if (this.#decided) {
      this.#decided = false;
      this.#again(reason, since, 0);
      return;
    }
    if (wished) this.#again(reason, since, 0);
    else this.#failed(kind, child.child.pid, reason, since);
  }

  /** Nobody is there, and what is done about it is a matter of policy. */
  #failed(kind: FaultKind, pid: number, reason: string, since: number): void {
    const verdict = this.events.fault(kind, pid, reason);
    this.state = 'dead';
    switch (verdict.strategy) {
      case 'isolate':
        this.#dismiss();
        this.#giveUp(
          new NyxError('DEVICE_CRASH_LOOP', {
            expected: verdict.escalated ? 'fewer failures than the budget allows' : 'a process that serves',
            got: `'${this.name}' ${reason}${verdict.escalated ? ' again' : ''}`,
          }),
        );
        return;
      case 'failover':
        // The standby knows the old backend.
        if (this.events.failOver()) {
          if (this.#dismiss()) this.#healing = reason;
          else this.#again(reason, since, verdict.wait);
          return;
        }
        this.#dismiss();
        this.#giveUp(new NyxError('DEVICE_ISOLATED', { got: `'${this.name}' has no other backend` }));
        return;
      case 'restart':
      case 'reset':
      case 'rollback':
        this.#again(reason, since, verdict.wait);
        return;
      default:
        // Stays empty: `heal` fills it, `nyx resume` too.
        this.#dismiss();
        this.#recovering ??= { reason, since };
        this.#left = true;
        this.#keepLife();
    }
  }

  /** Nobody is to follow now. True: one did, by itself, and dies; `#died` goes on then. */
  #dismiss(): boolean {
    const successor = this.#standby.take(false);
    if (!successor) return false;
    const { child, claimed } = successor;
    this.#unwanted = claimed;
    if (claimed) {
      this.#child = child;
      child.listen(
        () => {},
        (how) => this.#died(child, how),
      );
    }
    child.child.kill();
    return claimed;
  }

  /** Somebody wanted it while the last one was still dying. */
  #heal(): boolean {
    const healing = this.#healing;
    this.#healing = undefined;
    if (healing !== undefined) this.heal(healing);
    return healing !== undefined;
  }

  #again(reason: string, since: number, wait: number): void {
    this.restarts++;
    this.#recovering ??= { reason, since };
    if (this.#upgrading && !this.#successor) this.plan.service = this.#upgrading.from;
    const successor = this.#standby.take(true);
    if (successor) {
      this.#succeed(successor);
      return;
    }
    this.state = wait > 0 ? 'backoff' : 'dead';
    if (wait > 0) this.#backoff = setTimeout(() => this.#launch(), wait);
    else this.#launch();
  }

  /** State that cannot be loaded. */
  #lost(device: string, what: string, e: NyxError): void {
    const { strategy } = this.events.corrupt(device, what);
    this.#corrupt = device;
    if (this.#first || !['restart', 'reset', 'rollback'].includes(strategy)) {
      this.#giveUp(e);
      return;
    }
    this.events.empty(device);
    this.#corrupt = undefined;
    this.#decided = true;
  }

  #giveUp(e: NyxError): void {
    this.state = 'isolated';
    this.error = e;
    if (this.#first) {
      this.#first.reject(e);
      this.#first = undefined;
      return;
    }
    this.#successor?.reject(e);
    this.#successor = undefined;
    // A place that is still being left is filled when it is empty (#died).
    const answered = this.#answerable();
    this.events.isolated(e, answered);
    if (answered && this.pid === 0) this.#answer();
  }

  /** Has somebody who answers for the devices, and does nothing. */
  #answer(): void {
    const give = (child: DeviceChild, role: Role, onReply: (r: RoleReply) => void): void => {
      this.#child = child;
      this.#give(child, role, (reply) => {
        if (child === this.#child && this.state === 'isolated') onReply(reply);
      });
    };
    if (!this.#stopped && this.#standIn?.start(give, () => this.events.answers())) this.events.started();
    else this.events.isolated(this.error ?? new NyxError('DEVICE_ISOLATED'), false);
  }

  /** Nobody serves here; whether somebody shall answer. */
  #answerable(): boolean {
    const { plan, spares, rules } = this;
    const can = this.#corrupt === undefined && canAnswer(plan);
    this.#standIn = can ? new StandIn(plan, spares, rules) : undefined;
    return can;
  }
}
