/**
 * A target for each parser of a format: images with random bytes where it looks, checksums made good, are checked, read and
 * written. Whatever comes: a coded error or a disk, in bounded time. NYX_FUZZ_SECONDS makes it longer; a failure names its seed.
 */
import { expect, it } from 'vitest';
import { Compression, unpackCluster } from './qcow2/unpack.ts';
import { goodQcow2, goodVhdx, useQcow2, useVhdx } from './testing/malformed.ts';
import { random } from './testing/rig.ts';
import { MiB, Place, regionTableBytes, seal } from './vhdx/format.ts';

const seconds = Number(process.env.NYX_FUZZ_SECONDS ?? 3);
/** Longest that one image may take, ms. */
const LONGEST = 5000;

const interesting = [0, 1, 2, 3, 0x7f, 0x80, 0xfe, 0xff];

/** Tries `one` with a new seed each, as long as there is time. */
function fuzz(one: (rand: (n: number) => number) => void): void {
  const end = Date.now() + seconds * 1000;
  const base = Number(process.env.NYX_SEED);
  let tries = 0;
  for (; Date.now() < end || tries === 0; tries++) {
    const seed = (base + tries) >>> 0;
    const start = Date.now();
    try {
      one(random(seed));
    } catch (e) {
      throw new Error(`seed ${seed}: ${(e as Error).message}`, { cause: e });
    }
    if (Date.now() - start > LONGEST) throw new Error(`seed ${seed}: took ${Date.now() - start} ms`);
  }
  expect(tries).toBeGreaterThan(0);
}

/** Changes some bytes of a range: any, those that are often special, or a whole word. */
function spoil(bytes: Uint8Array, at: number, length: number, rand: (n: number) => number): void {
  for (let k = 0; k <= rand(6); k++) {
    const i = at + rand(length);
    if (rand(3) === 0)
      for (let j = 0; j < 8 && (i & ~7) + j < bytes.length; j++)
        bytes[(i & ~7) + j] = rand(2) ? 0 : rand(256);
    else bytes[i] = rand(2) ? interesting[rand(interesting.length)]! : rand(256);
  }
}

const patience = { timeout: seconds * 1000 + 30_000 };

it.each([false, true])('qcow2, extended L2: %s', patience, (extended) => {
  const image = goodQcow2(extended);
  fuzz((rand) => {
    const bytes = image.slice(0, rand(20) === 0 ? rand(image.length) : image.length);
    // The header, or any of the tables.
    spoil(bytes, 0, rand(2) ? Math.min(200, bytes.length) : bytes.length, rand);
    useQcow2(bytes, rand(2) === 0);
  });
});

it('vhdx', patience, () => {
  const image = goodVhdx();
  // Header, region table, log, metadata, table: where it is, how much of it is of interest, what its checksum covers.
  const places: [at: number, bytes: number, sealed: number][] = [
    [Place.headers[0], 96, 4096],
    [Place.headers[1], 96, 4096],
    [Place.regionTables[0], 96, regionTableBytes],
    [MiB, 160, 8192],
    [MiB + 8192, 160, 8192],
    [MiB + 16384, 160, 8192],
    [2 * MiB, 320, 0],
    [2 * MiB + 65536, 64, 0],
    [3 * MiB, 24, 0],
  ];
  fuzz((rand) => {
    const bytes = image.slice(0, rand(20) === 0 ? rand(image.length) : image.length);
    for (let n = 0; n <= rand(2); n++) {
      const [at, length, sealed] = places[rand(places.length)]!;
      if (at + Math.max(length, sealed) > bytes.length) continue;
      spoil(bytes, at, length, rand);
      if (sealed > 0 && rand(8)) seal(new DataView(bytes.buffer, at, sealed));
      // The other one of a pair would hide it.
      if (at === Place.headers[0] && rand(2)) bytes.fill(0, Place.headers[1], Place.headers[1] + 4096);
      if (at === Place.regionTables[0]) bytes.fill(0, Place.regionTables[1], Place.regionTables[1] + 4096);
    }
    useVhdx(bytes, rand(2) === 0);
  });
});

it('compressed clusters', patience, () => {
  const to = new Uint8Array(65536);
  fuzz((rand) => {
    const bytes = Uint8Array.from({ length: 20 + rand(4000) }, () => (rand(3) ? rand(256) : rand(4)));
    bytes.set([0x28, 0xb5, 0x2f, 0xfd, rand(2) ? 0x20 : rand(256)]);
    try {
      unpackCluster(rand(4) ? Compression.zstd : Compression.zlib, bytes, to);
    } catch (e) {
      if (!(e instanceof Error)) throw e;
    }
  });
});
