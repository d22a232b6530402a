/**
 * Counts what an image refers to and compares with its refcounts. An image may lie: everything is bounded by the size
 * of its file, and every table is visited once.
 */
import { blockError, type HostIo, readPadded, writeAll } from '../host.ts';
import { readBitmaps } from './bitmaps.ts';
import { Incompatible, type Qcow2Header, readHeader } from './header.ts';
import { compressedFlag, copied, Qcow2Image, readTable } from './image.ts';
import { Refcounts } from './refcounts.ts';
import { readSnapshots } from './snapshots.ts';

export interface CheckResult {
  /** Counted too often: space is lost, nothing else. */
  leaks: number;
  /** Counted too seldom, or tables that contradict each other. */
  corruptions: number;
  /** Copied flags that are wrong; repaired with refcounts. */
  flags: number;
  leaksFixed: number;
  corruptionsFixed: number;
  allocated: number;
  compressed: number;
  total: number;
  /** End of the last cluster in use. */
  end: number;
  problems: string[];
}

const MOST_PROBLEMS = 50;
const MOST_TABLES = 1 << 22;
/** Clusters of a file that are counted at most: 4 bytes each. */
const MOST_CLUSTERS = 1 << 28;

type Repair = 'none' | 'leaks' | 'all';

class Checker {
  readonly result: CheckResult = {
    leaks: 0,
    corruptions: 0,
    flags: 0,
    leaksFixed: 0,
    corruptionsFixed: 0,
    allocated: 0,
    compressed: 0,
    total: 0,
    end: 0,
    problems: [],
  };
  readonly image: Qcow2Image;
  readonly header: Qcow2Header;
  readonly cluster: number;
  readonly counts: Uint32Array;

  constructor(
    readonly io: HostIo,
    readonly fd: number,
    private readonly progress: (fraction: number) => void,
  ) {
    this.image = new Qcow2Image(io, fd, 1 << 18);
    this.header = this.image.header;
    this.cluster = this.image.cluster;
    const clusters = Math.ceil(io.size(fd) / this.cluster);
    if (clusters > MOST_CLUSTERS)
      throw blockError(
        'QCOW2_UNSUPPORTED',
        `qcow2: a file of ${clusters} clusters is too large to be checked`,
      );
    this.counts = new Uint32Array(clusters);
    this.budget = Math.min((this.header.snapshots + 1) * clusters, MOST_TABLES);
    this.result.total = Math.ceil(this.header.size / this.cluster);
  }

  /** Tables that may still be read: an image can say that it has one a million times. */
  budget: number;

  problem(text: string): void {
    this.result.corruptions++;
    if (this.result.problems.length < MOST_PROBLEMS) this.result.problems.push(text);
  }

  /** Counts a range; false when it is not in the file. */
  use(offset: number, bytes: number, what: string): boolean {
    if (bytes === 0) return true;
    const first = Math.floor(offset / this.cluster);
    const last = Math.floor((offset + bytes - 1) / this.cluster);
    // A data cluster may lie behind the end, where nothing was written yet; a table may not lie far behind.
    if (last >= this.counts.length) {
      this.problem(`${what} at 0x${offset.toString(16)} is behind the end of the file`);
      return false;
    }
    for (let c = first; c <= last; c++) this.counts[c]!++;
    return true;
  }

  run(): void {
    const { header: h, cluster } = this;
    this.use(0, cluster, 'the header');
    this.use(h.refcountTableOffset, h.refcountTableClusters * cluster, 'the refcount table');
    const snapshots = readSnapshots(this.io, this.fd, h);
    const trees = [{ l1Offset: h.l1Offset, l1Entries: h.l1Entries }, ...snapshots.list];
    for (const [i, t] of trees.entries()) {
      this.#part = [i / trees.length, 1 / trees.length];
      this.l1(t.l1Offset, t.l1Entries, i === 0);
    }
    this.use(h.snapshotsOffset, snapshots.bytes, 'the snapshot table');
    this.bitmaps();
  }

  /** Of the whole: where this tree begins, and how much it is. */
  #part: [from: number, of: number] = [0, 1];

  l1(offset: number, entries: number, active: boolean): void {
    if (!this.use(offset, entries * 8, 'an L1 table')) return;
    const l1 = new DataView(readTable(this.io, this.fd, offset, entries));
    for (let i = 0; i < entries; i++) {
      this.progress(this.#part[0] + (this.#part[1] * i) / entries);
      const at = (l1.getUint32(8 * i) & 0xff_ffff) * 4294967296 + ((l1.getUint32(8 * i + 4) & ~0x1ff) >>> 0);
      if (at === 0) continue;
      if (at % this.cluster !== 0) this.problem(`L2 table ${i} at 0x${at.toString(16)} is not at a cluster`);
      else if (this.use(at, this.cluster, `L2 table ${i}`)) {
        if (--this.budget < 0)
          throw blockError('QCOW2_CORRUPT', 'qcow2: the tables refer to more tables than the file can hold');
        this.l2(at, active);
      }
    }
  }

  l2(table: number, active: boolean): void {
    const { image, result, cluster } = this;
    const size = image.entryBytes;
    const raw = new DataView(new ArrayBuffer(cluster));
    readPadded(this.io, this.fd, raw.buffer as ArrayBuffer, 0, cluster, table);
    for (let at = 0; at < cluster; at += size) {
      const hi = raw.getUint32(at);
      const lo = raw.getUint32(at + 4);
      if (hi === 0 && lo === 0) continue;
      if (hi & compressedFlag) {
        const [offset, bytes] = image.packedRange(hi, lo);
        if (hi & copied) this.problem('a compressed cluster has the copied flag');
        // The last sector may be cut off by the end of the file.
        const end = Math.min(offset + bytes, Math.max(this.counts.length * cluster, offset + 1));
        if (this.use(offset, end - offset, 'a compressed cluster') && active) {
          result.compressed++;
          result.allocated++;
        }
        continue;
      }
      const host = (hi & 0xff_ffff) * 4294967296 + ((lo & ~0x1ff) >>> 0);
      if (host === 0) continue;
      if (host % cluster !== 0) this.problem(`a data cluster at 0x${host.toString(16)} is not at a cluster`);
      else if (host >= this.counts.length * cluster) this.beyond.push(host / cluster);
      else this.counts[host / cluster]!++;
      if (active) result.allocated++;
    }
  }
  /** Data clusters behind the end of the file: allowed, nothing was written there yet. */
  readonly beyond: number[] = [];

  bitmaps(): void {
    const b = this.header.bitmaps;
    const list = readBitmaps(this.io, this.fd, this.header);
    if (list === undefined) {
      this.problem('the bitmap directory makes no sense');
      return;
    }
    // Without the autoclear bit they are nobody's any more: leaks.
    if (!b || list.length === 0) return;
    this.use(b.directoryOffset, b.directoryBytes, 'the bitmap directory');
    const size = this.io.size(this.fd);
    for (const { tableOffset, tableEntries, name } of list) {
      if (
        tableEntries * 8 > size ||
        !this.use(tableOffset, tableEntries * 8, `the table of bitmap '${name}'`)
      )
        continue;
      const table = new DataView(readTable(this.io, this.fd, tableOffset, tableEntries));
      for (let k = 0; k < tableEntries; k++) {
        const data =
          (table.getUint32(8 * k) & 0xff_ffff) * 4294967296 + ((table.getUint32(8 * k + 4) & ~0x1ff) >>> 0);
        if (data !== 0) this.use(data, this.cluster, `bitmap '${name}'`);
      }
    }
  }

  /** Compares, and with `repair` sets. */
  compare(refcounts: Refcounts, repair: Repair): void {
    const { result, counts } = this;
    for (const offset of refcounts.table)
      if (offset !== 0) this.use(offset, this.cluster, 'a refcount block');
    const blocks = refcounts.table.findLastIndex((b) => b !== 0) + 1;
    const all = Math.max(counts.length, Math.min(blocks * refcounts.perBlock, MOST_CLUSTERS));
    const extra = new Map<number, number>();
    for (const c of this.beyond) extra.set(c, (extra.get(c) ?? 0) + 1);
    for (let c = 0; c < all; c++) {
      const block = refcounts.table[Math.floor(c / refcounts.perBlock)];
      if (!block && c >= counts.length) {
        c = (Math.floor(c / refcounts.perBlock) + 1) * refcounts.perBlock - 1;
        continue;
      }
      const want = (counts[c] ?? 0) + (extra.get(c) ?? 0);
      if (want > 0) result.end = (c + 1) * this.cluster;
      const is = refcounts.get(c);
      if (is === want) continue;
      const text = `cluster ${c}: refcount ${is}, ${want} references`;
      if (result.problems.length < MOST_PROBLEMS) result.problems.push(text);
      if (is > want) {
        result.leaks++;
        if (repair === 'none') continue;
        refcounts.set(c, want);
        result.leaksFixed++;
      } else {
        result.corruptions++;
        if (repair !== 'all' || !block) continue;
        refcounts.set(c, want);
        result.corruptionsFixed++;
      }
    }
  }

  /** The copied flags of the active tables. */
  flags(refcounts: Refcounts, repair: boolean): void {
    const { header: h, image, cluster, result } = this;
    const l1 = new DataView(readTable(this.io, this.fd, h.l1Offset, h.l1Entries));
    const raw = new DataView(new ArrayBuffer(cluster));
    const right = (view: DataView, at: number, host: number): boolean => {
      const hi = view.getUint32(at);
      const want = refcounts.get(host / cluster) === 1;
      if (((hi & copied) !== 0) === want) return false;
      result.flags++;
      view.setUint32(at, (want ? hi | copied : hi & ~copied) >>> 0);
      return true;
    };
    const offset = (view: DataView, at: number): number =>
      (view.getUint32(at) & 0xff_ffff) * 4294967296 + ((view.getUint32(at + 4) & ~0x1ff) >>> 0);
    let dirty = false;
    for (let i = 0; i < h.l1Entries; i++) {
      const table = offset(l1, 8 * i);
      if (table === 0 || table % cluster !== 0) continue;
      if (right(l1, 8 * i, table)) dirty = true;
      readPadded(this.io, this.fd, raw.buffer as ArrayBuffer, 0, cluster, table);
      let changed = false;
      for (let at = 0; at < cluster; at += image.entryBytes) {
        if (raw.getUint32(at) & compressedFlag) continue;
        const host = offset(raw, at);
        if (host !== 0 && host % cluster === 0 && right(raw, at, host)) changed = true;
      }
      if (changed && repair) writeAll(this.io, this.fd, raw.buffer as ArrayBuffer, 0, cluster, table);
    }
    if (dirty && repair) writeAll(this.io, this.fd, l1.buffer as ArrayBuffer, 0, l1.byteLength, h.l1Offset);
  }
}

/** Checks an image that nobody writes; `repair` needs a descriptor for writing. @throws QCOW2_*, or the host's error */
export function check(
  io: HostIo,
  fd: number,
  repair: Repair = 'none',
  progress: (fraction: number) => void = () => {},
): CheckResult {
  const c = new Checker(io, fd, progress);
  c.run();
  const refcounts = new Refcounts(io, fd, c.header);
  c.compare(refcounts, repair);
  c.flags(refcounts, repair === 'all');
  if (repair === 'all' && c.result.corruptions === c.result.corruptionsFixed) clearMarks(io, fd, c.header);
  return c.result;
}

function clearMarks(io: HostIo, fd: number, h: Qcow2Header): void {
  const marks = Incompatible.dirty | Incompatible.corrupt;
  if (h.version < 3 || !(h.incompatible & marks)) return;
  io.fdatasync(fd);
  const bytes = new DataView(new ArrayBuffer(4));
  bytes.setUint32(0, h.incompatible & ~marks);
  writeAll(io, fd, bytes.buffer as ArrayBuffer, 0, 4, 76);
  io.fdatasync(fd);
}

/**
 * Before an image is written: one that says of itself that its refcounts may be wrong (lazy refcounts) gets them anew.
 * @throws QCOW2_CORRUPT when it is marked so, or its tables contradict each other
 */
export function prepare(io: HostIo, fd: number): void {
  const { incompatible } = readHeader(io, fd);
  if (incompatible & Incompatible.corrupt)
    throw blockError(
      'QCOW2_CORRUPT',
      'qcow2: the image is marked as corrupt: check and repair it, or open it read-only',
    );
  if (!(incompatible & Incompatible.dirty)) return;
  const r = check(io, fd, 'all');
  if (r.corruptions > r.corruptionsFixed)
    throw blockError(
      'QCOW2_CORRUPT',
      `qcow2: the image was not closed and cannot be repaired: ${r.problems[0]}`,
    );
}
