/**
 * A target for each parser of a format: images with random bytes where it looks, checksums made good, are checked, read and
 * written; and what a server of a network disk says. Whatever comes: a coded error or a disk, in bounded time. NYX_FUZZ_SECONDS
 * makes it longer, NYX_SEED begins elsewhere; a failure names its seed.
 */
import { closeSync, openSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { acceptUnix, close, connectUnix, listenUnix } from '@nyx/native';
import { expect, it } from 'vitest';
import { BlockOp, BlockRequest } from './block.ts';
import { Chunk, handshake, Magic, ReplyFlag } from './nbd/protocol.ts';
import { Replies, type Slot } from './nbd/replies.ts';
import { Compression, unpackCluster } from './qcow2/unpack.ts';
import { goodQcow2, goodVhdx, useQcow2, useVhdx } from './testing/malformed.ts';
import { random } from './testing/rig.ts';
import { MiB, Place, regionTableBytes, seal } from './vhdx/format.ts';

const base = Number(process.env.NYX_SEED);
const seconds = Number(process.env.NYX_FUZZ_SECONDS ?? 2);
/** Longest that one image may take, microseconds of CPU time. */
const LONGEST = 5e6;

const interesting = [0, 1, 2, 3, 0x7f, 0x80, 0xfe, 0xff];

/** Tries `one` with a new seed each, as long as there is time. */
function fuzz(one: (rand: (n: number) => number) => void): void {
  const end = Date.now() + seconds * 1000;
  let tries = 0;
  for (; Date.now() < end || tries === 0; tries++) {
    const seed = (base + tries) >>> 0;
    const start = process.cpuUsage();
    try {
      one(random(seed));
    } catch (e) {
      throw new Error(`seed ${seed}: ${(e as Error).message}`, { cause: e });
    }
    const { user } = process.cpuUsage(start);
    if (user > LONGEST) throw new Error(`seed ${seed}: took ${user} us`);
  }
  console.log(`${expect.getState().currentTestName}: ${tries} tries from seed ${base}`);
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
  // One try after the other in the same memory: to get so much anew takes longer than to use it.
  const room = new Uint8Array(image.length);
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
    const bytes = room.subarray(0, rand(20) === 0 ? rand(image.length) : image.length);
    bytes.set(image.subarray(0, bytes.length));
    for (let n = 0; n <= rand(2); n++) {
      const [at, length, sealed] = places[rand(places.length)]!;
      if (at + Math.max(length, sealed) > bytes.length) continue;
      spoil(bytes, at, length, rand);
      if (sealed > 0 && rand(8)) seal(new DataView(room.buffer, at, sealed));
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

/** What may come of a server that lies. */
const codedNbd = (e: unknown): void => {
  const { code } = e as { code?: string };
  if (code === undefined || !/^(NBD_|EAGAIN$)/.test(code)) throw e;
};

const bytesOf = (...parts: [value: number, bytes: number][]): Buffer => {
  const b = Buffer.alloc(parts.reduce((n, [, bytes]) => n + bytes, 0));
  let at = 0;
  for (const [value, bytes] of parts) {
    if (bytes === 8) b.writeBigUInt64BE(BigInt(value), at);
    else b.writeUIntBE(value, at, bytes);
    at += bytes;
  }
  return b;
};

it('replies of an NBD server', patience, () => {
  const size = 1 << 19;
  const memory = new ArrayBuffer(size);
  const bytes = new Uint8Array(memory);
  const path = join(tmpdir(), `nyx-nbd-replies-${process.pid}`);
  fuzz((rand) => {
    // Requests under way: one in every other slot, each with an eighth of the middle of the memory.
    const slots: Slot[] = Array.from({ length: 8 }, (_, i) => {
      const r = new BlockRequest(i);
      r.start(i % 2 ? BlockOp.write : BlockOp.read, i * 65536, 8192);
      r.add(262_144 + i * 16384, 3000);
      r.add(262_144 + i * 16384 + 8192, 5192);
      const from = rand(2) * 512;
      return {
        request: rand(4) ? r : undefined,
        from,
        bytes: 8192 - from,
        got: 0,
        result: 0,
        head: bytes,
        sent: rand(8) > 0,
      };
    });
    const structured = rand(3) > 0;
    const replies = new Replies(slots, memory, (i) => {
      slots[i]!.request = undefined;
    });
    replies.begin(structured);
    const said: Buffer[] = [];
    for (let n = rand(12); n >= 0; n--) {
      const i = rand(9);
      const s = slots[i % 8]!;
      if (!structured || rand(4) === 0) {
        said.push(bytesOf([Magic.simpleReply, 4], [rand(3) ? 0 : rand(256), 4], [0, 4], [i, 4]));
        if (i % 2 === 0) said.push(Buffer.alloc(rand(3) ? s.bytes : rand(9000), 0x55));
        continue;
      }
      const type = [Chunk.none, Chunk.data, Chunk.data, Chunk.hole, 0x8001, 0x8002, 9][rand(7)]!;
      const at = (i % 8) * 65536 + s.from + (rand(3) ? 0 : rand(8192));
      const length = rand(2) ? s.bytes : rand(8192);
      const body =
        type === Chunk.data
          ? Buffer.concat([bytesOf([at, 8]), Buffer.alloc(length, 0x55)])
          : type === Chunk.hole
            ? bytesOf([at, 8], [length, 4])
            : type & 0x8000
              ? bytesOf([rand(128), 4], [0, 2])
              : Buffer.alloc(0);
      const flags = rand(2) ? ReplyFlag.done : 0;
      said.push(
        bytesOf([Magic.structuredReply, 4], [flags, 2], [type, 2], [0, 4], [i, 4], [body.length, 4]),
        body,
      );
    }
    const all = Buffer.concat(said);
    if (rand(2) && all.length > 0) spoil(all, 0, all.length, rand);
    bytes.fill(0xee);
    writeFileSync(path, all);
    // Where the file ends the server has hung up.
    const from = openSync(path, 'r');
    try {
      while (replies.pull(from));
    } catch (e) {
      codedNbd(e);
    } finally {
      closeSync(from);
    }
    // Only reads get data, and only where they said.
    for (let i = 0; i < size; i += 512) {
      const slot = Math.floor((i - 262_144) / 16384);
      const at = (i - 262_144) % 16384;
      const given = slot >= 0 && slot < 8 && slot % 2 === 0 && (at < 3072 || (at >= 8192 && at < 13_824));
      if (!given && bytes[i] !== 0xee) throw new Error(`memory at ${i} was written`);
    }
  });
  rmSync(path);
});

it('greetings of an NBD server', patience, () => {
  const path = join(tmpdir(), `nyx-nbd-fuzz-${process.pid}`);
  const listener = listenUnix(path);
  const hello = (flags: number): Buffer =>
    bytesOf([Magic.passwdHi, 4], [Magic.passwdLo, 4], [Magic.optionHi, 4], [Magic.optionLo, 4], [flags, 2]);
  const reply = (option: number, type: number, data: Buffer = Buffer.alloc(0)): Buffer =>
    Buffer.concat([
      bytesOf([Magic.optionReplyHi, 4], [Magic.optionReplyLo, 4], [option, 4], [type, 4], [data.length, 4]),
      data,
    ]);
  let agreed = 0;
  fuzz((rand) => {
    const said = [hello(3), reply(8, rand(2) ? 1 : 0x8000_0001)];
    for (let n = rand(4); n > 0; n--)
      said.push(reply(7, 3, bytesOf([rand(4), 2], [rand(1 << 30), 8], [rand(65536), 2], [rand(1 << 20), 4])));
    said.push(
      reply(7, 3, bytesOf([0, 2], [rand(2 ** 31), 8], [rand(65536), 2])),
      reply(7, [1, 1, 1, 0x8000_0001, 0x8000_0006, 99][rand(6)]!),
      bytesOf([rand(2 ** 31), 8], [rand(65536), 2]),
    );
    const all = Buffer.concat(said);
    if (rand(3)) spoil(all, 0, all.length, rand);
    const [client, server] = [connectUnix(path), acceptUnix(listener)];
    writeSync(server, all);
    try {
      const { size, most, physicalBytes } = handshake(client, 'export', 1);
      expect(size).toBeGreaterThanOrEqual(0);
      expect(most).toBeGreaterThanOrEqual(65536);
      expect(physicalBytes).toBeGreaterThanOrEqual(512);
      agreed++;
    } catch (e) {
      codedNbd(e);
    } finally {
      close(client);
      close(server);
    }
  });
  expect(agreed).toBeGreaterThan(0);
  close(listener);
  rmSync(path);
});
