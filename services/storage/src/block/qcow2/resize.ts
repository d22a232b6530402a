/** Makes the disk of an image larger. The image must not be open elsewhere. */
import { BlockOp, BlockRequest, BlockResult } from '../block.ts';
import { blockError, type HostIo, writeAll } from '../host.ts';
import { outdateBitmaps } from './bitmaps.ts';
import { prepare } from './check.ts';
import { Qcow2Disk, type Qcow2Options } from './disk.ts';
import { Limit, l1EntriesFor } from './header.ts';
import { Qcow2Image, readTable } from './image.ts';
import { put64, Refcounts } from './refcounts.ts';

/** Bytes that are made zeroes at a time. */
const PART = 64 << 20;

/**
 * @param size bytes, a multiple of 512, at least as now
 * @param under what lies under the image
 * @throws QCOW2_OPTION, or the host's error; the disk is as large as before then
 */
export function growImage(io: HostIo, fd: number, size: number, under: Qcow2Options['files'] = []): void {
  prepare(io, fd);
  const { header, cluster } = new Qcow2Image(io, fd, 4096 * 8);
  if (size % 512 !== 0 || size < header.size)
    throw blockError(
      'QCOW2_OPTION',
      `qcow2: from ${header.size} to ${size} bytes: an image can only grow, by whole sectors`,
    );
  const entries = l1EntriesFor(header, size);
  if (entries * 8 > Limit.l1Bytes)
    throw blockError(
      'QCOW2_OPTION',
      `qcow2: clusters of ${cluster} bytes are too small for a disk of ${size} bytes`,
    );
  if (entries > header.l1Entries) {
    const refcounts = new Refcounts(io, fd, header);
    const clusters = Math.ceil((entries * 8) / cluster);
    const at = refcounts.takeRun(clusters) * cluster;
    const table = new Uint8Array(clusters * cluster);
    table.set(new Uint8Array(readTable(io, fd, header.l1Offset, header.l1Entries)));
    writeAll(io, fd, table.buffer, 0, table.length, at);
    io.fdatasync(fd);
    const fields = new DataView(new ArrayBuffer(12));
    fields.setUint32(0, entries);
    put64(fields, 4, at);
    writeAll(io, fd, fields.buffer as ArrayBuffer, 0, 12, 36);
    io.fdatasync(fd);
    refcounts.add(header.l1Offset / cluster, Math.max(1, Math.ceil((header.l1Entries * 8) / cluster)), -1);
  }
  hide(io, { files: [{ fd, qcow2: true }, ...under], size }, header.size);
  outdateBitmaps(io, fd, header, size);
  const field = new DataView(new ArrayBuffer(8));
  put64(field, 0, size);
  writeAll(io, fd, field.buffer as ArrayBuffer, 0, 8, 24);
  io.fdatasync(fd);
}

/** What is under the image and longer than its disk was stays out of sight: zeroes, before the header says how large the disk is. */
function hide(io: HostIo, o: Qcow2Options & { size: number }, from: number): void {
  const [, below] = o.files;
  if (below === undefined) return;
  const bytes =
    below.layer?.size ??
    below.size ??
    (below.qcow2 ? new Qcow2Image(io, below.fd, 4096 * 8).size : io.size(below.fd));
  const end = Math.min(o.size, bytes);
  if (end <= from) return;
  const disk = new Qcow2Disk(io, o, new ArrayBuffer(0), () => {});
  const r = new BlockRequest(0);
  for (let at = from; at < end; at += r.bytes) {
    r.start(BlockOp.writeZeroes, at, Math.min(PART, end - at));
    disk.submit(r);
    if (!disk.drain(60_000) || r.result !== BlockResult.ok) {
      disk.close();
      throw blockError(
        'DISK_IO',
        `qcow2: zeroes at ${at} of the larger disk cannot be written (${r.result})`,
      );
    }
  }
  disk.close();
}
