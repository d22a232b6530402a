/** What is known of a machine beside its parts: its state, what happened to it, and how far it came. Kept for a nyxd after us. */
import type { Fingerprint, Status, VmEvent } from '@nyx/protocol/control';
import { errorFromWire, type NyxError } from '@nyx/protocol/errors';
import { type KeptMachine, type KeptSpec, loggedEvents } from './adoption.ts';
import { type Keeping, noKeeper } from './keeper.ts';
import { layouts } from './layouts.ts';
import { Lifecycle } from './lifecycle.ts';
import type { MachineOptions } from './machine-options.ts';
import type { DeviceLine } from './wiring.ts';

/** Events kept for whoever comes later. */
const historyLength = 512;

/** A deterministic machine always begins on 2025-01-01. */
const fixedWallClock = Date.UTC(2025, 0, 1) / 1000;

export class MachineRecord {
  readonly life = new Lifecycle((from, to) => this.#changed(from, to));
  readonly keeper: Keeping;
  /** UTC seconds at guest time 0. */
  readonly wallClock: number;
  /** By name, when it was reached: ms since this process started. */
  readonly milestones: Record<string, number> = {};
  resets = 0;
  /** State blocks that were refused. */
  corrupt = 0;
  /** Unix milliseconds: somebody wants the machine to end by then. */
  stopBy: number | undefined;
  /** The fault that ended the machine. */
  endedBy: string | undefined;
  error: NyxError | undefined;
  fingerprint: Fingerprint | undefined;
  readonly #history: VmEvent[] = [];

  /** `agent`: whether the guest's agent listens. */
  constructor(
    private readonly o: MachineOptions,
    private readonly agent: () => boolean,
  ) {
    this.mark('code');
    this.keeper = o.keeper ?? noKeeper;
    this.wallClock =
      o.heritage?.what.wallClock ?? (o.spec.deterministic ? fixedWallClock : Math.floor(Date.now() / 1000));
  }

  /** What the machine is. */
  keepSpec(lines: readonly DeviceLine[]): void {
    const what: KeptSpec = { layouts, spec: this.o.spec, lines: [...lines], wallClock: this.wallClock };
    this.keeper.put('spec', what);
  }

  /** How it stands. */
  keep(): void {
    const how: KeptMachine = {
      state: this.life.state,
      since: this.life.since,
      resets: this.resets,
      corrupt: this.corrupt,
      milestones: this.milestones,
      agent: this.agent(),
      ...(this.stopBy === undefined ? {} : { stopBy: this.stopBy }),
      ...(this.endedBy === undefined ? {} : { endedBy: this.endedBy }),
      ...(this.error ? { error: this.error.toJSON() } : {}),
    };
    this.keeper.put('machine', how);
  }

  /** Goes on with what another nyxd has kept. */
  inherit(how: KeptMachine): void {
    this.life.inherit(how.state, how.since);
    this.resets = how.resets;
    this.corrupt = how.corrupt;
    this.endedBy = how.endedBy;
    this.error = how.error && errorFromWire(how.error);
    Object.assign(this.milestones, how.milestones);
  }

  /** Takes the events of a log, which another nyxd has written, for its own. */
  recall(log: string): readonly VmEvent[] {
    const events = loggedEvents(log, historyLength);
    this.#history.push(...events);
    return events;
  }

  emit(e: VmEvent): void {
    const warns =
      e.type === 'death' || e.type === 'isolated' || (e.type === 'fault' && e.severity !== 'info');
    if (e.type !== 'state') this.o.log(warns ? 'warn' : 'info', e.type, e);
    this.#history.push(e);
    if (this.#history.length > historyLength) this.#history.shift();
    this.o.onEvent(e);
  }

  /** The newest events, oldest first. */
  get history(): readonly VmEvent[] {
    return this.#history;
  }

  mark(milestone: string): void {
    this.milestones[milestone] = Math.round(performance.now() * 10) / 10;
  }

  #changed(from: Status['state'], to: Status['state']): void {
    this.keep();
    this.o.log('info', `${from} -> ${to}`);
    this.emit({
      type: 'state',
      at: Date.now(),
      from,
      to,
      ...(to === 'failed' && this.error ? { error: this.error.toJSON() } : {}),
    });
  }
}
