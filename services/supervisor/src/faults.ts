/**
 * Faults on purpose, as the supervisor keeps them: which rules are in force, which process each concerns, what each has
 * done (from the fault pages). Device processes are told at once, and their successors with the role.
 */
import { Faults as FaultPageView, type FaultRecord, faultWire } from '@nyx/device';
import type { FaultMessage, FaultRule, Role } from '@nyx/protocol';
import type { FaultStatus } from '@nyx/protocol/control';
import { NyxError } from '@nyx/protocol/errors';
import { type FaultEntry, type FaultPlan, ruleOf } from '@nyx/protocol/fault-plan';

/** What is needed of a device process. */
export interface FaultTarget {
  readonly name: string;
  readonly devices: readonly { readonly name: string }[];
  readonly role: Role;
  readonly page: ArrayBuffer;
  tell(message: FaultMessage): void;
}

export interface KeptFaults {
  next: number;
  rules: { id: number; entry: FaultEntry; rule: FaultRule; targets: string[] }[];
}

interface Active {
  id: number;
  entry: FaultEntry;
  rule: FaultRule;
  targets: Place[];
}
interface Place {
  target: FaultTarget;
  view: FaultPageView;
}

export class FaultBook {
  readonly #places: Place[];
  #active: Active[] = [];
  #next = 1;

  /** @param changed other rules are in force, or will be with the next process */
  constructor(
    targets: readonly FaultTarget[],
    readonly changed: () => void = () => {},
  ) {
    this.#places = targets.map((target) => ({ target, view: new FaultPageView(target.page) }));
  }

  /** What another supervisor needs to go on with the rules that are in force. */
  get kept(): KeptFaults {
    const rules = this.#active.map(({ id, entry, rule, targets }) => ({
      id,
      entry,
      rule,
      targets: targets.map((p) => p.target.name),
    }));
    return { next: this.#next, rules };
  }
  /** Device processes have them already. */
  inherit({ next, rules }: KeptFaults): void {
    this.#next = next;
    this.#active = rules.map((r) => ({
      ...r,
      targets: this.#places.filter((p) => r.targets.includes(p.target.name)),
    }));
  }

  /** @returns ids. @throws NyxError DEVICE_UNKNOWN, FAULT_LIMIT; nothing was changed then */
  add(plan: FaultPlan): number[] {
    const added = plan.rules.map((entry): Active => {
      const { device } = entry;
      const targets = this.#places.filter(
        ({ target: t }) =>
          device === '*' ||
          (entry.point === 'process' && t.name === device) ||
          t.devices.some((d) => d.name === device),
      );
      if (targets.length === 0)
        throw new NyxError('DEVICE_UNKNOWN', {
          expected: `one of ${this.#places.flatMap((p) => p.target.devices.map((d) => d.name)).join(', ')}`,
          got: `'${device}'`,
        });
      return { id: 0, entry, rule: ruleOf(entry, plan.seed, 0), targets };
    });
    const used = new Set(this.#active.map((a) => a.rule.slot));
    const free = Array.from({ length: faultWire.slots }, (_, i) => i).filter((i) => !used.has(i));
    if (free.length < added.length)
      throw new NyxError('FAULT_LIMIT', {
        expected: `at most ${faultWire.slots} rules in force`,
        got: `${used.size} and ${added.length} more`,
      });
    for (const a of added) {
      a.id = this.#next++;
      a.rule.slot = free.shift()!;
      for (const { view } of a.targets) view.clear(a.rule.slot);
    }
    this.#active.push(...added);
    this.#tell();
    return added.map((a) => a.id);
  }

  /** One rule, or all. @returns how many. @throws NyxError FAULT_UNKNOWN */
  remove(id?: number): number {
    const before = this.#active.length;
    if (id !== undefined && !this.#active.some((a) => a.id === id))
      throw new NyxError('FAULT_UNKNOWN', {
        expected: before ? `one of ${this.#active.map((a) => a.id).join(', ')}` : 'a rule in force',
        got: String(id),
      });
    this.#active = id === undefined ? [] : this.#active.filter((a) => a.id !== id);
    this.#tell();
    return before - this.#active.length;
  }

  list(): FaultStatus[] {
    return this.#active.map(({ id, entry, rule, targets }) => {
      const counts = targets.map(({ view }) => view.count(rule.slot));
      return {
        id,
        rule: { ...entry },
        processes: targets.map((p) => p.target.name),
        matches: counts.reduce((n, c) => n + c.matches, 0),
        fired: counts.reduce((n, c) => n + c.fired, 0),
      };
    });
  }

  /** Faults that happened, of the newest 1024 of each process: rule, number of the match, device. */
  happened(): { id: number; process: string; device: string; match: number; guestNs: number }[] {
    const idOf = new Map(this.#active.map((a) => [a.rule.slot, a.id]));
    return this.#places
      .flatMap(({ target, view }) =>
        view.list().map((r: FaultRecord) => ({
          id: idOf.get(r.slot) ?? 0,
          process: target.name,
          device: target.devices[r.device]?.name ?? '',
          match: r.match,
          guestNs: r.guestNs,
        })),
      )
      .filter((r) => r.id !== 0);
  }

  #tell(): void {
    for (const { target } of this.#places) {
      const rules = this.#active.filter((a) => a.targets.some((p) => p.target === target)).map((a) => a.rule);
      if (!target.role.faults) continue;
      if (rules.length === 0 && target.role.faults.rules.length === 0) continue;
      target.role.faults.rules = rules;
      target.tell({ type: 'faults', rules });
    }
    this.changed();
  }
}
