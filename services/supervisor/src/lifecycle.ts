/**
 * The states of a machine and the legal ways between them:
 *
 *   created --> starting --> running <--> paused
 *                  |          |    \        |
 *                  |          v     \       v
 *                  |      resetting <-------+      (and back to running)
 *                  |          |             |
 *                  +----------+---> stopping <-----+
 *                  |                   |
 *                  v                   v
 *               failed  <-----------  stopped
 *          (from every state          (the end)
 *           but stopped)
 */
import type { VmState } from '@nyx/protocol/control';
import { NyxError } from '@nyx/protocol/errors';

export const transitions: Readonly<Record<VmState, readonly VmState[]>> = {
  created: ['starting', 'stopping', 'failed'],
  starting: ['running', 'stopping', 'failed'],
  running: ['paused', 'resetting', 'stopping', 'failed'],
  paused: ['running', 'resetting', 'stopping', 'failed'],
  resetting: ['running', 'stopping', 'failed'],
  stopping: ['stopped', 'failed'],
  stopped: [],
  failed: [],
};

export const isFinal = (s: VmState): boolean => transitions[s].length === 0;

/** Holds the state; whoever changes it does so here and is told when it may not. */
export class Lifecycle {
  #state: VmState = 'created';
  /** Unix milliseconds of the last change. */
  since = Date.now();
  readonly #changed: (from: VmState, to: VmState) => void;

  constructor(changed: (from: VmState, to: VmState) => void) {
    this.#changed = changed;
  }

  get state(): VmState {
    return this.#state;
  }

  /** The machine was in that state already when we took it over. */
  inherit(state: VmState, since: number): void {
    this.#state = state;
    this.since = since;
  }

  can(to: VmState): boolean {
    return transitions[this.#state].includes(to);
  }

  /** @throws NyxError VM_STATE when the way is not in the table. */
  go(to: VmState): void {
    const from = this.#state;
    if (!this.can(to))
      throw new NyxError('VM_STATE', { expected: `a state that may become ${to}`, got: from });
    this.#state = to;
    this.since = Date.now();
    this.#changed(from, to);
  }

  /** @throws NyxError VM_STATE unless the state is one of these. */
  require(...states: VmState[]): void {
    if (!states.includes(this.#state))
      throw new NyxError('VM_STATE', { expected: states.join(' or '), got: this.#state });
  }
}
