/**
 * Compressed clusters: raw deflate, or Zstandard frames (RFC 8878). What comes after the stream is the next cluster's, so
 * the end is found in the stream itself.
 */
import { inflateRawSync } from 'node:zlib';
import { decompress } from 'fzstd';

/** Values of compression_type. */
export const Compression = { zlib: 0, zstd: 1 } as const;

/** Fills `to`, a cluster. @throws Error, without a code: the bytes are damaged */
export function unpackCluster(method: number, packed: Uint8Array, to: Uint8Array): void {
  if (method === Compression.zstd) unpackZstd(packed, to);
  else {
    const plain = inflateRawSync(packed, { maxOutputLength: to.length, finishFlush: 2 });
    if (plain.length !== to.length) throw new Error(`${plain.length} bytes long`);
    to.set(plain);
  }
}

function unpackZstd(packed: Uint8Array, to: Uint8Array): void {
  for (let at = 0, done = 0; done < to.length; ) {
    const frame = zstdFrame(packed.subarray(at), mostBlocks(to.length));
    // Without a size it has to be the only one: the whole cluster.
    const size = frame.content ?? to.length - done;
    if (size > to.length - done) throw new Error(`longer than ${to.length} bytes`);
    const part = to.subarray(done, done + size).fill(0);
    // With a place for its output it takes no memory of its own, whatever window the frame asks for.
    if (size > 0) decompress(packed.subarray(at, at + frame.bytes), part);
    at += frame.bytes;
    done += size;
  }
}

/** A few bytes can ask for the work of 128 KiB: compressors make no block of less than a KiB of content, but the last. */
const mostBlocks = (cluster: number): number => 16 + cluster / 1024;
const BLOCK = 128 * 1024;

/** Length of a frame (3.1.1), and of its content if it says so. */
function zstdFrame(b: Uint8Array, blocks: number): { bytes: number; content: number | undefined } {
  const view = new DataView(b.buffer, b.byteOffset, b.length);
  const need = (n: number): void => {
    if (n > b.length) throw new Error('ends within a frame');
  };
  need(6);
  if (view.getUint32(0, true) !== 0xfd2fb528) throw new Error('no Zstandard frame');
  const descriptor = b[4]!;
  const single = (descriptor & 0x20) !== 0;
  if (descriptor & 0x08) throw new Error('a reserved bit is set');
  if (descriptor & 0x03) throw new Error('needs a dictionary');
  let at = single ? 5 : 6;
  const sizeBytes = [single ? 1 : 0, 2, 4, 8][descriptor >> 6]!;
  need(at + sizeBytes);
  let content: number | undefined;
  if (sizeBytes === 1) content = b[at];
  else if (sizeBytes === 2) content = view.getUint16(at, true) + 256;
  else if (sizeBytes >= 4)
    content = view.getUint32(at, true) + (sizeBytes === 8 ? view.getUint32(at + 4, true) * 4294967296 : 0);
  at += sizeBytes;
  for (let last = false; !last; ) {
    need(at + 3);
    const header = b[at]! | (b[at + 1]! << 8) | (b[at + 2]! << 16);
    last = (header & 1) !== 0;
    if (header >>> 3 > BLOCK || --blocks < 0) throw new Error('blocks too large, or too many');
    // One byte that is repeated, or so many bytes.
    at += 3 + (((header >> 1) & 3) === 1 ? 1 : header >>> 3);
  }
  if (descriptor & 0x04) at += 4;
  need(at);
  return { bytes: at, content };
}
