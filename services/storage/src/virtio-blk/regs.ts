/** The block device of VIRTIO 1.2, section 5.2, as data. */
import { virtioFields } from '@nyx/device';
import { pad, registers, struct, u8, u32 } from '@nyx/layout';

/** Feature bits, 5.2.3 (numbers of bits). */
export const BlkFeature = {
  sizeMax: 1,
  segMax: 2,
  readOnly: 5,
  blkSize: 6,
  flush: 9,
  topology: 10,
  configWce: 11,
  multiQueue: 12,
  discard: 13,
  writeZeroes: 14,
  lifetime: 15,
} as const;

/** Request types, 5.2.6. */
export const BlkType = {
  in: 0,
  out: 1,
  flush: 4,
  getId: 8,
  getLifetime: 10,
  discard: 11,
  writeZeroes: 13,
} as const;

/** Status byte, 5.2.6. */
export const BlkStatus = { ok: 0, ioError: 1, unsupported: 2 } as const;

/** Bytes of the header, of a discard or write zeroes segment, of the serial number, and of struct virtio_blk_lifetime. */
export const BlkBytes = { header: 16, range: 16, id: 20, lifetime: 6 } as const;

export const BlkLimit = {
  queues: 8,
  /** Requests in flight, all queues together. */
  slots: 128,
  queueSize: 256,
  /** Data pieces: a chain of 256 without header and status. */
  segments: 254,
  segmentBytes: 0x40_0000,
  /** Ranges of one discard or write zeroes request, and sectors of one. */
  ranges: 32,
  rangeSectors: 0x40_0000,
} as const;

/** struct virtio_blk_config, 5.2.4, without secure erase and zones. */
export const blkConfig = registers('virtioBlkConfig', 60, {
  capacity: { at: 0, width: 8, doc: 'Sectors of 512 bytes', mask: 0 },
  sizeMax: { at: 8, width: 4, doc: 'Bytes of a segment', mask: 0 },
  segMax: { at: 12, width: 4, doc: 'Segments of a request', mask: 0 },
  cylinders: { at: 16, width: 2, doc: 'Without GEOMETRY 0', mask: 0 },
  heads: { at: 18, width: 1, doc: 'Without GEOMETRY 0', mask: 0 },
  sectors: { at: 19, width: 1, doc: 'Without GEOMETRY 0', mask: 0 },
  blkSize: { at: 20, width: 4, doc: 'Bytes of a logical block', mask: 0 },
  physicalBlockExp: { at: 24, width: 1, doc: 'Logical blocks of a physical one, log2', mask: 0 },
  alignmentOffset: { at: 25, width: 1, doc: 'First aligned logical block', mask: 0 },
  minIoSize: { at: 26, width: 2, doc: 'Logical blocks', mask: 0 },
  optIoSize: { at: 28, width: 4, doc: 'Logical blocks', mask: 0 },
  writeback: { at: 32, width: 1, doc: '1: writeback, 0: writethrough' },
  unused0: { at: 33, width: 1, doc: '0', mask: 0 },
  numQueues: { at: 34, width: 2, doc: 'Queues', mask: 0 },
  maxDiscardSectors: { at: 36, width: 4, doc: '', mask: 0 },
  maxDiscardSeg: { at: 40, width: 4, doc: '', mask: 0 },
  discardSectorAlignment: { at: 44, width: 4, doc: '', mask: 0 },
  maxWriteZeroesSectors: { at: 48, width: 4, doc: '', mask: 0 },
  maxWriteZeroesSeg: { at: 52, width: 4, doc: '', mask: 0 },
  writeZeroesMayUnmap: { at: 56, width: 1, doc: '', mask: 0 },
});

export const BlkState = struct(
  'VirtioBlkState',
  {
    ...virtioFields(BlkLimit.queues, BlkLimit.queues + 1, BlkLimit.slots),
    writeback: u8('as the driver set it', { reset: 1, max: 1 }),
    pad0: pad(3),
    capacityLo: u32('sectors that the driver was told of'),
    capacityHi: u32(''),
  },
  { doc: 'virtio-blk' },
);
