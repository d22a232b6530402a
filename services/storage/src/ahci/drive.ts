/** What is at the other end of a port: a disk (ata.ts) or a CD drive (atapi.ts). */
import type { GuestMemory } from '@nyx/device';
import { type BlockDriver, BlockResult } from '../block/block.ts';
import { type Command, Protocol, type SlotRequest, Verdict } from './command.ts';
import { AtaError, Status } from './regs.ts';

/** What a drive needs of the controller. */
export interface DriveContext {
  readonly memory: GuestMemory;
  now(): number;
}

export interface Drive {
  /** PxSIG, and count and LBA of the FIS that carries it. */
  readonly signature: number;
  /** Where requests go; undefined: there is no medium. */
  readonly disk: BlockDriver | undefined;
  /** Power-on state beyond the reset values. In a handler. */
  powerOn(): void;
  /** COMRESET or SRST: what a reset changes. In a handler. */
  reset(hard: boolean): void;
  /** Looks at a command and does it, or prepares `request`. In a handler. */
  take(c: Command, request: SlotRequest): number;
  /** The disk is done with `request`: status and error of the command's end go to `c`. In a handler. */
  finish(c: Command, request: SlotRequest): void;
  /** Something of the configuration is new to the state. In a handler. */
  attach(): void;
  /** Whether `attach` has something to do. */
  readonly isNew: boolean;
}

/** The command ended well. */
export function good(c: Command, protocol: number = Protocol.none): number {
  c.status = Status.ready;
  c.error = 0;
  c.protocol = protocol;
  return Verdict.done;
}

/** The command ended with an error; the protocol does not matter any more. */
export function failed(c: Command, error: number): number {
  c.status = Status.ready | Status.err;
  c.error = error;
  c.protocol = Protocol.none;
  return Verdict.done;
}

/** Count and LBA of the FIS that carries a signature. */
export function sign(c: Command, signature: number): void {
  c.count = signature & 0xff;
  c.lbaLo = signature >>> 8;
  c.lbaHi = 0;
  c.device = 0;
}

/** EXECUTE DEVICE DIAGNOSTIC (ATA8-ACS 7.14): no fault was found. */
export function diagnostic(c: Command, signature: number): number {
  sign(c, signature);
  good(c);
  c.error = 1;
  return Verdict.done;
}

/** Data that was made at once goes to the host. */
export function answered(
  c: Command,
  memory: GuestMemory,
  data: Uint8Array,
  protocol: number,
  bytes = data.length,
): number {
  if (!c.answer(memory, data, bytes)) return Verdict.fatal;
  return good(c, protocol);
}

/** ATA error bits of a failed request; the specification has no code for a backend without room. */
export const errorOf = (result: number, isRead: boolean): number =>
  result === BlockResult.ok ? 0 : isRead ? AtaError.unc : AtaError.abrt;
