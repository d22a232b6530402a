/** Faults of a machine, as they were told: how often each, the newest in full, and what was done. */
import { type FaultData, type FaultKind, faultKind, type Severity, type Strategy } from '@nyx/protocol';

export interface Fault {
  /** Unix milliseconds. */
  at: number;
  guestNs: number;
  kind: FaultKind;
  severity: Severity;
  /** Device process; '' is the machine. */
  source: string;
  data: FaultData;
  strategy: Strategy;
  escalated: boolean;
}

export interface FaultCount {
  kind: FaultKind;
  source: string;
  /** Faults; where one report stands for many, all of them. */
  count: number;
  last: number;
}

/** Faults kept in full. */
const kept = 256;

export class FaultLog {
  readonly #counts = new Map<string, FaultCount>();
  readonly #recent: Fault[] = [];
  /** The newest that is an error or worse. */
  worst: Fault | undefined;

  add(f: Fault): void {
    const key = `${f.kind}/${f.source}`;
    const c = this.#counts.get(key);
    const n =
      typeof f.data.count === 'number' && faultKind(f.kind).severity !== 'critical' ? f.data.count : 1;
    if (c) {
      c.count += n;
      c.last = f.at;
    } else this.#counts.set(key, { kind: f.kind, source: f.source, count: n, last: f.at });
    if (f.severity === 'error' || f.severity === 'critical') this.worst = f;
    this.#recent.push(f);
    if (this.#recent.length > kept) this.#recent.shift();
  }

  get counts(): FaultCount[] {
    return [...this.#counts.values()];
  }
  /** Oldest first. */
  get recent(): readonly Fault[] {
    return this.#recent;
  }
}

/** A fault's data as words. */
export const describe = (kind: FaultKind, data: FaultData): string => {
  const fields = faultKind(kind).data;
  return Object.entries(data)
    .filter(([name]) => name in fields)
    .map(([name, v]) => {
      if (name === 'what') return String(v);
      return `${name} ${v}`;
    })
    .join(', ');
};
