/**
 * What devices tell the supervisor about faults, so that many of a kind are one message: the first goes out at once; those
 * that come within a quarter of a second after it go out together, as the newest with their count.
 */
import type { FaultData, FaultReport, ReportedFault } from '@nyx/protocol';

const quietMs = 250;

export class Reporter {
  /** Of kind and device: what came since the last message. transient: counts begin anew with a process. */
  readonly #quiet = new Map<string, { report: FaultReport; count: number } | undefined>();

  constructor(readonly send: (report: FaultReport) => void) {}

  readonly raise = (device: string, kind: ReportedFault, data: FaultData): void => {
    const key = `${kind}/${device}`;
    const report: FaultReport = { type: 'fault', kind, device, data };
    const held = this.#quiet.get(key);
    if (held) {
      held.report = report;
      held.count++;
    } else if (this.#quiet.has(key)) this.#quiet.set(key, { report, count: 1 });
    else this.#tell(key, report, 1);
  };

  #tell(key: string, report: FaultReport, count: number): void {
    // A device that counts by itself is believed.
    this.send({ ...report, data: { count, ...report.data } });
    this.#quiet.set(key, undefined);
    setTimeout(() => {
      const held = this.#quiet.get(key);
      this.#quiet.delete(key);
      if (held) this.#tell(key, held.report, held.count);
    }, quietMs).unref();
  }
}
