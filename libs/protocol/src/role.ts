/**
 * The role that the supervisor gives a device process: which devices it is, and which of the descriptors sent
 * with it is what. One JSON text in one SOCK_SEQPACKET message, descriptors beside it (SCM_RIGHTS), each named
 * by its index. JSON, because a device process loads nothing that it can do without.
 */
import type { DeviceEvent } from './device-message.ts';
import type { FaultReport } from './fault-kinds.ts';
import type { RoleFaults } from './fault-rule.ts';

export interface RoleDevice {
  /** Unique in the VM, e.g. 'disk0'. */
  name: string;
  /** DeviceKind.kind. */
  kind: string;
  /** Device-specific, validated by the device's `create`. */
  config: Record<string, unknown>;
  /** Index of the descriptor of its state block. */
  state: number;
  /** First interrupt entry in the process's interrupt page. */
  irqBase: number;
  /**
   * The device was taken out: its state is kept as it is, its requests stand still, and what the guest asks is answered as
   * the specification says of a device that needs a reset.
   */
  isolated?: boolean;
  /** Added to the counts that the device tells of its interrupts, which began anew when its state was emptied. */
  irqShift?: number[];
  /** For lines: GSI per interrupt source that the process itself delivers to its own PIC/IOAPIC; else absent. */
  gsi?: Record<string, number>;
  /** Name to descriptor index: backing file, console ring, input eventfd ... */
  fds: Record<string, number>;
}

export interface Role {
  type: 'role';
  version: 1;
  vm: string;
  process: string;
  devices: RoleDevice[];
  /** Descriptor indices. */
  ring: number;
  kick: number;
  irqPage: number;
  irqEvent: number;
  vmPage: number;
  /** With `ram` alone: what is written there is told in it. */
  pageMap?: number;
  /** Guest memory; absent in a process none of whose devices does DMA. */
  ram?: number;
  ramLowBytes: number;
  ramBytes: number;
  log?: number;
  /** Faults on purpose; see fault-rule.ts. */
  faults?: RoleFaults;
  /** Somebody serves: prepare everything, and take over when that process is gone. */
  standby?: Standby;
}

/** Descriptor indices. */
export interface Standby {
  /** pidfd of who serves. */
  predecessor: number;
  /**
   * eventfd that holds 1 while the standby may take over by itself: whoever reads the 1, the standby or the supervisor,
   * decides who is next.
   */
  claim: number;
}

/** To a standby that does not claim the role, because the supervisor was first. */
export interface TakeOver {
  type: 'takeOver';
}

/** Device process to supervisor. */
export type RoleReply =
  /** The pid is that of its own namespace. */
  | { type: 'ready'; pid: number }
  /** A standby has prepared everything; these devices' state is of an older version, and will be migrated. */
  | { type: 'armed'; process: string; migrates: string[] }
  | {
      type: 'serving';
      process: string;
      epoch: number;
      attachNs: number;
      republished: number;
      repaired: string[];
      /** Layers of the jail that it could not add to those of nyx-jail, each with the reason. */
      missing: string[];
    }
  /** `device`: whose role it is that could not be taken, where that is known. */
  | { type: 'failed'; process: string; code: string; message: string; device?: string }
  | FaultReport
  | DeviceEvent;
