/**
 * The ring memfd of a device process: its size, its formatting by the supervisor, and views of it for whoever
 * looks on (status, tests). The consumer's hot path is in the addon (`server.ts`).
 */
import { Memory, type View, view } from '@nyx/layout';
import { fileSize, mmap } from '@nyx/native';
import { RingError } from './error.ts';
import { ExitSlot, ProcessControl, RingHeader, wire } from './wire.ts';

const MAX_RINGS = 65;

/** Bytes of a ring memfd for a VM with `cpus` vCPUs (one ring each, and one of the fabric). */
export const ringsBytes = (cpus: number): number => wire.ringBase + (cpus + 1) * wire.ringStride;

/** Formats a zeroed buffer of `ringsBytes(cpus)`. */
export function formatRings(buffer: ArrayBuffer, cpus: number): void {
  const rings = cpus + 1;
  if (!(Number.isInteger(cpus) && rings >= 2 && rings <= MAX_RINGS) || buffer.byteLength < ringsBytes(cpus))
    throw new RingError('RING_FORMAT', `${cpus} vCPUs do not fit a ring memfd of ${buffer.byteLength} bytes`);
  const control = view(ProcessControl, new Memory(buffer));
  control.version = wire.version;
  control.rings = rings;
  control.magic = wire.ringMagic;
}

/** Number of rings of a formatted memfd. @throws RingError RING_FORMAT when it is not one. */
export function checkRings(buffer: ArrayBuffer): number {
  const bytes = buffer.byteLength;
  if (bytes < wire.ringBase + wire.ringStride)
    throw new RingError('RING_FORMAT', `ring memfd of ${bytes} bytes is too small`);
  const control = view(ProcessControl, new Memory(buffer));
  const { magic, version, rings } = control;
  if (magic !== wire.ringMagic || version !== wire.version)
    throw new RingError(
      'RING_FORMAT',
      `ring memfd has magic 0x${magic.toString(16)} version ${version}, expected 0x${wire.ringMagic.toString(16)} version ${wire.version}`,
    );
  if (rings < 1 || rings > MAX_RINGS || bytes < wire.ringBase + rings * wire.ringStride)
    throw new RingError('RING_FORMAT', `ring memfd of ${bytes} bytes says it has ${rings} rings`);
  return rings;
}

/** Maps a ring memfd, which must be sealed against shrinking. */
export function mapRings(fd: number): ArrayBuffer {
  const buffer = mmap(fd, fileSize(fd), { sealed: true });
  checkRings(buffer);
  return buffer;
}

/** Views of a formatted ring memfd. */
export class RingsView {
  readonly memory: Memory;
  readonly rings: number;
  readonly control: View<typeof ProcessControl>;

  constructor(readonly buffer: ArrayBuffer) {
    this.rings = checkRings(buffer);
    this.memory = new Memory(buffer);
    this.control = view(ProcessControl, this.memory);
  }

  #base(ring: number): number {
    if (!(ring >= 0 && ring < this.rings)) throw new RangeError(`ring ${ring} outside 0..${this.rings - 1}`);
    return wire.ringBase + ring * wire.ringStride;
  }

  header(ring: number): View<typeof RingHeader> {
    return view(RingHeader, this.memory, this.#base(ring));
  }

  /** The slot of sequence `seq` (from 1). */
  slot(ring: number, seq: number): View<typeof ExitSlot> {
    return view(
      ExitSlot,
      this.memory,
      this.#base(ring) + wire.slotsAt + ((seq - 1) % wire.ringSlots) * ExitSlot.bytes,
    );
  }

  burst(ring: number): Uint8Array {
    return new Uint8Array(this.buffer, this.#base(ring) + wire.burstAt, wire.burstBytes);
  }
}
