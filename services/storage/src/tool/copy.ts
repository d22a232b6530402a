/** Copies what some layers of a disk have into another disk: a whole one for a mirror, the newest changes for a commit. */
import { ftruncateSync } from 'node:fs';
import { fileSize } from '@nyx/native';
import { BlockOp } from '../block/block.ts';
import { Extent, type ImageLayer, Kind } from '../block/extent.ts';
import { hostIo } from '../block/host.ts';
import { readHeader } from '../block/qcow2/header.ts';
import { Qcow2Image } from '../block/qcow2/image.ts';
import { growImage } from '../block/qcow2/resize.ts';
import { growVhdx } from '../block/vhdx/create.ts';
import { VhdxImage } from '../block/vhdx/image.ts';
import { type Format, type Layer, layersOf, Opened } from './open.ts';

const CHUNK = 1 << 20;

export interface CopyRequest {
  /** Of the source, the topmost first; nobody changes them meanwhile. */
  layers: Layer[];
  /** What the first so many of them have is copied. */
  count: number;
  /** Written from the start of the disk; one that is smaller is made as large. */
  target: Layer[];
  /** The target has nothing yet: zeroes need not be written. */
  fresh: boolean;
}

/** @returns bytes that were written. @throws coded errors; the target has some of it then, and doing it again is right */
export function copy(o: CopyRequest, progress: (fraction: number) => void): { size: number; copied: number } {
  const source = new Opened({ layers: o.layers }, false, CHUNK);
  const { size } = source.disk;
  grow(o.target, size);
  const target = new Opened({ layers: o.target }, true, CHUNK);
  const maps = o.layers.slice(0, o.count).map((l) => mapOf(l));
  const from = Buffer.from(source.buffer);
  const to = Buffer.from(target.buffer);
  const none = Buffer.alloc(CHUNK);
  const e = new Extent();
  let copied = 0;
  for (let at = 0; at < size; ) {
    const bytes = Math.min(CHUNK, size - at);
    const n = extent(maps, at, bytes, e);
    if (e.kind !== Kind.unallocated) {
      source.do(BlockOp.read, at, n);
      const zero = from.compare(none, 0, n, 0, n) === 0;
      if (!zero) {
        from.copy(to, 0, 0, n);
        target.do(BlockOp.write, at, n);
        copied += n;
      } else if (!o.fresh) target.do(BlockOp.writeZeroes, at, n);
    }
    at += n;
    progress(at / size);
  }
  target.do(BlockOp.flush, 0, 0);
  source.close();
  target.close();
  return { size, copied };
}

/** A disk that was made larger over its image takes that along when it is committed. @throws coded errors */
function grow([top, ...under]: Layer[], size: number): void {
  if (top!.format === 'raw') {
    if (fileSize(top!.fd) < size) ftruncateSync(top!.fd, size);
  } else if (top!.format === 'vhdx') {
    if (new VhdxImage(hostIo, top!.fd).size < size) growVhdx(hostIo, top!.fd, size);
  } else if (readHeader(hostIo, top!.fd).size < size) growImage(hostIo, top!.fd, size, layersOf(under));
}

/** Who tells what a layer has; undefined: a raw file has all. */
const mapOf = (l: Layer): ImageLayer | undefined =>
  l.format === 'qcow2'
    ? new Qcow2Image(hostIo, l.fd)
    : l.format === 'vhdx'
      ? new VhdxImage(hostIo, l.fd)
      : undefined;

/** Whether one of these layers has what is at `position`: in `e.kind`. @returns for how many bytes that is so */
export function extent(
  maps: readonly (ImageLayer | undefined)[],
  position: number,
  bytes: number,
  e: Extent,
): number {
  let n = bytes;
  for (const map of maps) {
    if (map === undefined) {
      e.kind = Kind.data;
      return n;
    }
    if (position >= map.size) continue;
    map.lookup(position, Math.min(n, map.size - position), e);
    n = Math.min(n, e.bytes);
    if (e.kind !== Kind.unallocated) return n;
  }
  e.kind = Kind.unallocated;
  return n;
}

export type { Format };
