/**
 * What a device is to the kit. A device is a folder: `regs.ts` (layout), `chip.ts` (pure logic over its state
 * view), `device.ts` (this interface), tests beside them. The kit (`serve.ts`) owns the state block, the commit
 * point, the rings, timers and interrupts; a device cannot bypass it, because it has no other memory.
 *
 * The rule that makes a device restartable: handlers (read, write, event ...) change only `ctx.state`;
 * `settle` makes the outside world what the state says, and doing it twice changes nothing.
 */
import type { RegisterTable, Struct, View } from '@nyx/layout';
import type { DeviceEvent, DeviceOrder, FaultData, FaultRule, ReportedFault } from '@nyx/protocol';
import type { Migration } from '@nyx/ring';
import type { GuestMemory } from './memory.ts';

export interface RegionSpec {
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  /** Registers of the region: the kit derives the class table from their exit classes. */
  readonly table?: RegisterTable;
}

export interface DeviceKind<S extends Struct = Struct, C = unknown> {
  /** Stable name, e.g. 'uart16550'. */
  readonly kind: string;
  readonly stateVersion: number;
  readonly state: S;
  /** How state of older versions becomes that of this one, the oldest first. */
  readonly migrations?: readonly Migration[];
  readonly regions: readonly RegionSpec[];
  /** Entries of the dynamic range table (PCI BARs, ECAM); 0 when all its addresses are fixed. */
  readonly ranges: number;
  /**
   * Fields of the state that a machine reset leaves alone: interrupt words and message counts (they only grow),
   * console positions, battery-backed memory.
   */
  readonly keep?: readonly string[];
  /** Number of interrupt sources (lines and messages) with this configuration. */
  irqs(config: C): number;
  /** Builds the device over its state. Called at attach, with the state already loaded or reset; but see `early`. */
  create(ctx: DeviceContext<S>, config: C): Device;
  /**
   * With this configuration `create` may be called while another process still serves the device: it then only builds
   * objects, and reads neither state nor bulk memory nor files that change. What needs them is in `Device.attach`. A
   * standby makes such devices in advance; others cost their time when it takes over.
   */
  early?(config: C): boolean;
}

export interface Device {
  /** Answer of a read of 1, 2, 4 or 8 bytes; for 8 the high half goes to `ctx.replyHi`. */
  read(region: number, offset: number, width: number): number;
  /** A write; `valueHi` is the high half of an 8-byte one. */
  write(region: number, offset: number, width: number, value: number, valueHi: number): void;
  /** `rep ins`: fill `out` (count * width bytes). Default: `read` for each element. */
  readBurst?(region: number, offset: number, width: number, out: Uint8Array): void;
  writeBurst?(region: number, offset: number, width: number, data: Uint8Array): void;
  /** PCI configuration space of function `fn` of the device. */
  configRead?(fn: number, register: number, width: number): number;
  configWrite?(fn: number, register: number, width: number, value: number): void;
  /** Interrupt acknowledge (PIC): the vector. */
  intAck?(): number;
  /** End of interrupt of a level-triggered vector (IOAPIC). */
  eoi?(vector: number): void;
  /** A line of another device has this word now: rising edges << 1 | level (PIC, IOAPIC). */
  line?(gsi: number, word: number): void;
  /** `line` with this word would change nothing. */
  hasHeard?(gsi: number, word: number): boolean;
  /** The supervisor has something to say; unknown names are for another version. Descriptors are the device's from then on. */
  order?(order: DeviceOrder['order'], fds: readonly number[]): void;
  /** Once, before all else: the state is loaded, and nobody else changes it, or what belongs to it, any more. */
  attach?(): void;
  /**
   * Power-on state, at a machine reset and once for a fresh block. The kit has already written the structure's reset
   * values (but for `DeviceKind.keep`). Lines must fall here; their edges go on being counted.
   */
  reset(): void;
  /** Makes interrupts, timers and output what the state says. Idempotent. Runs after every commit and at attach. */
  settle(): void;
  /** Host I/O is under way whose completion the guest will see: deterministic machines wait for it. */
  busy?(): boolean;
  /** The timer armed in `settle` fired. Handled as an event of its own (next, commit, settle). */
  timer?(): void;
}

export interface DeviceContext<S extends Struct = Struct> {
  readonly name: string;
  /** View of the half being changed (in a handler) or of the truth (in `settle`). */
  readonly state: View<S>;
  /** High half of an 8-byte reply; the kit zeroes it before each read. */
  replyHi: number;
  /** The device was taken out (role.ts): it answers, and does nothing. */
  readonly isolated?: boolean;
  /** Guest nanoseconds; stands still while the VM is paused. */
  now(): number;
  /** UTC seconds at guest nanosecond 0. */
  wallClock(): number;
  /** Status of the current exit: the address is not this device's after all. */
  unclaimed(): void;
  /** The current exit does this to the machine (wire.MachineEvent). */
  machineEvent(event: number): void;
  /** Dynamic range `i` (state, so part of the commit). space 0 removes it. */
  setRange(i: number, space: number, region: number, base: number, length: number): void;
  /** In `settle`: publish interrupt source i as a line whose word (edges << 1 | level) is in the state. */
  line(i: number, word: number): void;
  /** In `settle`: publish interrupt source i as a message; `count` messages were sent so far. */
  message(i: number, addressLo: number, addressHi: number, data: number, count: number): void;
  /** In `settle`: call `timer` at that guest time; Infinity disarms. */
  timerAt(guestNs: number): void;
  /** Runs `change` as an event that is not an exit (host input, I/O completion): next, change, commit, settle. */
  event(change: () => void): void;
  /**
   * In a handler: commits what the state says so far as an event of its own and goes on. An exit that is about to
   * overwrite its own input (a descriptor in guest memory) first saves that input in its state and calls this; when
   * it is executed again after a crash, it finds the saved copy.
   */
  checkpoint(): void;
  /**
   * The fault on purpose that a request to the backend is to suffer, if any: `op` is the index of its type in
   * faultTypes.io of @nyx/protocol, `position` its first byte. Asked once for each request.
   */
  fault?(op: number, position: number): FaultRule | undefined;
  /**
   * Something went wrong that the supervisor should know (fault-kinds.ts of @nyx/protocol). Told from where it happens, or,
   * from a count in the state, in `settle`: it may be told again. Many of a kind are told as one with their `count`.
   */
  raise?(kind: ReportedFault, data: FaultData): void;
  /** Tells the supervisor. Absent where there is none to hear it. */
  tell?(event: string, detail: DeviceEvent['detail']): void;
  /** Guest memory as granted to this device. */
  readonly memory: GuestMemory;
  /** Descriptors of the role, by name (backing file, console ring ...). @throws coded error when missing. */
  fd(name: string): number;
  /** Whether the role has a descriptor of that name. */
  has(name: string): boolean;
  /** Bulk shared memory of the role, by name. @throws coded error when missing. */
  bulk(name: string): ArrayBuffer;
  /** In `settle`: adds 1 to an eventfd. */
  signal(fd: number): void;
  /**
   * Calls back when the descriptor is readable, until the process ends. `drain` (default): it is an eventfd, and is
   * read first. Change state with `event` only.
   */
  watch(fd: number, readable: () => void, drain?: boolean): void;
  /** Counted, rate-limited note for the log ring; never for the guest. */
  log(level: 'trace' | 'debug' | 'info' | 'warn' | 'error', message: string): void;
}

/** A device of any kind, where only the kit looks at its state. */
// biome-ignore lint/suspicious/noExplicitAny: state and configuration are the device's own matter
export type AnyDeviceKind = DeviceKind<any, any>;

/** For inference at the definition, and to have the names in `keep` checked. */
export const defineDevice = <S extends Struct, C>(
  kind: DeviceKind<S, C> & { readonly keep?: readonly (keyof S['fields'] & string)[] },
): DeviceKind<S, C> => kind;
