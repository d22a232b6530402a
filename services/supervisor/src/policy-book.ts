/**
 * What is to be done about a fault: rules of the specification and of `nyx policy`, budgets, back-off, escalation. Pure: the
 * clock is an argument. A strategy is taken `budget` times within `window` seconds; after that comes `escalate`.
 */
import { type FaultKind, faultKind, faultNames, type Strategy } from '@nyx/protocol';
import { NyxError } from '@nyx/protocol/errors';
import { type FullRule, type Policy, type Rule, resolveRule } from '@nyx/protocol/policy';
import type { Recovery } from '@nyx/protocol/spec';
import { RestartPolicy } from './recovery.ts';

export interface Verdict {
  strategy: Strategy;
  /** The budget was spent: this is what comes then. */
  escalated: boolean;
  /** Milliseconds to wait before a restart. */
  wait: number;
}

/** A rule in force. */
export interface RuleInForce extends FullRule {
  kind: FaultKind;
  /** Device or process; '' is everything. */
  source: string;
  /** Whether somebody asked for it, or it is what the table says. */
  set: boolean;
}

export class PolicyBook {
  #rules = new Map<string, Rule>();
  /** Strategies that were taken, by group and source. */
  readonly #taken = new Map<string, RestartPolicy>();

  /**
   * @param sources names that rules may be for: devices and processes
   * @throws NyxError DEVICE_UNKNOWN
   */
  constructor(
    readonly spec: Policy,
    readonly recovery: Recovery,
    readonly sources: readonly string[],
    /** Disks that have another backend: they fail over to it, unless the specification says otherwise. */
    readonly standbys: readonly string[] = [],
  ) {
    this.reset();
  }

  /** @throws NyxError DEVICE_UNKNOWN, POLICY_INVALID; nothing was changed then */
  set(kind: FaultKind, rule: Rule, source = ''): void {
    this.#known(source);
    if (source !== '' && faultKind(kind).of !== 'device')
      throw new NyxError('POLICY_INVALID', {
        expected: `a kind of fault that devices have`,
        got: `'${kind}', which is the machine's`,
      });
    this.#rules.set(`${kind}/${source}`, { ...this.#rules.get(`${kind}/${source}`), ...rule });
  }

  /** What the specification says again: for one kind, of one source, or all. @throws NyxError DEVICE_UNKNOWN */
  reset(kind?: FaultKind, source = ''): void {
    this.#known(source);
    const spec = this.#specified();
    if (kind === undefined && source === '') {
      this.#rules = spec;
      return;
    }
    for (const k of kind === undefined ? faultNames : [kind]) {
      const key = `${k}/${source}`;
      const rule = spec.get(key);
      if (rule === undefined) this.#rules.delete(key);
      else this.#rules.set(key, rule);
    }
  }

  /** Rules that were set, and what the specification says, as another supervisor takes them over. */
  get rules(): [string, Rule][] {
    return [...this.#rules];
  }
  /** @throws NyxError DEVICE_UNKNOWN */
  inherit(rules: readonly (readonly [string, Rule])[]): void {
    for (const [key] of rules) this.#known(key.slice(key.indexOf('/') + 1));
    this.#rules = new Map(rules);
  }

  rule(kind: FaultKind, sources: readonly string[]): FullRule {
    let own: Rule | undefined;
    for (const s of sources) own = { ...own, ...this.#rules.get(`${kind}/${s}`) };
    return resolveRule(kind, this.recovery, this.#rules.get(`${kind}/`), own);
  }

  /** One line for each kind, and for each device that has rules of its own. */
  list(): RuleInForce[] {
    const general = faultNames.map((kind) => ({
      kind,
      source: '',
      set: this.#rules.has(`${kind}/`),
      ...this.rule(kind, []),
    }));
    const own = [...this.#rules.keys()].flatMap((key) => {
      const [kind, source] = key.split('/') as [FaultKind, string];
      return source === '' ? [] : [{ kind, source, set: true, ...this.rule(kind, [source]) }];
    });
    return [...general, ...own];
  }

  /** What comes instead of a roll-back that there is no checkpoint for. */
  instead(kind: FaultKind, sources: readonly string[]): Strategy {
    const { escalate } = this.rule(kind, sources);
    return escalate === 'rollback' ? (faultKind(kind).of === 'device' ? 'isolate' : 'fail') : escalate;
  }

  /** Times within the window, counted towards the budget. */
  recent(kind: FaultKind, sources: readonly string[], nowMs: number): number {
    return this.#budget(kind, sources, this.rule(kind, sources)).recent(nowMs);
  }

  /** @param sources the process and its devices; empty for the machine. A rule for any of them counts, the last most. */
  decide(kind: FaultKind, sources: readonly string[], nowMs: number): Verdict {
    const rule = this.rule(kind, sources);
    const wait = this.#budget(kind, sources, rule).died(nowMs);
    if (wait === undefined) return { strategy: rule.escalate, escalated: true, wait: 0 };
    const waits = rule.action === 'restart' || rule.action === 'failover' || rule.action === 'retry';
    return { strategy: rule.action, escalated: false, wait: waits ? wait : 0 };
  }

  /** Whether another process is to serve the same after such a fault, unless the budget is spent. */
  restarts(kind: FaultKind, sources: readonly string[]): boolean {
    return ['restart', 'reset', 'rollback'].includes(this.rule(kind, sources).action);
  }

  /** The budget is full again: of one source, or of all device processes (a machine that resets itself again and again is not forgiven). */
  forgive(source?: string): void {
    for (const key of this.#taken.keys())
      if (source === undefined ? !key.endsWith('/') : key.endsWith(`/${source}`)) this.#taken.delete(key);
  }

  #budget(kind: FaultKind, sources: readonly string[], rule: FullRule): RestartPolicy {
    const key = `${faultKind(kind).group ?? kind}/${sources[0] ?? ''}`;
    let budget = this.#taken.get(key);
    if (!budget) {
      budget = new RestartPolicy(rule);
      this.#taken.set(key, budget);
    }
    budget.rules = rule;
    return budget;
  }

  #known(source: string): void {
    if (source !== '' && !this.sources.includes(source))
      throw new NyxError('DEVICE_UNKNOWN', {
        expected: `one of ${this.sources.join(', ')}`,
        got: `'${source}'`,
      });
  }

  #specified(): Map<string, Rule> {
    const rules = new Map<string, Rule>();
    for (const kind of faultNames) {
      const general = this.spec[kind];
      if (general) rules.set(`${kind}/`, general);
    }
    for (const source of this.standbys)
      for (const kind of ['backendError', 'backendGone'] as const)
        rules.set(`${kind}/${source}`, { action: 'failover', budget: 2, window: 60, escalate: 'ignore' });
    for (const [source, own] of Object.entries(this.spec.devices)) {
      this.#known(source);
      for (const [kind, rule] of Object.entries(own)) if (rule) rules.set(`${kind}/${source}`, rule);
    }
    return rules;
  }
}
