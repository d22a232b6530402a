/** Zeroes and discard: clusters and subclusters that say so themselves, bytes where they cannot. */
import { BlockOp, type BlockRequest } from '../block.ts';
import { Extent, Kind } from '../extent.ts';
import { compressedFlag, copied } from './image.ts';
import { granules, type Writer } from './write.ts';

const extent = new Extent();

/** Goes on at `from`: how many bytes are done or under way, 0 when it must wait. @throws coded errors */
export function zero(w: Writer, r: BlockRequest, from: number, later: () => void): number {
  const { tables } = w;
  const { image } = tables;
  const { chain } = w.reader;
  const { cluster, granule, perTable, entryBytes, extended } = image;
  const position = r.position + from;
  const discard = r.op === BlockOp.discard;
  const end = Math.min(r.position + r.bytes, image.size);
  const v2 = image.header.version === 2;
  const backed = chain.layers.length > 1;
  const e = extent;
  // The last cluster of a disk counts as whole.
  const whole = (at: number, unit: number): boolean =>
    at % unit === 0 && (end - at >= unit || end === image.size);
  if (!whole(position, granule) || (v2 && !discard)) {
    const n = Math.min(end - position, v2 ? end - position : granule - (position % granule));
    if (discard) return n;
    chain.lookup(0, position, n, e);
    const unlocked = w.unlocked(Math.floor(position / cluster) * cluster, (position % cluster) + n);
    if (unlocked === 0) return 0;
    if (e.kind === Kind.zero) return Math.min(e.bytes, unlocked - (position % cluster));
    return w.write(r, from, Math.min(n, e.bytes), true);
  }
  const first = Math.floor(position / cluster);
  const inCluster = position - first * cluster;
  const l2 = first % perTable;
  const l1 = (first - l2) / perTable;
  const unlocked = w.unlocked(first * cluster, cluster);
  if (unlocked === 0) return 0;
  const toTable = (first - l2 + perTable) * cluster - position;
  if (image.table(l1) === 0 && !backed) {
    const n = Math.min(end - position, toTable);
    return w.unlocked(position, n);
  }
  if (discard && v2 && backed) return Math.min(end - position, toTable);
  if (tables.journal.room < 2) return 0;
  const table = tables.ownTable(l1);
  if (table < 0) return 0;
  const entryAt = table + l2 * entryBytes;
  const at = image.cache.at(entryAt);
  const { view } = image.cache;
  const hi = view.getUint32(at);
  const lo = view.getUint32(at + 4);
  const packed = (hi & compressedFlag) !== 0;
  const n = Math.min(end - position, cluster - inCluster);
  const all = whole(position, cluster);
  const host = packed ? 0 : image.hostOf(hi, lo);
  const unmap = discard || r.unmap;
  if (!all) {
    // Some subclusters of an extended entry.
    const span = n - (end === image.size ? 0 : n % granule);
    const mask = granules(inCluster, span, granule);
    const zeroes = view.getUint32(at + 8);
    if (!packed && (zeroes & mask) >>> 0 === mask) return span;
    if (packed || !(hi & copied)) {
      if (host === 0 && !packed) tables.link(entryAt, 1, hi, lo, 0, -1, (zeroes | mask) >>> 0, 0, 0, 0);
      else return discard ? span : w.write(r, from, span, true);
    } else
      tables.link(
        entryAt,
        1,
        hi,
        lo,
        0,
        -1,
        (zeroes | mask) >>> 0,
        (view.getUint32(at + 12) & ~mask) >>> 0,
        0,
        0,
      );
    later();
    return span;
  }
  const zeroHi = extended ? 0xffff_ffff : 0;
  const flag = extended || v2 ? 0 : 1;
  if (host === 0 && !packed) {
    const already = extended ? view.getUint32(at + 8) === 0xffff_ffff : (lo & 1) !== 0;
    if (!already && (backed || !discard) && !v2) {
      tables.link(entryAt, 1, 0, flag, 0, -1, zeroHi, 0, 0, 0);
      later();
    }
    return n;
  }
  if (!unmap && hi & copied) {
    if (!extended && lo & 1) return n;
    tables.link(entryAt, 1, hi, (lo | flag) >>> 0, 0, -1, zeroHi, 0, 0, 0);
    later();
    return n;
  }
  let free = host;
  let freeCount = 1;
  if (packed) {
    image.lookup(position, 1, e);
    free = Math.floor(e.packed / cluster) * cluster;
    freeCount = Math.floor((e.packed + e.packedBytes - 1) / cluster) - free / cluster + 1;
  }
  tables.link(entryAt, 1, 0, v2 ? 0 : flag, 0, -1, zeroHi, 0, free, freeCount);
  later();
  return n;
}
