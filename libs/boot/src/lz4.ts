/**
 * LZ4 as Linux packs its kernels: the "legacy frame" of the LZ4 frame format (magic, then blocks of up to 8 MiB, each
 * with its compressed size). Only decoding. Input is a file that may be damaged: every length is checked.
 */
const MAGIC = 0x184c2102;
const BLOCK = 8 << 20;

/** One block of the LZ4 block format; returns the new end of `out`, or -1 when the input is damaged. */
function block(input: Uint8Array, from: number, to: number, out: Uint8Array, start: number): number {
  let i = from;
  let o = start;
  while (i < to) {
    const token = input[i++]!;
    let literals = token >>> 4;
    if (literals === 15) {
      let more = 255;
      while (more === 255) {
        if (i >= to) return -1;
        more = input[i++]!;
        literals += more;
      }
    }
    if (i + literals > to || o + literals > out.length) return -1;
    out.set(input.subarray(i, i + literals), o);
    i += literals;
    o += literals;
    // The last sequence of a block has literals only.
    if (i === to) return o;
    if (i + 2 > to) return -1;
    const distance = input[i]! | (input[i + 1]! << 8);
    i += 2;
    let length = (token & 15) + 4;
    if ((token & 15) === 15) {
      let more = 255;
      while (more === 255) {
        if (i >= to) return -1;
        more = input[i++]!;
        length += more;
      }
    }
    if (distance === 0 || distance > o - start || o + length > out.length) return -1;
    // Overlap repeats what was just written, so this is a byte loop.
    for (const end = o + length; o < end; o++) out[o] = out[o - distance]!;
  }
  return i === to ? o : -1;
}

export const isLz4Legacy = (data: Uint8Array): boolean =>
  data.length >= 8 &&
  new DataView(data.buffer, data.byteOffset, data.byteLength).getUint32(0, true) === MAGIC;

/**
 * Unpacks a legacy LZ4 stream.
 * @param limit bytes that the result can have at most
 * @returns undefined when the stream is damaged or longer than `limit`
 */
export function unpackLz4Legacy(data: Uint8Array, limit: number): Uint8Array | undefined {
  const v = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const out = new Uint8Array(limit);
  let o = 0;
  for (let i = 4; i + 4 <= data.length; ) {
    const size = v.getUint32(i, true);
    i += 4;
    if (size === MAGIC) continue;
    if (size === 0 || i + size > data.length) return undefined;
    o = block(data, i, i + size, out.subarray(0, Math.min(limit, o + BLOCK)), o);
    if (o < 0) return undefined;
    i += size;
  }
  return out.subarray(0, o);
}
