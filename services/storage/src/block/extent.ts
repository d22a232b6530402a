/** What a piece of a disk is, and who can tell. */
export const Kind = { unallocated: 0, zero: 1, data: 2, compressed: 3 } as const;

/** A piece of a disk that is alike; filled in by `lookup`, so that nothing is allocated. */
export class Extent {
  kind = 0;
  bytes = 0;
  fd = -1;
  /** data: offset in the file. compressed: index of the layer. */
  host = 0;
  /** compressed: file offset of the compressed bytes, and how many there are at most. */
  packed = 0;
  packedBytes = 0;
}

/** An image of some format, for reading. */
export interface ImageLayer {
  readonly fd: number;
  /** Bytes of the disk. */
  readonly size: number;
  /** What is at `position`: `out.bytes` of it, at most `bytes`. @throws coded errors */
  lookup(position: number, bytes: number, out: Extent): void;
  /** Bytes of a compressed cluster, in a format that has such. */
  readonly cluster?: number;
  /** Decompresses what `lookup` told of into `to`, a cluster. @throws coded errors */
  unpack?(packed: number, packedBytes: number, to: Uint8Array): void;
}
