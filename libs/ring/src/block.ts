/**
 * The state block of a device: everything it must remember, in memory that outlives the process. Layout in
 * `wire.ts` (BlockHeader, two halves, HalfHeader); the commit point is in the addon (`ExitServer.commit`).
 *
 * The inactive half is a copy of the active one whenever no change is under way, so that handlers can begin at
 * once, and so that a damaged active half can be replaced by the other.
 */
import {
  firstIllegal,
  fnv1a,
  Memory,
  Root,
  resetValues,
  type Struct,
  type View,
  view,
  viewAt,
} from '@nyx/layout';
import { crc32c, memcpy } from '@nyx/native';
import { RingError } from './error.ts';
import { confirm, install, type Migration, migrated, revert } from './migrate.ts';
import { BlockHeader, ClassEntry, HalfHeader, Range, wire } from './wire.ts';

/** An entry of the class table (wire.ClassEntry); `source` is relative to the device state, not to the half. */
export interface ClassSpec {
  /** wire.ClassKind */
  kind: number;
  region: number;
  width: number;
  offset: number;
  source?: number;
  mask?: number;
}

export interface BlockSpec<S extends Struct = Struct> {
  /** Stable name of the device kind. */
  readonly kind: string;
  readonly stateVersion: number;
  readonly state: S;
  /** Entries of the dynamic range table, 0..8. */
  readonly ranges: number;
  readonly classes?: readonly ClassSpec[];
  /** From older versions, the oldest first. */
  readonly migrations?: readonly Migration[];
}

/** Size that a supervisor which knows nothing of the device gives a state block; memfds are sparse. */
export const defaultBlockBytes = 256 * 1024;

const stateAt = (spec: BlockSpec): number => HalfHeader.bytes + spec.ranges * Range.bytes;
export const halfBytes = (spec: BlockSpec): number => (stateAt(spec) + spec.state.bytes + 63) & ~63;
/** Bytes that the state block of this device needs. */
export const blockBytes = (spec: BlockSpec): number => wire.halvesAt + 2 * halfBytes(spec);

/** The class table's bytes: they are the same at every attach. */
const classTable = (spec: BlockSpec): Uint8Array => {
  const classes = spec.classes ?? [];
  const memory = new Memory(new ArrayBuffer(classes.length * ClassEntry.bytes));
  const root = new Root(memory);
  const entry = viewAt(ClassEntry, root);
  for (const c of classes) {
    entry.region = c.region;
    entry.width = c.width;
    entry.offset = c.offset;
    entry.source = stateAt(spec) + (c.source ?? 0);
    entry.mask = c.mask ?? 0;
    entry.kind = c.kind;
    root.base += ClassEntry.bytes;
  }
  return memory.u8;
};

const hex = (n: number): string => `0x${n.toString(16)}`;

export class StateBlock<S extends Struct = Struct> {
  readonly memory: Memory;
  /** Moves with each commit: `base` is the half being changed. */
  readonly root: Root;
  readonly state: View<S>;
  readonly ranges: readonly View<typeof Range>[];
  #fresh = false;
  #repaired = false;
  #migrated = false;
  /** Bytes of a half. */
  readonly halfBytes: number;
  /** Index given by ExitServer.addBlock; -1 before. */
  index = -1;
  readonly #baseSum: number;
  readonly #header: View<typeof BlockHeader>;
  readonly #kind: number;
  readonly #classes: Uint8Array;

  /**
   * Attaches to a block, or formats it when it was never committed.
   * @param buffer mapping of the whole block
   * @param later only makes the views: another process may still be changing the block. `attach` comes before their use
   * @throws RingError STATE_SIZE, STATE_FORMAT, and those of `attach`
   */
  constructor(
    readonly buffer: ArrayBuffer,
    readonly spec: BlockSpec<S>,
    later = false,
  ) {
    if (buffer.byteLength < blockBytes(spec))
      throw new RingError(
        'STATE_SIZE',
        `${spec.kind} needs a state block of ${blockBytes(spec)} bytes, got ${buffer.byteLength}`,
      );
    if (!(spec.ranges >= 0 && spec.ranges <= wire.maxRanges) || (spec.classes?.length ?? 0) > wire.maxClasses)
      throw new RingError(
        'STATE_FORMAT',
        `${spec.kind} declares ${spec.ranges} ranges and ${spec.classes?.length ?? 0} classes`,
      );
    this.memory = new Memory(buffer);
    this.halfBytes = halfBytes(spec);
    this.#header = view(BlockHeader, this.memory);
    this.#kind = fnv1a(spec.kind);
    this.#classes = classTable(spec);
    this.root = new Root(this.memory, this.halfAt(0));
    this.#baseSum = this.halfAt(0) + this.halfAt(1);
    this.state = viewAt(spec.state, this.root, stateAt(spec));
    this.ranges = Array.from({ length: spec.ranges }, (_, i) =>
      viewAt(Range, this.root, HalfHeader.bytes + i * Range.bytes),
    );
    if (!later) this.attach();
  }

  /**
   * Takes the block over: nobody else writes to it from now on.
   * @throws RingError STATE_FORMAT, STATE_KIND, STATE_VERSION, STATE_LAYOUT (it belongs to another device or to another
   * version of it) or STATE_CORRUPT (neither half is intact). Nothing is changed then.
   */
  attach(): void {
    const { buffer } = this;
    const header = this.#header;
    revert(this.memory);
    this.#fresh = header.initialized !== 1;
    if (this.#fresh) this.#format(header);
    else if (this.#older(header)) {
      install(this.memory, migrated(this.memory, this.spec));
      this.#migrated = true;
    } else this.#check(header);
    this.#repaired = !this.#fresh && this.#repair(header);
    this.#writeClasses(header);
    const active = header.generation & 1;
    memcpy(buffer, this.halfAt(active ^ 1), buffer, this.halfAt(active), this.halfBytes);
    this.root.base = this.halfAt(active ^ 1);
  }

  /**
   * What `attach` will do to the version of the state, tried on a copy while another process may be changing it: nothing
   * is changed. True: it migrates. @throws RingError as attach
   */
  foresee(): boolean {
    const header = this.#header;
    if (header.initialized !== 1) return false;
    if (!this.#older(header)) {
      this.#check(header);
      return false;
    }
    const bytes = Math.min(this.buffer.byteLength, wire.halvesAt + 2 * header.halfBytes);
    for (let tries = 0; ; tries++) {
      const { generation } = header;
      const copy = new Memory(this.buffer.slice(0, bytes));
      if (this.#header.generation !== generation && tries < 100) continue;
      migrated(copy, this.spec);
      return true;
    }
  }

  /** The device was made: a state that was migrated is kept. */
  confirm(): void {
    if (this.#migrated) confirm(this.memory);
    this.#migrated = false;
  }

  /** Formatted just now: the state has its reset values. */
  get fresh(): boolean {
    return this.#fresh;
  }

  /** The active half was damaged and the other one was taken. */
  get repaired(): boolean {
    return this.#repaired;
  }

  get generation(): number {
    return this.memory.u32[BlockHeader.offsetOf('generation') >> 2]!;
  }

  /** Byte offset of half 0 or 1. */
  halfAt(half: number): number {
    return wire.halvesAt + half * this.halfBytes;
  }

  /** Bytes of the device state in the half being changed; for bulk copies (snapshots, tests). */
  stateBytes(): Uint8Array {
    return new Uint8Array(this.buffer, this.root.base + stateAt(this.spec), this.spec.state.bytes);
  }

  /** Gives the half being changed the reset values: power-on state, no ranges. */
  reset(): void {
    const base = this.root.base;
    this.memory.u8.fill(0, base + HalfHeader.bytes, base + this.halfBytes);
    resetValues(this.spec.state, this.memory, base + stateAt(this.spec));
  }

  /** After a commit: the view goes to the other half. Called by ExitServer. */
  flip(): void {
    this.root.base = this.#baseSum - this.root.base;
  }

  #format(header: View<typeof BlockHeader>): void {
    const { spec } = this;
    this.memory.u8.fill(0, 0, wire.halvesAt + 2 * this.halfBytes);
    header.version = wire.version;
    header.kind = this.#kind;
    header.stateVersion = spec.stateVersion;
    header.layoutHash = spec.state.hash;
    header.halfBytes = this.halfBytes;
    header.stateAt = stateAt(spec);
    header.stateBytes = spec.state.bytes;
    header.ranges = spec.ranges;
    const half = view(HalfHeader, this.memory, this.halfAt(0));
    half.ring = 0xffffffff;
    resetValues(spec.state, this.memory, this.halfAt(0) + stateAt(spec));
    half.crc = this.#crc(0);
    header.magic = wire.blockMagic;
    Atomics.store(this.memory.u32, BlockHeader.offsetOf('initialized') >> 2, 1);
  }

  /** Of another version of this device. */
  #older(h: View<typeof BlockHeader>): boolean {
    return (
      h.magic === wire.blockMagic &&
      h.version === wire.version &&
      h.kind === this.#kind &&
      h.stateVersion !== this.spec.stateVersion
    );
  }

  #check(h: View<typeof BlockHeader>): void {
    const { spec } = this;
    if (h.magic !== wire.blockMagic || h.version !== wire.version)
      throw new RingError(
        'STATE_FORMAT',
        `state block of ${spec.kind} has magic ${hex(h.magic)} version ${h.version}`,
      );
    if (h.kind !== this.#kind)
      throw new RingError('STATE_KIND', `state block belongs to another kind of device than ${spec.kind}`);
    if (
      h.layoutHash !== spec.state.hash ||
      h.halfBytes !== this.halfBytes ||
      h.stateAt !== stateAt(spec) ||
      h.stateBytes !== spec.state.bytes ||
      h.ranges !== spec.ranges
    )
      throw new RingError(
        'STATE_LAYOUT',
        `state of ${spec.kind} has layout ${hex(h.layoutHash)}, this program ${hex(spec.state.hash)}`,
      );
  }

  #crc(half: number): number {
    return crc32c(this.buffer, this.halfAt(half) + 4, this.halfBytes - 4);
  }

  /** Why a half cannot be used, or undefined. */
  #damage(half: number): string | undefined {
    const stored = this.memory.u32[this.halfAt(half) >> 2]!;
    const crc = this.#crc(half);
    if (stored !== crc) return `half ${half}: CRC ${hex(stored)}, expected ${hex(crc)}`;
    return firstIllegal(this.spec.state, this.memory, this.halfAt(half) + stateAt(this.spec));
  }

  /** Makes the active half an intact one; true when that took the other. */
  #repair(header: View<typeof BlockHeader>): boolean {
    const active = header.generation & 1;
    const first = this.#damage(active);
    if (first === undefined) return false;
    const second = this.#damage(active ^ 1);
    if (second !== undefined)
      throw new RingError(
        'STATE_CORRUPT',
        `state of ${this.spec.kind}: ${first}; ${second}. It cannot be restarted, only reset`,
      );
    Atomics.store(this.memory.u32, BlockHeader.offsetOf('generation') >> 2, header.generation + 1);
    return true;
  }

  #writeClasses(header: View<typeof BlockHeader>): void {
    this.memory.u8.set(this.#classes, BlockHeader.offsetOf('classTable'));
    header.classes = this.#classes.length / ClassEntry.bytes;
  }
}
