/**
 * State of an older version becomes that of this program: step by step as the device declares, on a copy, and it takes the
 * place of the old state only when all of it is there and legal.
 *
 *   old state --steps--> image in private memory;  old state --> journal --mark--> image becomes the block --> no mark
 *
 * The journal is in the second half of the block's memory. The mark goes when all devices of the process were made from
 * their new state. Whoever attaches and finds the mark puts the old state back: so a build that fails has changed nothing.
 */
import { firstIllegal, Memory, Root, resetValues, type Struct, type View, view, viewAt } from '@nyx/layout';
import { crc32c, memcpy } from '@nyx/native';
import { RingError } from './error.ts';
import { BlockHeader, HalfHeader, Range, wire } from './wire.ts';

/** How state of `version` becomes that of the next entry, or of the device as it is now. */
export interface Migration {
  readonly version: number;
  readonly state: Struct;
  /** Dynamic ranges of that version; default: as now. */
  readonly ranges?: number;
  /**
   * Fields of the same name and type have been carried over, others have their reset values.
   * @param from view of the old state, only to be read
   */
  // biome-ignore lint/suspicious/noExplicitAny: views of structures that only the device knows
  step(from: any, to: any): void;
}

/** What the device is now. */
export interface Target {
  readonly kind: string;
  readonly stateVersion: number;
  readonly state: Struct;
  readonly ranges: number;
  readonly migrations?: readonly Migration[];
}

/** 'NYXJ' */
const journalMagic = 0x4a58594e;
const Journal = { magic: 0, bytes: 1, crc: 2, marked: 3 } as const;
const journalHeader = 4096;

const hex = (n: number): string => `0x${n.toString(16)}`;
const stateAt = (ranges: number): number => HalfHeader.bytes + ranges * Range.bytes;
const half = (state: Struct, ranges: number): number => (stateAt(ranges) + state.bytes + 63) & ~63;

/** Steps from the version in the header to now. @throws RingError STATE_VERSION, STATE_LAYOUT */
const path = (h: View<typeof BlockHeader>, target: Target): readonly Migration[] => {
  const all = target.migrations ?? [];
  const first = all.findIndex((m) => m.version === h.stateVersion);
  if (first < 0)
    throw new RingError(
      'STATE_VERSION',
      `state of ${target.kind} has version ${h.stateVersion}, this program version ${target.stateVersion}${
        h.stateVersion > target.stateVersion ? '' : ' and no step from there'
      }`,
    );
  const m = all[first]!;
  const ranges = m.ranges ?? target.ranges;
  if (m.state.hash !== h.layoutHash || ranges !== h.ranges || half(m.state, ranges) !== h.halfBytes)
    throw new RingError(
      'STATE_LAYOUT',
      `state of ${target.kind} version ${h.stateVersion} has layout ${hex(h.layoutHash)}, this program knows ${hex(m.state.hash)}`,
    );
  return all.slice(first);
};

/** Fields that both have: same name, same type; of arrays as many elements as both have. */
const carry = (from: Struct, a: Memory, aAt: number, to: Struct, b: Memory, bAt: number): void => {
  for (const p of to.placed) {
    const q = from.placed.find((x) => x.name === p.name);
    if (q === undefined || q.field.kind !== p.field.kind || p.field.kind === 'pad') continue;
    if (p.field.kind === 'struct' && q.field.kind === 'struct') {
      const n = Math.min(p.field.count, q.field.count);
      const [s, t] = [q.field.struct, p.field.struct];
      for (let i = 0; i < n; i++)
        carry(s, a, aAt + q.offset + i * s.bytes, t, b, bAt + p.offset + i * t.bytes);
    } else if ('type' in p.field && 'type' in q.field && p.field.type === q.field.type)
      b.u8.set(a.u8.subarray(aAt + q.offset, aAt + q.offset + Math.min(p.bytes, q.bytes)), bAt + p.offset);
  }
};

/**
 * The block as it will be: header and two equal halves. `memory` is not changed.
 * @throws RingError STATE_VERSION, STATE_LAYOUT, STATE_CORRUPT (nothing to begin with), STATE_MIGRATION (a step failed)
 */
export function migrated(memory: Memory, target: Target): Uint8Array {
  const h = view(BlockHeader, memory);
  const steps = path(h, target);
  const old = steps[0]!;
  const oldAt = stateAt(h.ranges);
  const intact = [h.generation & 1, (h.generation & 1) ^ 1]
    .map((i) => wire.halvesAt + i * h.halfBytes)
    .find(
      (at) =>
        memory.u32[at >> 2] === crc32c(memory.buffer as ArrayBuffer, at + 4, h.halfBytes - 4) &&
        firstIllegal(old.state, memory, at + oldAt) === undefined,
    );
  if (intact === undefined)
    throw new RingError('STATE_CORRUPT', `state of ${target.kind}: neither half is intact`);

  let from = { state: old.state, memory, at: intact + oldAt };
  for (const [i, m] of steps.entries()) {
    const state = steps[i + 1]?.state ?? target.state;
    const next = new Memory(new ArrayBuffer((state.bytes + 7) & ~7));
    resetValues(state, next, 0);
    carry(from.state, from.memory, from.at, state, next, 0);
    try {
      m.step(viewAt(from.state, new Root(from.memory, 0), from.at), view(state, next));
    } catch (e) {
      throw new RingError(
        'STATE_MIGRATION',
        `state of ${target.kind}: step from version ${m.version}: ${(e as Error).message}`,
      );
    }
    const illegal = firstIllegal(state, next, 0);
    if (illegal)
      throw new RingError(
        'STATE_MIGRATION',
        `state of ${target.kind}: step from version ${m.version}: ${illegal}`,
      );
    from = { state, memory: next, at: 0 };
  }

  const bytes = half(target.state, target.ranges);
  const image = new Memory(new ArrayBuffer(wire.halvesAt + 2 * bytes));
  image.u8.set(memory.u8.subarray(0, BlockHeader.bytes));
  const n = view(BlockHeader, image);
  n.stateVersion = target.stateVersion;
  n.layoutHash = target.state.hash;
  n.halfBytes = bytes;
  n.stateAt = stateAt(target.ranges);
  n.stateBytes = target.state.bytes;
  n.ranges = target.ranges;
  // Of the old layout; written anew at attach.
  n.classes = 0;
  n.generation = (h.generation + 2) & ~1;
  const at = wire.halvesAt;
  const carried = HalfHeader.bytes + Math.min(h.ranges, target.ranges) * Range.bytes;
  image.u8.set(memory.u8.subarray(intact, intact + carried), at);
  image.u8.set(from.memory.u8.subarray(0, target.state.bytes), at + stateAt(target.ranges));
  image.u32[at >> 2] = crc32c(image.buffer as ArrayBuffer, at + 4, bytes - 4);
  image.u8.copyWithin(at + bytes, at, at + bytes);
  return image.u8;
}

const journalAt = (memory: Memory): number => (memory.u8.length >>> 1) & ~4095;

/**
 * Makes an image the block, for the time being: until `confirm` whoever attaches finds the old state again.
 * @throws RingError STATE_SIZE
 */
export function install(memory: Memory, image: Uint8Array): void {
  const at = journalAt(memory);
  const old = wire.halvesAt + 2 * view(BlockHeader, memory).halfBytes;
  if (journalHeader + Math.max(old, image.length) > at)
    throw new RingError('STATE_SIZE', `a migrated state of ${image.length} bytes does not fit its block`);
  const words = at >> 2;
  const buffer = memory.buffer as ArrayBuffer;
  memcpy(buffer, at + journalHeader, buffer, 0, old);
  memory.u32[words + Journal.magic] = journalMagic;
  memory.u32[words + Journal.bytes] = old;
  memory.u32[words + Journal.crc] = crc32c(buffer, at + journalHeader, old);
  Atomics.store(memory.u32, words + Journal.marked, 1);
  memory.u8.set(image, 0);
}

/** The device was made from its new state: that is the truth from now on. */
export function confirm(memory: Memory): void {
  Atomics.store(memory.u32, (journalAt(memory) >> 2) + Journal.marked, 0);
}

/** Takes back what a process that died had installed and not confirmed. */
export function revert(memory: Memory): void {
  const at = journalAt(memory);
  const words = at >> 2;
  if (at < journalHeader || memory.u32[words + Journal.marked] !== 1) return;
  const bytes = memory.u32[words + Journal.bytes]!;
  const buffer = memory.buffer as ArrayBuffer;
  const whole =
    memory.u32[words + Journal.magic] === journalMagic &&
    bytes <= at - journalHeader &&
    memory.u32[words + Journal.crc] === crc32c(buffer, at + journalHeader, bytes);
  if (whole) memcpy(buffer, 0, buffer, at + journalHeader, bytes);
  confirm(memory);
}
