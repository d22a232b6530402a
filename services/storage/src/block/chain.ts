/** An image and what lies under it: one lookup through all layers, without an object per request. */
import { type Extent, type ImageLayer, Kind } from './extent.ts';

/** Layers at most; a chain that is longer is refused where it is opened. */
export const maxDepth = 64;

/** A raw file under an image. */
export interface RawLayer {
  fd: number;
  size: number;
}

export type Layer = ImageLayer | RawLayer;

/** Decompressed clusters that are kept. */
const UNPACKED = 4;

export class Chain {
  readonly #unpacked: { layer: number; packed: number; bytes: Uint8Array }[] = [];
  #next = 0;

  /** @param layers the topmost first */
  constructor(readonly layers: readonly Layer[]) {}

  /** What a guest reads at `position`, from layer `from` on: data, zero or compressed (`host`: which layer). */
  lookup(from: number, position: number, bytes: number, out: Extent): void {
    for (let i = from; i < this.layers.length; i++) {
      const layer = this.layers[i]!;
      // The last layer that is shorter: zeroes behind its end.
      if (position >= layer.size) break;
      const within = Math.min(bytes, layer.size - position);
      if (!('lookup' in layer)) {
        out.kind = Kind.data;
        out.fd = layer.fd;
        out.host = position;
        out.bytes = within;
        return;
      }
      layer.lookup(position, within, out);
      if (out.kind === Kind.compressed) out.host = i;
      if (out.kind !== Kind.unallocated) return;
      bytes = out.bytes;
    }
    out.kind = Kind.zero;
    out.bytes = bytes;
  }

  /** The cluster that a compressed extent lies in, decompressed; valid until the next call. */
  unpack(e: Extent): Uint8Array {
    const found = this.#unpacked.find((u) => u.packed === e.packed && u.layer === e.host);
    if (found) return found.bytes;
    const image = this.layers[e.host] as Required<ImageLayer>;
    const slot = this.#next++ % UNPACKED;
    let entry = this.#unpacked[slot];
    if (entry?.bytes.length !== image.cluster)
      entry = this.#unpacked[slot] = { layer: -1, packed: -1, bytes: new Uint8Array(image.cluster) };
    entry.layer = -1;
    image.unpack(e.packed, e.packedBytes, entry.bytes);
    entry.layer = e.host;
    entry.packed = e.packed;
    return entry.bytes;
  }
}
