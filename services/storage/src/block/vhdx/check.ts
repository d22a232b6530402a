/** Looks an image through: every block has a place of its own, inside the file. */
import type { HostIo } from '../host.ts';
import { MiB } from './format.ts';
import { VhdxImage } from './image.ts';
import { hasPlace } from './journal.ts';

export interface VhdxCheck {
  corruptions: number;
  /** Blocks of the disk that have a place, and all. */
  allocated: number;
  total: number;
  /** MiB of the file that nothing refers to. */
  leaks: number;
  /** A log that must be replayed: opening the image for writing does it. */
  log: boolean;
  problems: string[];
}

const MOST_PROBLEMS = 50;

/** @param progress 0..1. @throws VHDX_*, or the host's error */
export function checkVhdx(
  io: HostIo,
  fd: number,
  progress: (fraction: number) => void = () => {},
): VhdxCheck {
  const image = new VhdxImage(io, fd);
  const { geometry: g, header } = image;
  const result: VhdxCheck = {
    corruptions: 0,
    allocated: 0,
    total: g.blocks,
    leaks: 0,
    log: image.pending !== undefined,
    problems: [],
  };
  const problem = (text: string): void => {
    result.corruptions++;
    if (result.problems.length < MOST_PROBLEMS) result.problems.push(text);
  };
  // A bit per MiB of the file: 64 TiB are 8 MiB.
  const end = Math.ceil(Math.max(io.size(fd), image.pending?.bytes ?? 0) / MiB);
  const used = new Uint8Array(Math.ceil(end / 8));
  const use = (offset: number, bytes: number, what: string): void => {
    for (let m = Math.floor(offset / MiB); m < (offset + bytes) / MiB; m++) {
      if (m >= end) {
        problem(`${what} at 0x${offset.toString(16)} is behind the end of the file`);
        return;
      }
      if (used[m >> 3]! & (1 << (m % 8))) {
        problem(`${what} at 0x${offset.toString(16)} lies where something else is`);
        return;
      }
      used[m >> 3] = used[m >> 3]! | (1 << (m % 8));
    }
  };
  use(0, MiB, 'the headers');
  use(header.logOffset, header.logBytes, 'the log');
  for (const r of g.regions) use(r.offset, r.bytes, `region ${r.guid}`);
  const look = (at: number, bytes: number, what: string): void => {
    try {
      const { state, offset } = image.entry(at);
      if (!hasPlace(state)) return;
      use(offset, bytes, what);
      if (bytes === g.blockBytes) result.allocated++;
    } catch (e) {
      if ((e as { code?: string }).code !== 'VHDX_CORRUPT') throw e;
      problem(`${what}: ${(e as Error).message}`);
    }
  };
  for (let b = 0; b < g.blocks; b++) {
    look(image.entryAt(b), g.blockBytes, `block ${b}`);
    if (g.hasParent && b % g.chunkRatio === 0) look(image.bitmapEntryAt(b), MiB, `the bitmap of block ${b}`);
    if (b % 4096 === 0) progress(b / g.blocks);
  }
  for (let m = 0; m < end; m++) if (!(used[m >> 3]! & (1 << (m % 8)))) result.leaks++;
  progress(1);
  return result;
}
