/** What a place of a device process (device-process.ts) tells its machine, and asks it. */
import type { DeviceEvent, FaultKind, FaultReport } from '@nyx/protocol';
import type { Recovered } from '@nyx/protocol/control';
import type { NyxError } from '@nyx/protocol/errors';
import type { Verdict } from './policy-book.ts';

export interface DeviceProcessEvents {
  /** There is another process. */
  started(): void;
  died(pid: number, reason: string): void;
  /** It serves again: the vCPU process must be told. */
  recovered(r: Recovered): void;
  /** `answered`: somebody answers for it, so that the guest learns of it as its specification says; else nobody does. */
  isolated(e: NyxError, answered: boolean): void;
  /** The device goes on with its other backend, from the next process on; false: it has none. */
  failOver(): boolean;
  /** Somebody answers for a device that was isolated. */
  answers(): void;
  /** Something went wrong with the process: what is done about it. */
  fault(kind: FaultKind, pid: number, what: string): Verdict;
  /** No process can load the state of `device` ('': unknown); the blocks are as it found them. */
  corrupt(device: string, what: string): Verdict;
  /** A device has something to tell; not checked. */
  reported(report: FaultReport): void;
  /** A device has something to say that is no fault. */
  told(event: DeviceEvent): void;
  /** Whether one that crashes may be followed by its successor before anybody is asked. */
  mayFollow(): boolean;
  /** Empties the state block of a device, all of them without a name: it begins anew. */
  empty(device: string): void;
}
