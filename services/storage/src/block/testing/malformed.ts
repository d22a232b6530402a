/** Images that are good, and their use whatever became of them: an error with a code is right, anything else is not. */
import { BlockOp } from '../block.ts';
import { createImage } from '../qcow2/create.ts';
import { Qcow2Disk } from '../qcow2/disk.ts';
import { createSnapshot } from '../qcow2/snapshot-write.ts';
import { checkVhdx } from '../vhdx/check.ts';
import { createVhdx } from '../vhdx/create.ts';
import { VhdxDisk } from '../vhdx/disk.ts';
import { MiB } from '../vhdx/format.ts';
import { readerOf, readFileHeader, readGeometry, writeFileHeader } from '../vhdx/header.ts';
import { LogWriter } from '../vhdx/log.ts';
import { FakeHost } from './fakehost.ts';
import { Rig, random } from './rig.ts';

const FD = 3;
const QCOW2_SIZE = 128 * 1024;

/** A small image with data, zeroes and a snapshot. */
export function goodQcow2(extendedL2: boolean): Uint8Array {
  const host = new FakeHost(random(1));
  host.add(FD, new Uint8Array());
  createImage(host, FD, { size: QCOW2_SIZE, clusterBits: extendedL2 ? 14 : 12, extendedL2 });
  const rig = new Rig(512 << 10);
  const open = () =>
    rig.open((m, c) => new Qcow2Disk(host, { files: [{ fd: FD, qcow2: true }], cacheBytes: 32768 }, m, c));
  open();
  rig.bytes.fill(5);
  rig.run(rig.request(BlockOp.write, 512, 40000, 0), rig.request(BlockOp.writeZeroes, 65536, 16384, 0));
  rig.disk.close();
  createSnapshot(host, FD, 'one', 1);
  open();
  rig.run(rig.request(BlockOp.write, 4096, 8192, 0));
  rig.disk.close();
  return host.content(FD);
}

/** Codes that an image may be refused with, or that its use may end in. */
export const codedQcow2 = (e: unknown): void => {
  const { code } = e as { code?: string };
  if (code === undefined || !/^(QCOW2_|ENOSPC$)/.test(code)) throw e;
};

export function useQcow2(bytes: Uint8Array, readOnly: boolean): void {
  const host = new FakeHost(random(2));
  host.add(FD, bytes);
  const rig = new Rig(512 << 10);
  try {
    rig.open(
      (m, c) => new Qcow2Disk(host, { files: [{ fd: FD, qcow2: true }], readOnly, cacheBytes: 32768 }, m, c),
    );
  } catch (e) {
    codedQcow2(e);
    return;
  }
  const { size } = rig.disk;
  for (let at = 0; at < Math.min(size, QCOW2_SIZE); at += 16384) {
    const n = Math.min(16384, size - at);
    rig.run(rig.request(BlockOp.read, at, n, 0));
    if (!readOnly)
      rig.run(rig.request(BlockOp.write, at, Math.min(n, 5120), 0), rig.request(BlockOp.flush, 0, 0, 0));
  }
  rig.disk.close();
}

const VHDX_SIZE = MiB + 65536;
export const VHDX_ROOM = 9 * MiB;

/** An image with data and a log that waits to be replayed. */
export function goodVhdx(): Uint8Array {
  const host = new FakeHost(random(1), VHDX_ROOM);
  host.add(FD, new Uint8Array());
  createVhdx(host, FD, { size: VHDX_SIZE, blockBytes: MiB });
  const rig = new Rig(512 << 10);
  rig.open((m, c) => new VhdxDisk(host, { files: [{ fd: FD }] }, m, c));
  rig.bytes.fill(5);
  rig.run(rig.request(BlockOp.write, 512, 40000, 0));
  rig.disk.close();
  const read = readerOf(host, FD);
  const h = readFileHeader(read);
  h.logGuid = '12345678-1234-1234-1234-123456789abc';
  writeFileHeader(host, FD, h);
  const { batOffset } = readGeometry(read, h);
  const log = new LogWriter(host, FD, h);
  for (let i = 0; i < 3; i++)
    log.write([{ position: batOffset, content: new Uint8Array(read(batOffset, 4096).buffer) }]);
  return host.content(FD);
}

const codedVhdx = (e: unknown): void => {
  const { code } = e as { code?: string };
  if (code === undefined || !/^(VHDX_|ENOSPC$)/.test(code)) throw e;
};

/** @returns whether it was refused when it was opened */
export function useVhdx(bytes: Uint8Array, readOnly: boolean): boolean {
  const host = new FakeHost(random(2), VHDX_ROOM);
  host.add(FD, bytes);
  const rig = new Rig(512 << 10);
  try {
    checkVhdx(host, FD);
  } catch (e) {
    codedVhdx(e);
  }
  try {
    rig.open((m, c) => new VhdxDisk(host, { files: [{ fd: FD }], readOnly, cacheBytes: 32768 }, m, c));
  } catch (e) {
    codedVhdx(e);
    return true;
  }
  const { size } = rig.disk;
  for (let at = 0; at < Math.min(size, VHDX_SIZE); at += 262144) {
    const n = Math.min(16384, size - at);
    rig.run(rig.request(BlockOp.read, at, n, 0));
    if (!readOnly)
      rig.run(rig.request(BlockOp.write, at, Math.min(n, 5120), 0), rig.request(BlockOp.flush, 0, 0, 0));
  }
  rig.disk.close();
  return false;
}
