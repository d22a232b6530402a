/**
 * The FIFO interface (PTP 1.05, 6.5.2): who may talk to the TPM, a command byte by byte, its response byte by byte.
 */
import { withLevel } from '@nyx/device';
import type { View } from '@nyx/layout';
import { Op } from '../engine.ts';
import { localities } from '../identity.ts';
import { bit, hardware, Localities, nobody } from '../localities.ts';
import { bufferBytes, type Requests } from '../requests.ts';
import { Access, burstMax, Interrupt, Phase, Status, StatusHigh, type TisState, vectors } from './regs.ts';

const ones = 0xff;

export class Tis {
  readonly #localities: Localities;

  constructor(
    private readonly s: View<typeof TisState>,
    private readonly requests: () => Requests,
    /** Software may use locality 4: for tests, and firmware that launches by itself. */
    private readonly hardwareOpen: boolean,
  ) {
    const executes = (): boolean => s.phase === Phase.execution;
    this.#localities = new Localities(s, requests, hardwareOpen, executes, (next) => {
      this.#toPhase(Phase.idle);
      if (next !== nobody) this.#raise(Interrupt.localityChange);
    });
  }

  reset(): void {
    const { s } = this;
    for (let l = 0; l < localities; l++) s.enable.set(l, Interrupt.levelLow);
    this.requests().start(Op.init, 0, 0);
    this.#lines();
    this.#publish();
  }

  private open(l: number): boolean {
    return this.#localities.open(l);
  }

  // ---- TPM_ACCESS ----

  writeAccess(l: number, value: number): void {
    const { s } = this;
    if (!this.open(l)) return;
    if (value & Access.active) this.#localities.relinquish(l);
    if (value & Access.beenSeized) s.seized &= ~bit(l);
    if (value & Access.seize) this.#localities.seize(l);
    if (value & Access.requestUse) this.#localities.request(l);
    this.#publish();
  }

  // ---- TPM_STS ----

  writeStatus(l: number, value: number): void {
    const { s } = this;
    if (s.active !== l || !this.open(l)) return;
    // One at a time: what the specification forbids to combine is ignored.
    switch (value & (Status.commandReady | Status.go | Status.responseRetry)) {
      case Status.commandReady:
        this.#commandReady();
        break;
      case Status.go:
        if (s.phase === Phase.reception && !this.#expects()) {
          const length = s.at;
          this.#toPhase(Phase.execution);
          this.requests().start(Op.command, l, length);
        }
        break;
      case Status.responseRetry:
        if (s.phase === Phase.completion) s.at = 0;
        break;
    }
    this.#publish();
  }

  #commandReady(): void {
    const { s } = this;
    if (s.phase === Phase.execution) {
      // Aborted: ready for the same locality when it has ended.
      if (s.dropped === 0) s.next = s.active;
      this.#localities.abort();
      return;
    }
    const wasReady = s.phase === Phase.ready;
    this.#toPhase(Phase.ready);
    if (!wasReady) this.#raise(Interrupt.commandReady);
  }

  writeStatusHigh(l: number, value: number): void {
    const { s } = this;
    if (s.active !== l || !this.open(l)) return;
    if (value & StatusHigh.cancel && s.phase === Phase.execution) this.requests().cancel();
    if (value & StatusHigh.resetEstablishment && l >= 3) s.established = 0;
    this.#publish();
  }
  readStatusHigh(l: number): number {
    return this.s.active === l ? StatusHigh.family2 : ones;
  }

  /** Bytes that may be transferred without asking again. */
  burst(l: number): number {
    const { s } = this;
    if (s.active !== l) return ones;
    let n = 0;
    if (s.phase === Phase.completion) n = s.length - s.at;
    else if (s.phase === Phase.ready || s.phase === Phase.reception) n = bufferBytes - s.at;
    return Math.min(burstMax, n);
  }
  burstHigh(l: number): number {
    return this.s.active === l ? 0 : ones;
  }

  #expects(): boolean {
    const { at } = this.s;
    if (at < 6) return true;
    const b = this.requests().buffer;
    const size = ((b[2]! << 24) | (b[3]! << 16) | (b[4]! << 8) | b[5]!) >>> 0;
    return at < Math.min(size, bufferBytes);
  }

  // ---- TPM_DATA_FIFO ----

  writeData(l: number, value: number): void {
    const { s } = this;
    if (l === hardware && s.hashing !== 0) {
      this.#hashData(value);
      return;
    }
    if (s.active !== l || !this.open(l)) return;
    if (s.phase === Phase.ready) this.#toPhase(Phase.reception);
    if (s.phase !== Phase.reception || !this.#expects()) return;
    this.requests().buffer[s.at] = value;
    s.at++;
    if (!this.#expects()) this.#raise(Interrupt.stsValid);
    this.#publish();
  }

  readData(l: number): number {
    const { s } = this;
    if (s.active !== l || s.phase !== Phase.completion || s.at >= s.length) return ones;
    const value = this.requests().buffer[s.at]!;
    s.at++;
    if (s.at === s.length) this.#raise(Interrupt.stsValid);
    this.#publish();
    return value;
  }

  /** The engine's response to a command is there, or a measurement has ended. */
  answered(op: number, response: Uint8Array, dropped: boolean): void {
    const { s } = this;
    if (op === Op.command && s.phase === Phase.execution) {
      if (dropped) {
        const { active, next } = s;
        if (next === active) {
          s.next = nobody;
          this.#toPhase(Phase.ready);
          this.#raise(Interrupt.commandReady);
        } else this.#localities.activate(next);
      } else {
        this.#toPhase(Phase.completion);
        s.length = Math.min(response.length, bufferBytes);
        this.requests().buffer.set(response.subarray(0, s.length));
        this.#raise(Interrupt.stsValid | Interrupt.dataAvail);
      }
    }
    this.#publish();
  }

  // ---- measurement by hardware (PTP 1.05, 5.5.2.1) ----

  hashStart(): void {
    const { s } = this;
    if (!this.open(hardware) || this.requests().busy) return;
    // Whoever had the TPM has lost it.
    if (s.active !== nobody && s.active !== hardware) s.seizing = bit(hardware);
    this.#localities.activate(hardware);
    s.established = 1;
    s.hashing = 1;
    s.hashAt = 0;
    this.#publish();
  }
  #hashData(value: number): void {
    const { s } = this;
    if (s.hashing !== 1) return;
    if (this.requests().hash(s.hashAt, value)) s.hashAt++;
    // Half a measurement is none.
    else s.hashing = 2;
  }
  hashEnd(): void {
    const { s } = this;
    if (s.hashing === 1) this.requests().start(Op.drtm, hardware, s.hashAt);
    s.hashing = 0;
    this.#publish();
  }

  // ---- interrupts ----

  readEnable(l: number): number {
    return this.s.enable.get(l);
  }
  writeEnable(l: number, value: number): void {
    const { s } = this;
    if (s.active !== l) return;
    s.enable.set(l, (value & (Interrupt.global | Interrupt.all | Interrupt.polarity)) >>> 0);
    this.#lines();
  }
  get vector(): number {
    return this.s.vector;
  }
  readStatus(l: number): number {
    return this.s.status.get(l);
  }
  writeIntStatus(l: number, value: number): void {
    const { s } = this;
    if (s.active !== l) return;
    s.status.set(l, s.status.get(l) & ~value);
    this.#lines();
  }
  writeVector(l: number, value: number): void {
    const { s } = this;
    if (s.active !== l) return;
    s.vector = value & (vectors - 1);
    this.#lines();
  }

  #raise(which: number): void {
    const { s } = this;
    const l = s.active;
    if (l === nobody) return;
    const enabled = s.enable.get(l);
    if (!(enabled & Interrupt.global) || !(enabled & which)) return;
    s.status.set(l, s.status.get(l) | (enabled & which));
    this.#lines();
  }
  #lines(): void {
    const { s } = this;
    let asserted = false;
    for (let l = 0; l < localities; l++)
      if (s.enable.get(l) & Interrupt.global && s.status.get(l) & s.enable.get(l)) asserted = true;
    for (let v = 0; v < vectors; v++)
      s.irq.set(v, withLevel(s.irq.get(v), asserted && v === s.vector && v !== 0 && v !== 2));
  }

  // ----

  #toPhase(phase: number): void {
    this.s.phase = phase;
    this.s.at = 0;
    this.s.length = 0;
  }

  #status(): number {
    const { s } = this;
    let value: number = Status.valid | Status.selfTestDone;
    if (s.phase === Phase.ready) value |= Status.commandReady;
    if (s.phase === Phase.reception && this.#expects()) value |= Status.expect;
    if (s.phase === Phase.completion && s.at < s.length) value |= Status.dataAvail;
    return value;
  }
  #access(l: number): number {
    const { s } = this;
    let value = 0;
    if (s.valid) value |= Access.valid;
    if (!s.established) value |= Access.establishment;
    if (s.active === l) value |= Access.active;
    if (s.seized & bit(l)) value |= Access.beenSeized;
    if (s.requests & bit(l)) value |= Access.requestUse;
    if (s.requests & ~bit(l)) value |= Access.pendingRequest;
    return value;
  }
  /** What the vCPU process answers by itself. */
  #publish(): void {
    const { s } = this;
    s.access_0 = this.#access(0);
    s.access_1 = this.#access(1);
    s.access_2 = this.#access(2);
    s.access_3 = this.#access(3);
    s.access_4 = this.hardwareOpen ? this.#access(4) : ones;
    const status = this.#status();
    s.sts_0 = s.active === 0 ? status : ones;
    s.sts_1 = s.active === 1 ? status : ones;
    s.sts_2 = s.active === 2 ? status : ones;
    s.sts_3 = s.active === 3 ? status : ones;
    s.sts_4 = s.active === 4 ? status : ones;
  }
}
