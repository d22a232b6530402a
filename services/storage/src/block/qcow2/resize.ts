/** Makes the disk of an image larger. The image must not be open elsewhere. */
import { blockError, type HostIo, writeAll } from '../host.ts';
import { Limit, l1EntriesFor } from './header.ts';
import { Qcow2Image, readTable } from './image.ts';
import { put64, Refcounts } from './refcounts.ts';

/** @param size bytes, a multiple of 512, at least as now. @throws QCOW2_OPTION, or the host's error */
export function growImage(io: HostIo, fd: number, size: number): void {
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
  const field = new DataView(new ArrayBuffer(8));
  put64(field, 0, size);
  writeAll(io, fd, field.buffer as ArrayBuffer, 0, 8, 24);
  io.fdatasync(fd);
}
