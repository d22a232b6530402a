/** Images that lie: an error with a code, in bounded time and memory, whatever the bytes are. */
import { describe, expect, it } from 'vitest';
import { FakeHost } from '../testing/fakehost.ts';
import { goodVhdx, useVhdx, VHDX_ROOM } from '../testing/malformed.ts';
import { Rig, random } from '../testing/rig.ts';
import { VhdxDisk } from './disk.ts';
import { MiB, Place, putGuid, regionTableBytes, seal } from './format.ts';

const FD = 3;
const ROOM = VHDX_ROOM;

const sealed = (bytes: Uint8Array, at: number, length: number): void =>
  seal(new DataView(bytes.buffer, at, length));

describe('malformed vhdx images', () => {
  const image = goodVhdx();
  it('is good to begin with', () => {
    expect(useVhdx(image, false)).toBe(false);
    expect(useVhdx(image, true)).toBe(false);
  });
  it('random bytes in headers, regions, metadata, table and log, with their checksums made good', {
    timeout: 60_000,
  }, () => {
    const rand = random(9);
    const places: [at: number, bytes: number, seal: number][] = [
      [Place.headers[0], 96, 4096],
      [Place.headers[1], 96, 4096],
      [Place.regionTables[0], 96, regionTableBytes],
      [MiB, 160, 8192],
      [MiB + 8192, 160, 8192],
      [2 * MiB, 320, 0],
      [2 * MiB + 65536, 64, 0],
      [3 * MiB, 24, 0],
    ];
    let refused = 0;
    for (let i = 0; i < 160; i++) {
      const bytes = image.slice();
      const [at, length, whole] = places[i % places.length]!;
      for (let k = 0; k <= rand(3); k++)
        bytes[at + rand(length)] = rand(3) ? rand(256) : [0, 1, 0x7f, 0xff][rand(4)]!;
      if (whole > 0) sealed(bytes, at, whole);
      // One header, or one region table, would hide the other.
      if (i % 8 < 2) bytes.fill(0, Place.headers[1 - (i % 8)]!, Place.headers[1 - (i % 8)]! + 4096);
      if (i % 8 === 2) bytes.fill(0, Place.regionTables[1], Place.regionTables[1] + 4096);
      if (useVhdx(bytes, i % 2 === 0)) refused++;
    }
    expect(refused).toBeGreaterThan(20);
  });
  it('a log of entries that all claim to fill it', () => {
    const bytes = image.slice();
    const v = new DataView(bytes.buffer);
    for (let at = MiB; at < 2 * MiB; at += 4096) {
      v.setUint32(at, 0x65676f6c, true);
      v.setUint32(at + 8, MiB, true);
      putGuid(v, at + 32, '12345678-1234-1234-1234-123456789abc');
    }
    expect(useVhdx(bytes, false)).toBe(true);
  });
  it('fields out of bounds are refused by name', () => {
    const refused = (what: RegExp, change: (v: DataView, bytes: Uint8Array) => void): void => {
      const bytes = image.slice();
      change(new DataView(bytes.buffer), bytes);
      const host = new FakeHost(random(2), ROOM);
      host.add(FD, bytes);
      const rig = new Rig(65536);
      expect(() => rig.open((m, c) => new VhdxDisk(host, { files: [{ fd: FD }] }, m, c))).toThrow(what);
    };
    const header = (change: (v: DataView, at: number) => void) => (v: DataView, bytes: Uint8Array) => {
      for (const at of Place.headers) {
        change(v, at);
        sealed(bytes, at, 4096);
      }
    };
    const region = (change: (v: DataView, at: number) => void) => (v: DataView, bytes: Uint8Array) => {
      for (const at of Place.regionTables) {
        change(v, at);
        sealed(bytes, at, regionTableBytes);
      }
    };
    const metadata = 2 * MiB;
    refused(/vhdxfile/, (v) => v.setUint8(0, 0));
    refused(/neither header/, (v) => Place.headers.map((at) => v.setUint8(at + 100, 9)));
    refused(
      /version 2/,
      header((v, at) => v.setUint16(at + 66, 2, true)),
    );
    refused(
      /log of version 1/,
      header((v, at) => v.setUint16(at + 64, 1, true)),
    );
    refused(
      /whole MiB/,
      header((v, at) => v.setUint32(at + 68, 77, true)),
    );
    refused(
      /must be replayed/,
      header((v, at) => v.setUint32(at + 68, 0xfff0_0000, true)),
    );
    refused(/neither region table/, (v) => Place.regionTables.map((at) => v.setUint8(at + 100, 9)));
    refused(
      /2048 regions/,
      region((v, at) => v.setUint32(at + 8, 2048, true)),
    );
    refused(
      /overlap/,
      region((v, at) => v.setUint32(at + 32, 2 * MiB, true)),
    );
    refused(
      /required and unknown/,
      region((v, at) => v.setUint8(at + 16, 9)),
    );
    refused(/metadata table/, (v) => v.setUint8(metadata, 0));
    refused(/metadata items/, (v) => v.setUint16(metadata + 10, 9999, true));
    refused(/blocks of 3 bytes/, (v) => v.setUint32(metadata + 65536, 3, true));
    refused(/larger than any file|64 TiB/, (v) => v.setUint32(metadata + 65536 + 12, 0x7fff_ffff, true));
    refused(/entries are needed/, (v) => v.setUint32(metadata + 65536 + 12, 0x400, true));
    refused(/parent/, (v) => v.setUint32(metadata + 65536 + 4, 2, true));
  });
});
