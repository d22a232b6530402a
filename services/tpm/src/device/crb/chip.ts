/**
 * The command response buffer interface (PTP 1.05, 6.5.3): who may talk to the TPM, a command in the buffer, start, the
 * response in its place.
 */
import type { View } from '@nyx/layout';
import { Op } from '../engine.ts';
import { bit, Localities, nobody } from '../localities.ts';
import type { Requests } from '../requests.ts';
import { type CrbState, dataBytes, LocControl, LocState, LocStatus, Phase, Request, Status } from './regs.ts';

const ones = 0xff;

export class Crb {
  readonly #localities: Localities;

  constructor(
    private readonly s: View<typeof CrbState>,
    private readonly requests: () => Requests,
    hardwareOpen: boolean,
  ) {
    const executes = (): boolean => s.phase === Phase.execution;
    this.#localities = new Localities(s, requests, hardwareOpen, executes, () => this.#toPhase(Phase.idle));
  }

  reset(): void {
    this.requests().start(Op.init, 0, 0);
    this.#publish();
  }

  private open(l: number): boolean {
    return this.#localities.open(l);
  }

  // ---- localities ----

  writeLocControl(l: number, value: number): void {
    const { s } = this;
    if (!this.open(l)) return;
    if (value & LocControl.resetEstablishment && l >= 3) s.established = 0;
    if (value & LocControl.relinquish) this.#localities.relinquish(l);
    if (value & LocControl.seize) this.#localities.seize(l);
    if (value & LocControl.request && s.active !== l) {
      s.seized &= ~bit(l);
      this.#localities.request(l);
    }
    this.#publish();
  }

  // ---- control area ----

  /** Both at once is forbidden, and ignored; so is either while a command runs. */
  writeRequest(l: number, value: number): void {
    const { s } = this;
    if (s.active !== l || s.phase === Phase.execution) return;
    const asked = value & (Request.commandReady | Request.goIdle);
    if (asked === Request.commandReady) this.#toPhase(Phase.ready);
    else if (asked === Request.goIdle) this.#toPhase(Phase.idle);
    this.#publish();
  }

  writeStart(l: number, value: number): void {
    const { s } = this;
    if (s.active !== l || !(value & 1) || !this.open(l)) return;
    if (s.phase === Phase.idle || s.phase === Phase.execution) return;
    const b = this.requests().buffer;
    const size = ((b[2]! << 24) | (b[3]! << 16) | (b[4]! << 8) | b[5]!) >>> 0;
    s.error = 0;
    s.phase = Phase.execution;
    // A size that cannot be is for the TPM to refuse.
    this.requests().start(Op.command, l, Math.max(10, Math.min(size, dataBytes)));
    this.#publish();
  }

  writeCancel(l: number, value: number): void {
    const { s } = this;
    if (s.active !== l) return;
    this.#setCancel(value >>> 0);
    if (value !== 0 && s.phase === Phase.execution) this.requests().cancel();
  }

  // ---- the buffer ----

  readData(l: number, at: number): number {
    const { s } = this;
    if (s.active !== l || s.phase === Phase.execution) return ones;
    return this.requests().buffer[at]!;
  }

  writeData(l: number, at: number, value: number): void {
    const { s } = this;
    if (s.active !== l || !this.open(l)) return;
    if (s.phase === Phase.execution) return;
    // Not only from ready: SeaBIOS sends its first command without having asked for that.
    if (s.phase !== Phase.reception) {
      this.#toPhase(Phase.reception);
      this.#publish();
    }
    this.requests().buffer[at] = value;
  }

  answered(op: number, response: Uint8Array, dropped: boolean): void {
    const { s } = this;
    if (op === Op.command && s.phase === Phase.execution) {
      if (dropped) this.#localities.activate(s.next);
      else {
        s.phase = Phase.completion;
        s.length = Math.min(response.length, dataBytes);
        s.error = response.length > dataBytes ? 1 : 0;
        this.requests().buffer.set(response.subarray(0, s.length));
      }
    }
    this.#publish();
  }

  #toPhase(phase: number): void {
    this.s.phase = phase;
    this.s.length = 0;
    this.s.error = 0;
  }

  #locState(l: number): number {
    const { s } = this;
    if (!this.open(l)) return s.valid ? 0xffff_ffff : 0;
    let value: number = LocState.valid;
    if (!s.established) value |= LocState.establishment;
    if (s.active !== nobody) value |= LocState.assigned | (s.active << LocState.activeShift);
    return value;
  }
  #locStatus(l: number): number {
    const { s } = this;
    return (s.active === l ? LocStatus.granted : 0) | (s.seized & bit(l) ? LocStatus.beenSeized : 0);
  }
  #setCancel(value: number): void {
    const { s } = this;
    s.cancel_0 = s.cancel_1 = s.cancel_2 = s.cancel_3 = s.cancel_4 = value;
  }
  /** What the vCPU process answers by itself. */
  #publish(): void {
    const { s } = this;
    s.locState_0 = this.#locState(0);
    s.locState_1 = this.#locState(1);
    s.locState_2 = this.#locState(2);
    s.locState_3 = this.#locState(3);
    s.locState_4 = this.#locState(4);
    s.locStatus_0 = this.#locStatus(0);
    s.locStatus_1 = this.#locStatus(1);
    s.locStatus_2 = this.#locStatus(2);
    s.locStatus_3 = this.#locStatus(3);
    s.locStatus_4 = this.#locStatus(4);
    const status = (s.phase === Phase.idle ? Status.idle : 0) | (s.error ? Status.error : 0);
    s.status_0 = s.status_1 = s.status_2 = s.status_3 = s.status_4 = status;
    const start = s.phase === Phase.execution ? 1 : 0;
    s.start_0 = s.start_1 = s.start_2 = s.start_3 = s.start_4 = start;
  }
}
