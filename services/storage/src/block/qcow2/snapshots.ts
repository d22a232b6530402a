/** Internal snapshots ("Snapshots"): the table of them. */
import { blockError, type HostIo, readPadded } from '../host.ts';
import { Limit, type Qcow2Header } from './header.ts';

export interface Snapshot {
  id: string;
  name: string;
  l1Offset: number;
  l1Entries: number;
  /** Seconds and nanoseconds since the epoch. */
  seconds: number;
  nanoseconds: number;
  /** ns that the guest had run. */
  guestNs: bigint;
  vmStateBytes: number;
  /** Bytes of the disk then; undefined in old images: as now. */
  diskBytes: number | undefined;
  /** As in the table, with what this version does not know. */
  raw: Uint8Array;
}

const HEAD = 40;

/** Reads the table. @throws QCOW2_INVALID */
export function readSnapshots(io: HostIo, fd: number, h: Qcow2Header): { list: Snapshot[]; bytes: number } {
  const list: Snapshot[] = [];
  const invalid = (what: string): Error =>
    blockError('QCOW2_INVALID', `qcow2 snapshot ${list.length}: ${what}`);
  let at = 0;
  for (let i = 0; i < h.snapshots; i++) {
    const head = new DataView(new ArrayBuffer(HEAD));
    readPadded(io, fd, head.buffer as ArrayBuffer, 0, HEAD, h.snapshotsOffset + at);
    const [idBytes, nameBytes, extra] = [head.getUint16(12), head.getUint16(14), head.getUint32(36)];
    const l1Offset = head.getUint32(0) * 4294967296 + head.getUint32(4);
    const l1Entries = head.getUint32(8);
    if (extra > 1024) throw invalid(`${extra} bytes of extra data, at most 1024`);
    if (l1Entries * 8 > Limit.l1Bytes) throw invalid(`an L1 table of ${l1Entries} entries`);
    if (l1Offset % 2 ** h.clusterBits !== 0 || l1Offset > Number.MAX_SAFE_INTEGER)
      throw invalid(`L1 table at 0x${l1Offset.toString(16)}`);
    const length = Math.ceil((HEAD + extra + idBytes + nameBytes) / 8) * 8;
    if (at + length > Limit.snapshotTableBytes) throw invalid('the table is longer than 64 MiB');
    const raw = new Uint8Array(length);
    readPadded(io, fd, raw.buffer, 0, length, h.snapshotsOffset + at);
    const v = new DataView(raw.buffer);
    const text = (from: number, n: number): string => new TextDecoder().decode(raw.subarray(from, from + n));
    const u64 = (o: number): number => v.getUint32(o) * 4294967296 + v.getUint32(o + 4);
    list.push({
      id: text(HEAD + extra, idBytes),
      name: text(HEAD + extra + idBytes, nameBytes),
      l1Offset,
      l1Entries,
      seconds: v.getUint32(16),
      nanoseconds: v.getUint32(20),
      guestNs: v.getBigUint64(24),
      vmStateBytes: extra >= 8 ? u64(40) : v.getUint32(32),
      diskBytes: extra >= 16 ? u64(48) : undefined,
      raw,
    });
    at += length;
  }
  return { list, bytes: at };
}
