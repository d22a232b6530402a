/**
 * Which locality has the TPM: the same rules for both interfaces (PTP 1.05, 6.5.2.4 and 6.5.3.4). Who asks while another has it waits;
 * a higher one seizes it; while a command runs, it is handed over when that has been aborted.
 */
import { localities } from './identity.ts';
import type { Requests } from './requests.ts';

/** `active`: nobody has it. */
export const nobody = 0xff;
/** Locality 4 belongs to the processor's dynamic launch; a chipset keeps software away from it. */
export const hardware = localities - 1;

export const bit = (locality: number): number => 1 << locality;

/** Of the state of each interface. */
export interface LocalityState {
  active: number;
  /** Who gets it when the command under way has ended. */
  next: number;
  /** As bits: who waits; who has lost it to a seizure; who is about to seize it. */
  requests: number;
  seized: number;
  seizing: number;
  dropped: number;
  valid: number;
}

export class Localities {
  constructor(
    private readonly s: LocalityState,
    private readonly requests: () => Requests,
    /** Software may use locality 4: for tests, and firmware that launches by itself. */
    private readonly hardwareOpen: boolean,
    private readonly executes: () => boolean,
    /** Another one, or nobody, has it now. */
    private readonly changed: (next: number) => void,
  ) {}

  /** Whether the registers of a locality do anything. */
  open(l: number): boolean {
    return this.s.valid === 1 && (l !== hardware || this.hardwareOpen);
  }

  request(l: number): void {
    const { s } = this;
    if (s.active === l) return;
    if (s.active === nobody) this.activate(l);
    else s.requests |= bit(l);
  }

  relinquish(l: number): void {
    const { s } = this;
    if (s.active !== l) s.requests &= ~bit(l);
    else this.#handOver(s.requests === 0 ? nobody : 31 - Math.clz32(s.requests));
  }

  /** Only from a lower locality, and not against a higher one that seizes as well. */
  seize(l: number): void {
    const { s } = this;
    if (s.active === nobody) this.activate(l);
    else if (l > s.active && s.seizing >> l === 0) {
      s.seizing = bit(l);
      this.#handOver(l);
    }
  }

  #handOver(next: number): void {
    if (!this.executes()) this.activate(next);
    else {
      this.s.next = next;
      this.abort();
    }
  }

  /** Nobody wants the response of the command under way any more. */
  abort(): void {
    if (this.s.dropped !== 0) return;
    this.requests().drop();
    this.requests().cancel();
  }

  activate(next: number): void {
    const { s } = this;
    if (s.seizing !== 0 && s.active !== nobody) s.seized |= bit(s.active);
    s.active = next;
    s.next = nobody;
    s.seizing = 0;
    if (next !== nobody) s.requests &= ~bit(next);
    this.changed(next);
  }
}
