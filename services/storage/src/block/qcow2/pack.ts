/**
 * Writes compressed clusters ("Compressed Clusters Descriptor") into an image that has nothing yet and that nobody else has open.
 * They follow each other without gaps; what lies on both sides of a host cluster's border counts in both.
 */
import { deflateRawSync } from 'node:zlib';
import { blockError, type HostIo, writeAll } from '../host.ts';
import { compressedFlag, copied, Qcow2Image } from './image.ts';
import { put64, Refcounts } from './refcounts.ts';
import { Compression } from './unpack.ts';

/** As QEMU's: its reader gives the stream a window of 4 KiB. */
const deflate = { windowBits: 12, memLevel: 9 } as const;

export class Packer {
  readonly #image: Qcow2Image;
  readonly #refcounts: Refcounts;
  readonly #most: number;
  /** The L2 table being filled, and which it is. */
  readonly #table: DataView;
  #index = -1;
  /** Where the next compressed bytes go, and the end of that host cluster; equal: there is no room. */
  #at = 0;
  #end = 0;

  /** @throws QCOW2_OPTION, QCOW2_INVALID, or the host's error */
  constructor(
    private readonly io: HostIo,
    private readonly fd: number,
  ) {
    this.#image = new Qcow2Image(io, fd, 4096 * 8);
    const { header, cluster, l1 } = this.#image;
    if (header.compression !== Compression.zlib)
      throw blockError('QCOW2_OPTION', 'qcow2: clusters are compressed with zlib only; zstd can be read');
    for (let i = 0; i < l1.byteLength / 8; i++)
      if (this.#image.table(i) !== 0)
        throw blockError('QCOW2_OPTION', 'qcow2: an image whose clusters have their places already');
    this.#refcounts = new Refcounts(io, fd, header);
    this.#most = 2 ** Math.min(53, 2 ** header.refcountOrder) - 1;
    this.#table = new DataView(new ArrayBuffer(cluster));
  }

  /** Bytes of a cluster. */
  get cluster(): number {
    return this.#image.cluster;
  }

  /** @param index of the disk's cluster, larger each time. @param data all of it. @throws the host's error */
  put(index: number, data: Uint8Array): void {
    const { cluster, entryBytes, extended, perTable } = this.#image;
    const table = Math.floor(index / perTable);
    if (table !== this.#index) this.#store(table);
    const entry = (index % perTable) * entryBytes;
    const packed = deflateRawSync(data, deflate);
    if (packed.length >= cluster) {
      const at = this.#take() * cluster;
      writeAll(this.io, this.fd, data.buffer as ArrayBuffer, data.byteOffset, cluster, at);
      this.#entry(this.#table, entry, at);
      if (extended) this.#table.setUint32(entry + 12, 0xffff_ffff);
      return;
    }
    const at = this.#place(packed.length);
    writeAll(this.io, this.fd, packed.buffer as ArrayBuffer, packed.byteOffset, packed.length, at);
    // Sectors beyond the first, above as many bits as an offset may have.
    const sectors = Math.floor((at + packed.length - 1) / 512) - Math.floor(at / 512);
    const shift = 62 - (this.#image.header.clusterBits - 8) - 32;
    put64(this.#table, entry, at);
    const high = this.#table.getUint32(entry);
    this.#table.setUint32(entry, (compressedFlag | (sectors << shift) | high) >>> 0);
  }

  /** Everything is in the file then. @throws the host's error */
  finish(): void {
    this.#store(-1);
    const { cluster } = this.#image;
    // Readers take whole sectors.
    const end = Math.ceil(this.io.size(this.fd) / cluster) * cluster;
    if (end > this.io.size(this.fd)) writeAll(this.io, this.fd, new ArrayBuffer(1), 0, 1, end - 1);
    this.io.fdatasync(this.fd);
  }

  #take(): number {
    const first = this.#refcounts.find(1);
    this.#refcounts.take(first, 1);
    return first;
  }

  /** Counts where `bytes`, less than a cluster, will lie. */
  #place(bytes: number): number {
    const { cluster } = this.#image;
    const refcounts = this.#refcounts;
    const current = this.#end / cluster - 1;
    let at = this.#at;
    const left = this.#end - at;
    if (left > 0 && refcounts.get(current) < this.#most && bytes <= left) refcounts.add(current, 1, 1);
    else {
      const next = this.#take();
      if (left > 0 && next * cluster === this.#end && refcounts.get(current) < this.#most)
        refcounts.add(current, 1, 1);
      else at = next * cluster;
      this.#end = (next + 1) * cluster;
    }
    this.#at = at + bytes;
    return at;
  }

  /** Writes the present L2 table, if anything is in it, and begins the next one. */
  #store(next: number): void {
    const { cluster, header } = this.#image;
    if (this.#index >= 0) {
      const at = this.#take() * cluster;
      writeAll(this.io, this.fd, this.#table.buffer as ArrayBuffer, 0, cluster, at);
      const entry = new DataView(new ArrayBuffer(8));
      this.#entry(entry, 0, at);
      writeAll(this.io, this.fd, entry.buffer as ArrayBuffer, 0, 8, header.l1Offset + 8 * this.#index);
      new Uint8Array(this.#table.buffer).fill(0);
    }
    this.#index = next;
  }

  /** Of a cluster that nobody else refers to. */
  #entry(view: DataView, at: number, host: number): void {
    put64(view, at, host);
    view.setUint32(at, (view.getUint32(at) | copied) >>> 0);
  }
}
