/**
 * Takes, deletes and applies internal snapshots of an image that nobody else has open ("Snapshots"). Order of writes: what
 * is counted too often is a leak, what is counted too seldom an error; so counts go up first and down last.
 */
import { blockError, type HostIo, readPadded, writeAll } from '../host.ts';
import { outdateBitmaps } from './bitmaps.ts';
import { check, prepare } from './check.ts';
import { compressedFlag, copied, Qcow2Image, readTable } from './image.ts';
import { put64, Refcounts } from './refcounts.ts';
import { readSnapshots, type Snapshot } from './snapshots.ts';

const FIRST_EXTRA = 16;

class Editor {
  readonly image: Qcow2Image;
  readonly refcounts: Refcounts;
  readonly cluster: number;

  constructor(
    readonly io: HostIo,
    readonly fd: number,
  ) {
    this.image = new Qcow2Image(io, fd, 4096 * 8);
    this.refcounts = new Refcounts(io, fd, this.image.header);
    this.cluster = this.image.cluster;
  }

  get list(): { list: Snapshot[]; bytes: number } {
    return readSnapshots(this.io, this.fd, this.image.header);
  }

  write(view: DataView, at: number): void {
    writeAll(this.io, this.fd, view.buffer as ArrayBuffer, view.byteOffset, view.byteLength, at);
  }

  /** Counts what an L1 table refers to once more, or once less. */
  countTree(l1: DataView, delta: number): void {
    const { image, cluster, refcounts } = this;
    const raw = new DataView(new ArrayBuffer(cluster));
    for (let i = 0; i < l1.byteLength / 8; i++) {
      const table =
        (l1.getUint32(8 * i) & 0xff_ffff) * 4294967296 + ((l1.getUint32(8 * i + 4) & ~0x1ff) >>> 0);
      if (table === 0) continue;
      if (table % cluster !== 0) throw image.corrupt(`L2 table ${i} is not at a cluster`);
      readPadded(this.io, this.fd, raw.buffer as ArrayBuffer, 0, cluster, table);
      for (let at = 0; at < cluster; at += image.entryBytes) {
        const hi = raw.getUint32(at);
        const lo = raw.getUint32(at + 4);
        if (hi & compressedFlag) {
          const [offset, bytes] = image.packedRange(hi, lo);
          const first = Math.floor(offset / cluster);
          refcounts.add(first, Math.floor((offset + bytes - 1) / cluster) - first + 1, delta);
        } else {
          const host = image.hostOf(hi, lo);
          if (host !== 0) refcounts.add(host / cluster, 1, delta);
        }
      }
      refcounts.add(table / cluster, 1, delta);
    }
  }

  /** A new snapshot table in place of the old one. */
  replaceTable(entries: Uint8Array[], old: number): void {
    const { io, fd, cluster } = this;
    const { header } = this.image;
    const bytes = entries.reduce((n, e) => n + e.length, 0);
    let at = 0;
    if (bytes > 0) {
      at = this.refcounts.takeRun(Math.ceil(bytes / cluster)) * cluster;
      let next = at;
      for (const e of entries) {
        writeAll(io, fd, e.buffer as ArrayBuffer, e.byteOffset, e.length, next);
        next += e.length;
      }
    }
    io.fdatasync(fd);
    const fields = new DataView(new ArrayBuffer(12));
    fields.setUint32(0, entries.length);
    put64(fields, 4, at);
    this.write(fields, 60);
    io.fdatasync(fd);
    if (old > 0) this.refcounts.add(header.snapshotsOffset / cluster, Math.ceil(old / cluster), -1);
    header.snapshots = entries.length;
    header.snapshotsOffset = at;
  }

  activeL1(): DataView {
    const { l1Offset, l1Entries } = this.image.header;
    return new DataView(readTable(this.io, this.fd, l1Offset, l1Entries));
  }
}

const find = (list: Snapshot[], name: string): Snapshot => {
  const s = list.find((x) => x.id === name) ?? list.find((x) => x.name === name);
  if (!s)
    throw blockError(
      'QCOW2_SNAPSHOT',
      `no snapshot '${name}'; there ${list.length === 1 ? 'is' : 'are'} ${list.map((x) => `'${x.name}'`).join(', ') || 'none'}`,
    );
  return s;
};

/** @param seconds when, since the epoch. @throws coded errors */
export function createSnapshot(io: HostIo, fd: number, name: string, seconds: number): void {
  undone(io, fd, () => create(io, fd, name, seconds));
}

/** What fails in the middle - refcounts that are too narrow, no room - leaves no trace. */
function undone(io: HostIo, fd: number, work: () => void): void {
  prepare(io, fd);
  try {
    work();
  } catch (e) {
    // What is wrong with the order itself is found before anything is changed.
    if ((e as { code?: string }).code !== 'QCOW2_SNAPSHOT')
      try {
        check(io, fd, 'all');
      } catch {
        // The first error says why.
      }
    throw e;
  }
}

function create(io: HostIo, fd: number, name: string, seconds: number): void {
  const e = new Editor(io, fd);
  const { header } = e.image;
  const { list, bytes } = e.list;
  const l1 = e.activeL1();
  e.countTree(l1, 1);
  const l1Clusters = Math.max(1, Math.ceil(l1.byteLength / e.cluster));
  const l1At = e.refcounts.takeRun(l1Clusters) * e.cluster;
  // Neither copy owns anything any more.
  const copy = new DataView(new ArrayBuffer(l1Clusters * e.cluster));
  for (let i = 0; i < l1.byteLength; i += 8) {
    copy.setUint32(i, (l1.getUint32(i) & ~copied) >>> 0);
    copy.setUint32(i + 4, l1.getUint32(i + 4));
  }
  e.write(copy, l1At);
  io.fdatasync(fd);
  clearFlags(e, l1);
  const id = String(1 + list.reduce((n, s) => Math.max(n, Number.parseInt(s.id, 10) || 0), 0));
  const [idBytes, nameBytes] = [new TextEncoder().encode(id), new TextEncoder().encode(name)];
  const entry = new DataView(
    new ArrayBuffer(Math.ceil((40 + FIRST_EXTRA + idBytes.length + nameBytes.length) / 8) * 8),
  );
  put64(entry, 0, l1At);
  entry.setUint32(8, header.l1Entries);
  entry.setUint16(12, idBytes.length);
  entry.setUint16(14, nameBytes.length);
  entry.setUint32(16, Math.floor(seconds));
  entry.setUint32(20, Math.floor((seconds % 1) * 1e9));
  entry.setUint32(36, FIRST_EXTRA);
  put64(entry, 48, header.size);
  const raw = new Uint8Array(entry.buffer);
  raw.set(idBytes, 56);
  raw.set(nameBytes, 56 + idBytes.length);
  e.replaceTable([...list.map((s) => s.raw), raw], bytes);
}

/** The copied flags of the active tables, all off. */
function clearFlags(e: Editor, l1: DataView): void {
  const { image, cluster, io, fd } = e;
  const raw = new DataView(new ArrayBuffer(cluster));
  for (let i = 0; i < l1.byteLength / 8; i++) {
    const table = image.table(i);
    if (table === 0) continue;
    readPadded(io, fd, raw.buffer as ArrayBuffer, 0, cluster, table);
    for (let at = 0; at < cluster; at += image.entryBytes)
      raw.setUint32(at, (raw.getUint32(at) & ~copied) >>> 0);
    e.write(raw, table);
    l1.setUint32(8 * i, (l1.getUint32(8 * i) & ~copied) >>> 0);
  }
  e.write(l1, image.header.l1Offset);
  io.fdatasync(fd);
}

/** @param name id or name. @throws QCOW2_SNAPSHOT */
export function deleteSnapshot(io: HostIo, fd: number, name: string): void {
  prepare(io, fd);
  const e = new Editor(io, fd);
  const { list, bytes } = e.list;
  const s = find(list, name);
  const l1 = new DataView(readTable(io, fd, s.l1Offset, s.l1Entries));
  e.replaceTable(
    list.filter((x) => x !== s).map((x) => x.raw),
    bytes,
  );
  e.countTree(l1, -1);
  e.refcounts.add(s.l1Offset / e.cluster, Math.max(1, Math.ceil(l1.byteLength / e.cluster)), -1);
  check(io, fd, 'all');
}

/** The disk becomes as it was then. @throws QCOW2_SNAPSHOT */
export function applySnapshot(io: HostIo, fd: number, name: string): void {
  undone(io, fd, () => apply(io, fd, name));
}

function apply(io: HostIo, fd: number, name: string): void {
  const e = new Editor(io, fd);
  const { header } = e.image;
  const s = find(e.list.list, name);
  if (s.diskBytes !== undefined && s.diskBytes !== header.size)
    throw blockError(
      'QCOW2_SNAPSHOT',
      `'${name}' is of a disk of ${s.diskBytes} bytes, this one has ${header.size}: resize it first`,
    );
  if (s.l1Entries > header.l1Entries)
    throw blockError('QCOW2_SNAPSHOT', `'${name}' has a longer table than the disk`);
  const old = e.activeL1();
  const l1 = new DataView(new ArrayBuffer(header.l1Entries * 8));
  const theirs = readTable(io, fd, s.l1Offset, s.l1Entries);
  new Uint8Array(l1.buffer).set(new Uint8Array(theirs));
  outdateBitmaps(io, fd, header);
  e.countTree(l1, 1);
  io.fdatasync(fd);
  e.write(l1, header.l1Offset);
  io.fdatasync(fd);
  e.countTree(old, -1);
  check(io, fd, 'all');
}
