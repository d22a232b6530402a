/** Opens disks by their paths, for tools; whoever runs them chose the files. */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { lockImage } from '@nyx/protocol/image-lock';
import { type BlockDriver, BlockRequest, type Completed } from '../block/block.ts';
import { blockError, hostIo } from '../block/host.ts';
import { Qcow2Disk } from '../block/qcow2/disk.ts';
import { qcow2Magic, readHeader } from '../block/qcow2/header.ts';
import { RawDisk } from '../block/raw.ts';

export type Format = 'raw' | 'qcow2';

/** What the first bytes say. Only where nobody's guest depends on it: information, and tools that were not told. */
export function probe(fd: number): Format {
  const b = Buffer.alloc(4);
  return readSync(fd, b, 0, 4, 0) === 4 && b.readUInt32BE(0) === qcow2Magic ? 'qcow2' : 'raw';
}

const MOST_LAYERS = 64;

/** Opens a file of an image, locked as what is to be done with it needs. @throws NyxError FILE_IN_USE, or the host's error */
export function openLocked(path: string, write: boolean, forceShare = false, flags?: string): number {
  const fd = openSync(path, flags ?? (write ? 'r+' : 'r'), 0o644);
  try {
    lockImage(fd, path, { write, forceShare });
    return fd;
  } catch (e) {
    closeSync(fd);
    throw e;
  }
}

/** Path and format of an image and all below it, the topmost first. @throws coded errors */
export function chainOf(path: string, format?: Format): { path: string; format: Format }[] {
  const list: { path: string; format: Format }[] = [];
  const seen = new Set<string>();
  for (let next: string | undefined = path, known = format; next !== undefined; ) {
    const fd = openSync(next, 'r');
    try {
      const { dev, ino } = fstatSync(fd);
      if (seen.has(`${dev}:${ino}`) || list.length === MOST_LAYERS)
        throw blockError('QCOW2_CHAIN', `${path}: the chain of backing files does not end (${next})`);
      seen.add(`${dev}:${ino}`);
      const is: Format = known ?? probe(fd);
      list.push({ path: next, format: is });
      if (is === 'raw') break;
      const { backing, backingFormat } = readHeader(hostIo, fd);
      if (backingFormat !== undefined && backingFormat !== 'raw' && backingFormat !== 'qcow2')
        throw blockError('QCOW2_UNSUPPORTED', `${next}: a backing file of format '${backingFormat}'`);
      known = backingFormat as Format | undefined;
      next = backing === undefined ? undefined : resolve(dirname(next), backing.replace(/^file:/, ''));
    } finally {
      closeSync(fd);
    }
  }
  return list;
}

/** A disk and one request at a time on it. */
export class Opened {
  readonly buffer: ArrayBuffer;
  readonly disk: BlockDriver;
  readonly #fds: number[] = [];
  readonly #request = new BlockRequest(0);
  #finished = 0;

  constructor(path: string, format: Format | undefined, write: boolean, bytes: number, forceShare = false) {
    this.buffer = new ArrayBuffer(bytes);
    const done: Completed = () => void this.#finished++;
    const chain = chainOf(path, format);
    for (const [i, l] of chain.entries()) this.#fds.push(openLocked(l.path, write && i === 0, forceShare));
    const readOnly = !write;
    this.disk =
      chain[0]!.format === 'raw'
        ? new RawDisk({ fd: this.#fds[0]!, readOnly }, this.buffer, done)
        : new Qcow2Disk(
            hostIo,
            { files: chain.map((l, i) => ({ fd: this.#fds[i]!, qcow2: l.format === 'qcow2' })), readOnly },
            this.buffer,
            done,
          );
  }

  /** `bytes` at `position` from or to the start of `buffer`. @throws DISK_IO */
  do(op: number, position: number, bytes: number): void {
    const r = this.#request;
    r.start(op, position, bytes);
    r.add(0, bytes);
    this.#finished = 0;
    this.disk.submit(r);
    if (!this.disk.drain(60_000) || this.#finished !== 1 || r.result !== 0)
      throw blockError(
        'DISK_IO',
        `${op === 0 ? 'reading' : 'writing'} ${bytes} bytes at ${position} failed (${r.result})`,
      );
  }

  close(): void {
    this.disk.close();
    for (const fd of this.#fds.splice(0)) closeSync(fd);
  }
}
