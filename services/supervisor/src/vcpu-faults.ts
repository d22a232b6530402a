/** What nyx-vcpu tells, as kinds of faults. */
import { EngineFault, type FaultKind, VcpuError } from '@nyx/protocol';
import { NyxError } from '@nyx/protocol/errors';
import { MachineEvent } from '@nyx/ring';
import type { Raised } from './fault-desk.ts';
import type { VcpuEvent } from './vcpu.ts';

/** What the guest does to the machine. There is no waking from S3 yet: it starts anew, as after a power loss in that state. */
export const machineEvents = {
  [MachineEvent.reset]: ['reset', 'guestReset'],
  [MachineEvent.shutdown]: ['shutdown', 'guestShutdown'],
  [MachineEvent.suspend]: ['suspend', 'guestReset'],
  [MachineEvent.panic]: ['panic', 'guestPanic'],
  [MachineEvent.crashLoaded]: ['crashLoaded', 'guestCrashLoaded'],
} as const satisfies Record<number, readonly [string, FaultKind]>;

const engineFaults: Record<number, FaultKind> = {
  [EngineFault.failure]: 'engineFailure',
  [EngineFault.emulation]: 'emulationFailure',
  [EngineFault.entry]: 'entryFailure',
  [EngineFault.exit]: 'unhandledExit',
};

const whatWasBroken: Record<number, string> = {
  [VcpuError.badStatus]: 'a reply has a status that does not exist',
  [VcpuError.badTail]: 'the tail of an exit ring is behind its head by more than the ring has, or before it',
  [VcpuError.badBlock]: 'a state block contradicts itself',
  [VcpuError.badRange]: 'a published range is empty, wraps, or is in no address space',
};

/** What a device process did to the memory that it shares with nyx-vcpu. */
export const violation = (error: number): { kind: FaultKind; what: string } => ({
  kind: error === VcpuError.badTail ? 'ringCorruption' : 'protocolViolation',
  what: whatWasBroken[error] ?? `protocol violation ${error}`,
});

/** Of ControlEvent.internalError: why the engine cannot go on. */
export const engineFault = (e: VcpuEvent): { kind: FaultKind; raised: Raised } => {
  const what = e.text || `exit ${e.a}`;
  return {
    kind: engineFaults[e.c % 256] ?? 'engineFailure',
    raised: {
      data: { vcpu: Math.floor(e.c / 256), rip: e.address, what },
      stopped: true,
      error: new NyxError('VCPU_ERROR', { got: `${what} at ${e.address}` }),
    },
  };
};
