/**
 * What a virtio block device does with a request (VIRTIO 1.2 section 5.2.6): pure translation between descriptor
 * chains and block requests, and the configuration structure.
 */
import type { Chain } from '@nyx/device';
import { RegisterBank } from '@nyx/layout';
import { type BlockDriver, BlockOp, BlockRequest, BlockResult } from '../block/block.ts';
import { BlkBytes, BlkFeature, BlkLimit, BlkStatus, BlkType, blkConfig } from './regs.ts';

export interface BlkOptions {
  /** Queues, 1..8 (default 1). */
  queues: number;
  /** Up to 20 ASCII characters. */
  serial: string;
  /** Logical block, 512 or 4096. */
  blockBytes: number;
  /** Offers LIFETIME: what GET_LIFETIME answers. */
  lifetime?: Lifetime;
}

/**
 * Wear of the medium, as JEDEC JESD84-B50 has it (5.2.6): pre_eol_info (0 unknown, 1 normal, 2 warning, 3 urgent),
 * device_lifetime_est_typ_a and _b (0 unknown, 1..10 tenths of the lifetime, 11 beyond).
 */
export type Lifetime = readonly [preEol: number, typeA: number, typeB: number];

export const isLifetime = (v: unknown): v is Lifetime =>
  Array.isArray(v) &&
  v.length === 3 &&
  v.every((n, i) => Number.isInteger(n) && n >= 0 && n <= (i === 0 ? 3 : 11));

/** What became of a chain that `translate` read. */
export const Verdict = {
  /** The block request is to be submitted. */
  submit: 0,
  /** Answered: `status` and `written` are set. */
  answer: 1,
  /** There is no place for an answer. */
  refuse: 2,
} as const;

/**
 * A request of the guest: one block request, or several after another for discard and write zeroes.
 * transient: a successor finds the chain in its slot and translates it again.
 */
export class BlkRequest extends BlockRequest {
  /** Offset of the status byte in the RAM mapping. */
  statusAt = 0;
  status = 0;
  /** What the used element says when it succeeds. */
  written = 0;
  type = 0;
  /** Ranges (position, bytes) still to do, from `nextRange`. */
  ranges: Float64Array | undefined;
  rangeCount = 0;
  nextRange = 0;

  /** Goes on with the next range; false when there is none. */
  advance(): boolean {
    if (this.nextRange >= this.rangeCount || !this.ranges) return false;
    const i = this.nextRange++;
    const { unmap, fua } = this;
    this.start(this.op, this.ranges[2 * i]!, this.ranges[2 * i + 1]!);
    this.unmap = unmap;
    this.fua = fua;
    return true;
  }
}

const bit = (n: number): number => 1 << n;

/** Feature bits that this disk offers. */
export function offeredFeatures(disk: BlockDriver, o: BlkOptions): number {
  let f =
    bit(BlkFeature.sizeMax) | bit(BlkFeature.segMax) | bit(BlkFeature.blkSize) | bit(BlkFeature.topology);
  f |= bit(BlkFeature.flush) | bit(BlkFeature.configWce);
  if (o.lifetime) f |= bit(BlkFeature.lifetime);
  if (o.queues > 1) f |= bit(BlkFeature.multiQueue);
  if (disk.readOnly) f |= bit(BlkFeature.readOnly);
  else f |= bit(BlkFeature.writeZeroes) | (disk.canDiscard ? bit(BlkFeature.discard) : 0);
  return f;
}

/** The configuration structure; `writeback` is in the state. */
export function configBank(
  disk: BlockDriver,
  o: BlkOptions,
  writeback: { get(): number; set(v: number): void },
) {
  const capacity = disk.size / 512;
  const ratio = Math.max(1, disk.physicalBytes / o.blockBytes);
  const writable = !disk.readOnly;
  const discard = writable && disk.canDiscard;
  const ranges = BlkLimit.ranges;
  const fixed = {
    capacityLo: capacity >>> 0,
    capacityHi: Math.floor(capacity / 4294967296),
    sizeMax: BlkLimit.segmentBytes,
    segMax: BlkLimit.segments,
    cylinders: 0,
    heads: 0,
    sectors: 0,
    blkSize: o.blockBytes,
    physicalBlockExp: Math.floor(Math.log2(ratio)),
    alignmentOffset: 0,
    minIoSize: ratio,
    optIoSize: 0,
    unused0: 0,
    numQueues: o.queues,
    maxDiscardSectors: discard ? BlkLimit.rangeSectors : 0,
    maxDiscardSeg: discard ? ranges : 0,
    discardSectorAlignment: discard ? o.blockBytes / 512 : 0,
    maxWriteZeroesSectors: writable ? BlkLimit.rangeSectors : 0,
    maxWriteZeroesSeg: writable ? ranges : 0,
    writeZeroesMayUnmap: discard ? 1 : 0,
  };
  return new RegisterBank<string>(
    blkConfig,
    fixed,
    { read: { writeback: () => writeback.get() }, write: { writeback: (v) => writeback.set(v & 1) } },
    0,
  );
}

export class BlkChip {
  /** transient: made of the configuration. */
  readonly #id: Uint8Array;

  constructor(
    private readonly disk: BlockDriver,
    private readonly options: BlkOptions,
  ) {
    this.#id = new Uint8Array(BlkBytes.id);
    this.#id.set(new TextEncoder().encode(options.serial).subarray(0, BlkBytes.id));
  }

  /**
   * Reads a chain into `r`. Framing is free (2.7.4.1): the header is the first 16 readable bytes, the status the
   * last writable one. Gives a Verdict.
   * @param features that were accepted
   * @param writeback of the configuration structure
   */
  translate(r: BlkRequest, chain: Chain, features: number, writeback: number): number {
    if (chain.readableBytes < BlkBytes.header || chain.writableBytes < 1) return Verdict.refuse;
    r.statusAt = chain.writableAt(chain.writableBytes - 1);
    r.rangeCount = 0;
    r.nextRange = 0;
    r.written = 1;
    r.type = chain.readable32(0);
    const sector = chain.readable32(12) * 4294967296 + chain.readable32(8);
    const { disk } = this;
    switch (r.type) {
      case BlkType.in: {
        const bytes = chain.writableBytes - 1;
        if (!this.#inside(sector * 512, bytes)) return this.#answer(r, BlkStatus.ioError, 0);
        r.start(BlockOp.read, sector * 512, bytes);
        r.written = bytes + 1;
        pieces(r, chain, chain.readable, chain.count, 0, bytes);
        return bytes > 0 ? Verdict.submit : this.#answer(r, BlkStatus.ok, 1);
      }
      case BlkType.out: {
        const bytes = chain.readableBytes - BlkBytes.header;
        if (disk.readOnly || !this.#inside(sector * 512, bytes)) return this.#answer(r, BlkStatus.ioError, 1);
        r.start(BlockOp.write, sector * 512, bytes);
        r.fua = writeThrough(features, writeback);
        pieces(r, chain, 0, chain.readable, BlkBytes.header, bytes);
        return bytes > 0 ? Verdict.submit : this.#answer(r, BlkStatus.ok, 1);
      }
      case BlkType.flush:
        r.start(BlockOp.flush, 0, 0);
        return Verdict.submit;
      case BlkType.getId: {
        const room = chain.writableBytes - 1;
        const wrote = chain.copyIn(0, room < BlkBytes.id ? this.#id.subarray(0, room) : this.#id);
        return this.#answer(r, BlkStatus.ok, room > BlkBytes.id ? wrote : wrote + 1);
      }
      case BlkType.getLifetime: {
        const { lifetime } = this.options;
        if (lifetime === undefined || !(features & bit(BlkFeature.lifetime)))
          return this.#answer(r, BlkStatus.unsupported, 1);
        const room = chain.writableBytes - 1;
        if (room < BlkBytes.lifetime) return this.#answer(r, BlkStatus.ioError, 1);
        const wrote = chain.copyIn(0, Uint8Array.from(lifetime.flatMap((n) => [n, 0])));
        return this.#answer(r, BlkStatus.ok, room > BlkBytes.lifetime ? wrote : wrote + 1);
      }
      case BlkType.discard:
        return this.#ranges(r, chain, features, BlockOp.discard, BlkFeature.discard, writeback);
      case BlkType.writeZeroes:
        return this.#ranges(r, chain, features, BlockOp.writeZeroes, BlkFeature.writeZeroes, writeback);
      default:
        return this.#answer(r, BlkStatus.unsupported, 1);
    }
  }

  #answer(r: BlkRequest, status: number, written: number): number {
    r.status = status;
    r.written = written;
    return Verdict.answer;
  }

  /** Whole logical blocks, on the disk. `position` may be any number of a guest. */
  #inside(position: number, bytes: number): boolean {
    const { blockBytes } = this.options;
    return position % blockBytes === 0 && bytes % blockBytes === 0 && position + bytes <= this.disk.size;
  }

  /** Discard and write zeroes: an array of ranges, all checked before the first is done. */
  #ranges(
    r: BlkRequest,
    chain: Chain,
    features: number,
    op: number,
    feature: number,
    writeback: number,
  ): number {
    if (this.disk.readOnly) return this.#answer(r, BlkStatus.ioError, 1);
    if (!(features & bit(feature))) return this.#answer(r, BlkStatus.unsupported, 1);
    const bytes = chain.readableBytes - BlkBytes.header;
    const count = bytes / BlkBytes.range;
    if (!Number.isInteger(count) || count < 1 || count > BlkLimit.ranges)
      return this.#answer(r, BlkStatus.ioError, 1);
    r.ranges ??= new Float64Array(2 * BlkLimit.ranges);
    let unmap = op === BlockOp.writeZeroes;
    let inside = true;
    for (let i = 0; i < count; i++) {
      const at = BlkBytes.header + i * BlkBytes.range;
      const sector = chain.readable32(at + 4) * 4294967296 + chain.readable32(at);
      const sectors = chain.readable32(at + 8);
      const flags = chain.readable32(at + 12);
      // 5.2.6.2: unknown flags, and unmap in a discard, are not supported.
      if (flags & (op === BlockOp.discard ? ~0 : ~1)) return this.#answer(r, BlkStatus.unsupported, 1);
      if (!(flags & 1)) unmap = false;
      if (sectors > BlkLimit.rangeSectors || !this.#inside(sector * 512, sectors * 512)) inside = false;
      r.ranges[2 * i] = sector * 512;
      r.ranges[2 * i + 1] = sectors * 512;
    }
    if (!inside) return this.#answer(r, BlkStatus.ioError, 1);
    r.start(op, 0, 0);
    r.rangeCount = count;
    r.unmap = unmap;
    r.fua = op === BlockOp.writeZeroes && writeThrough(features, writeback);
    r.advance();
    return Verdict.submit;
  }

  /** Status byte of a finished block request. */
  static statusOf(result: number): number {
    return result === BlockResult.ok
      ? BlkStatus.ok
      : result === BlockResult.unsupported
        ? BlkStatus.unsupported
        : BlkStatus.ioError;
  }
}

/** 5.2.6.2: writes are stable when complete, unless the driver can flush or chose writeback. */
const writeThrough = (features: number, writeback: number): boolean =>
  features & bit(BlkFeature.configWce) ? writeback === 0 : (features & bit(BlkFeature.flush)) === 0;

/** Pieces from..to-1 of the chain without the first `skip` bytes, `bytes` in all. */
function pieces(r: BlkRequest, chain: Chain, from: number, to: number, skip: number, bytes: number): void {
  let left = bytes;
  for (let i = from; i < to && left > 0; i++) {
    const length = chain.lengths[i]!;
    if (skip >= length) {
      skip -= length;
      continue;
    }
    const take = Math.min(length - skip, left);
    r.add(chain.offsets[i]! + skip, take);
    left -= take;
    skip = 0;
  }
}
