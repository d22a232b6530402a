/**
 * The block layer: what a disk controller asks of a disk. A driver (raw, later qcow2, vhdx, NBD) takes requests that
 * its owner has pooled, works asynchronously and vectored into guest memory, and reports finished ones in batches;
 * nothing is allocated per request.
 */

export const BlockOp = {
  read: 0,
  write: 1,
  /** Everything completed before is on stable storage afterwards. */
  flush: 2,
  /** The range may lose its content. */
  discard: 3,
  /** The range reads as zeroes; with `unmap` it may lose its space. */
  writeZeroes: 4,
} as const;

export const BlockResult = {
  ok: 0,
  /** The backend failed. */
  io: 1,
  /** The driver cannot do this. */
  unsupported: 2,
  /** The backend has no room. */
  noSpace: 3,
  /** The backend is not there any more: its device is gone, or its file ends before the disk does. */
  gone: 4,
} as const;

/** Most memory pieces of one request. */
export const maxPieces = 256;

const NONE = new Float64Array(0);

export class BlockRequest {
  /** BlockOp. */
  op = 0;
  /** First byte on the disk. */
  position = 0;
  /** Bytes of the range; for read and write the sum of the pieces. */
  bytes = 0;
  /** A write that is complete only on stable storage. */
  fua = false;
  unmap = false;
  /** Memory pieces: offset in the memory that the driver was opened with, and bytes. */
  count = 0;
  offsets = NONE;
  lengths = NONE;
  /** BlockResult; set by the driver. */
  result = 0;
  /** Bytes done so far; the driver's own. */
  progress = 0;

  /** @param id the owner's own */
  constructor(readonly id: number) {}

  /** Forgets the last use. */
  start(op: number, position: number, bytes: number): void {
    this.op = op;
    this.position = position;
    this.bytes = bytes;
    this.fua = false;
    this.unmap = false;
    this.count = 0;
    this.result = BlockResult.ok;
    this.progress = 0;
  }

  /** Appends a piece of memory; room grows once for the largest request seen. */
  add(offset: number, length: number): void {
    if (this.count === this.offsets.length) {
      const room = Math.min(Math.max(8, this.count * 4), maxPieces);
      const [offsets, lengths] = [new Float64Array(room), new Float64Array(room)];
      offsets.set(this.offsets);
      lengths.set(this.lengths);
      this.offsets = offsets;
      this.lengths = lengths;
    }
    this.offsets[this.count] = offset;
    this.lengths[this.count] = length;
    this.count++;
  }
}

/** Finished requests, with `result` set. Called from the event loop, `poll` or `drain`, never within `submit` or `kick`. */
export type Completed = (requests: readonly BlockRequest[], count: number) => void;

export interface BlockDriver {
  /** Bytes of the disk; multiple of 512. */
  readonly size: number;
  readonly readOnly: boolean;
  /** Bytes of the block that the backend writes at once (st_blksize); a hint for the guest. */
  readonly physicalBytes: number;
  readonly canDiscard: boolean;
  /** Takes a request. It is the driver's until it was reported. Positions and lengths are inside `size`. */
  submit(request: BlockRequest): void;
  /** Starts everything submitted since the last kick. */
  kick(): void;
  /** Reports what is finished by now, without a system call when there is nothing. */
  poll(): void;
  /** Reports everything in flight, waiting for it; false after `timeoutMs`. */
  drain(timeoutMs: number): boolean;
  /**
   * Waits for I/O that an earlier process started on the same backend and left behind: afterwards none of it
   * reaches the backend or guest memory any more. Called once, before the first request.
   */
  fence(): void;
  /** Something that the supervisor has to say to whom it concerns; others ignore it. Descriptors are theirs from then on. */
  order?(order: BlockOrder, fds: readonly number[]): void;
  close(): void;
}

/** From the supervisor, while the disk serves. Not of a guest; unknown names are for another version. */
export interface BlockOrder {
  /** 'retry': what was held because of an error (event 'stopped') is tried again. */
  name: string;
}

/** Bytes of guest memory, as of an Uint8Array; one of those spans 4 GiB at most, and guests are larger. */
export class RamBytes {
  constructor(readonly buffer: ArrayBuffer) {}

  subarray(from: number, to: number): Uint8Array {
    return new Uint8Array(this.buffer, from, to - from);
  }
  fill(value: number, from: number, to: number): void {
    this.subarray(from, to).fill(value);
  }
  set(source: Uint8Array, at: number): void {
    this.subarray(at, at + source.length).set(source);
  }
}

/** How a disk controller gets its driver. `memory` is the whole guest RAM mapping. */
export type OpenBlock = (memory: ArrayBuffer, completed: Completed) => BlockDriver;
