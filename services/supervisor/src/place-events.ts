/** What a machine does about what happens in the places of its device processes. */
import type { VmEvent } from '@nyx/protocol/control';
import type { DeviceProcess } from './device-process.ts';
import type { DeviceProcessEvents } from './device-process-events.ts';
import type { Disks } from './disks.ts';
import type { FaultDesk } from './fault-desk.ts';
import type { ProcessPlan } from './plan.ts';
import type { Verdict } from './policy-book.ts';
import { emptyBlock, failOver, hasStandby, saveBlocks } from './state-files.ts';
import type { Vcpu } from './vcpu.ts';

/** The machine, as far as its places need it. */
export interface PlaceOwner {
  /** Run directory. */
  readonly dir: string;
  readonly desk: FaultDesk;
  readonly disks: Disks;
  vcpu(): Vcpu | undefined;
  place(index: number): DeviceProcess;
  emit(e: VmEvent): void;
  log(level: 'info' | 'error', message: string, detail: object): void;
  /** The set of processes changed. */
  pids(): void;
  /** A number for each state that was saved. */
  nextSaved(): number;
}

/** Whose policies concern a process: its own, then its devices'. */
export const sourcesOf = (plan: ProcessPlan): string[] => [plan.name, ...plan.devices.map((d) => d.name)];

/** A disk that holds failed requests for its other backend gives them up, in a process that tells the guest. */
const releaseHeld = (p: DeviceProcess): void => {
  const holding = p.plan.role.devices.filter(
    (d) => d.fds.standby !== undefined && d.config.werror === 'stop',
  );
  for (const d of holding) d.config = { ...d.config, werror: 'report', rerror: 'report' };
  if (holding.length > 0) p.kill();
};

/** What is done to a device process that lives. */
export const treatPlace = (p: DeviceProcess, { strategy }: Verdict, why: string): void => {
  if (strategy === 'isolate') p.isolate(why);
  else if (strategy === 'failover' && !failOver(p.plan)) p.isolate(`${why}, and there is no other backend`);
  else if (strategy === 'failover') p.renew();
  else if (strategy === 'restart') p.kill();
  else if (/^backend|^resource/.test(why)) releaseHeld(p);
};

export const placeEvents = (plan: ProcessPlan, owner: PlaceOwner): DeviceProcessEvents => {
  const sources = sourcesOf(plan);
  return {
    started: () => owner.pids(),
    died: (pid, reason) => owner.emit({ type: 'death', at: Date.now(), process: plan.name, pid, reason }),
    recovered: (recovery) => {
      owner.vcpu()?.replaced(plan.index);
      owner.emit({ type: 'recovered', at: Date.now(), recovery });
    },
    fault: (kind, pid, what) => owner.desk.raise(kind, { sources, data: { pid, process: plan.name, what } }),
    reported: (report) => {
      const verdict = owner.desk.reported(sources, report);
      if (verdict) treatPlace(owner.place(plan.index), verdict, report.kind);
    },
    told: (event) => {
      // What a disk with another backend holds is done again by the next process: no reason to stop the machine.
      if (event.event !== 'stopped' || !hasStandby(plan, event.device)) owner.disks.events.told(event);
    },
    corrupt: (device, what) => {
      const saved = saveBlocks(owner.dir, plan, owner.nextSaved());
      owner.log('error', 'state corrupt', { process: plan.name, text: what, saved });
      const data = { what: device ? `${device}: ${what}` : what, saved: saved.join(' ') };
      return owner.desk.raise('stateCorruption', { sources, data });
    },
    mayFollow: () => owner.desk.book.restarts('deviceCrash', sources),
    empty: (device) => emptyBlock(plan, device),
    failOver: () => failOver(plan),
    answers: () => owner.vcpu()?.replaced(plan.index),
    isolated: (e, answered) => {
      if (!answered) owner.vcpu()?.isolate(plan.index);
      owner.emit({ type: 'isolated', at: Date.now(), process: plan.name, error: e.toJSON() });
    },
  };
};
