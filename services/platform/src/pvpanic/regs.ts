/**
 * pvpanic (QEMU docs/specs/pvpanic.rst): one port by which a guest tells that it has panicked. Reading gives the events
 * that the device understands.
 */
import { registers, struct, u8 } from '@nyx/layout';

export const PanicEvent = {
  panicked: 1,
  /** The crash kernel is about to run (kdump). */
  crashLoaded: 2,
  /** The guest wants to be powered off. */
  shutdown: 4,
} as const;
export const supported = PanicEvent.panicked | PanicEvent.crashLoaded | PanicEvent.shutdown;

export const pvpanicRegisters = registers('pvpanic', 1, {
  events: {
    at: 0,
    width: 1,
    doc: 'Written: events that happened; read: events that are understood',
    reset: supported,
  },
});

export const PvpanicState = struct('PvpanicState', { last: u8('newest events written') });
