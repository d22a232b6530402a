/** What a machine does about what nyx-vcpu tells. */
import { ControlEvent } from '@nyx/protocol';
import type { VmEvent } from '@nyx/protocol/control';
import type { NyxError } from '@nyx/protocol/errors';
import type { DeviceProcess } from './device-process.ts';
import type { FaultDesk } from './fault-desk.ts';
import { sourcesOf, treatPlace } from './place-events.ts';
import { rejection, type VcpuEvent } from './vcpu.ts';
import { engineFault, machineEvents, violation } from './vcpu-faults.ts';

/** The machine, as far as these need it. */
export interface VcpuOwner {
  readonly desk: FaultDesk;
  place(index: number): DeviceProcess | undefined;
  emit(e: VmEvent): void;
  fail(e: NyxError): void;
  /** The guest has powered off; the vCPU stands still. */
  poweredOff(): void;
}

/** A vCPU has waited so long (ns) for the answer of a device process. */
const slow = (index: number, ns: number, owner: VcpuOwner): void => {
  const p = owner.place(index);
  if (!p) return;
  const verdict = owner.desk.raise('deviceSlow', {
    sources: sourcesOf(p.plan),
    data: { milliseconds: Math.round(ns / 1e6) },
  });
  treatPlace(p, verdict, 'deviceSlow');
};

/** The guest did something to the machine. */
const machineEvent = (number: number, vcpu: number, owner: VcpuOwner): void => {
  const known = machineEvents[number as keyof typeof machineEvents];
  if (!known) return;
  const [event, kind] = known;
  owner.emit({ type: 'machine', at: Date.now(), event, vcpu });
  if (event === 'shutdown') owner.poweredOff();
  owner.desk.raise(kind, { data: { vcpu }, stopped: true });
};

/** vCPUs stand still until somebody decides what is to be. */
export const stopsVcpus = (e: VcpuEvent): boolean =>
  e.op === ControlEvent.machineEvent ||
  e.op === ControlEvent.tripleFault ||
  e.op === ControlEvent.internalError;

export const onVcpuEvent = (e: VcpuEvent, owner: VcpuOwner): void => {
  const at = Date.now();
  switch (e.op) {
    case ControlEvent.machineEvent:
      machineEvent(e.a, e.b, owner);
      break;
    case ControlEvent.tripleFault:
      owner.emit({ type: 'machine', at, event: 'tripleFault', vcpu: e.a });
      owner.desk.raise('tripleFault', { data: { vcpu: e.a, rip: e.address }, stopped: true });
      break;
    case ControlEvent.violation: {
      const p = owner.place(e.a);
      if (!p) break;
      p.violations++;
      const { what, kind } = violation(e.b);
      p.kill(what, kind);
      break;
    }
    case ControlEvent.waiting:
    case ControlEvent.answered: {
      if (e.op === ControlEvent.waiting) slow(e.a, e.b, owner);
      const process = owner.place(e.a)?.name ?? `process ${e.a}`;
      owner.emit({ type: 'wait', at, process, ns: e.b, over: e.op === ControlEvent.answered });
      break;
    }
    case ControlEvent.internalError: {
      const { kind, raised } = engineFault(e);
      owner.desk.raise(kind, raised);
      break;
    }
    case ControlEvent.rejected:
      owner.fail(rejection(e.text));
      break;
  }
};
