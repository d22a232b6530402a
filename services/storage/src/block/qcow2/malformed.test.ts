/** Images that lie: an error with a code, in bounded time and memory, whatever the bytes are. */
import { describe, expect, it } from 'vitest';
import { FakeHost } from '../testing/fakehost.ts';
import { codedQcow2, goodQcow2, useQcow2 } from '../testing/malformed.ts';
import { random } from '../testing/rig.ts';
import { check } from './check.ts';
import { parseHeader } from './header.ts';

const FD = 3;

describe.each([false, true])('malformed qcow2 images, extended L2: %s', (extended) => {
  const image = goodQcow2(extended);
  it('is good to begin with', () => {
    useQcow2(image, false);
    const host = new FakeHost(random(2));
    host.add(FD, image);
    expect(check(host, FD)).toMatchObject({ leaks: 0, corruptions: 0, flags: 0 });
  });
  it('random bytes in header and tables', { timeout: 30_000 }, () => {
    const rand = random(42);
    const start = process.memoryUsage().arrayBuffers;
    for (let i = 0; i < 400; i++) {
      const bytes = image.slice();
      for (let k = 0; k < 1 + rand(4); k++) {
        // Header, or any table: what is not data is small and often zero.
        const at = rand(3) === 0 ? rand(112) : rand(bytes.length);
        bytes[at] = [0, 0xff, 0x80, rand(256)][rand(4)]!;
      }
      useQcow2(bytes, i % 3 === 0);
      const host = new FakeHost(random(2));
      host.add(FD, bytes);
      try {
        check(host, FD, i % 2 === 0 ? 'all' : 'none');
      } catch (e) {
        codedQcow2(e);
      }
    }
    expect(process.memoryUsage().arrayBuffers - start).toBeLessThan(2 ** 30);
  });
  it('tables that are all ones, all the same, or point at one another', { timeout: 30_000 }, () => {
    const { l1Offset, refcountTableOffset } = parseHeader(image);
    const cluster = extended ? 16384 : 4096;
    for (const at of [l1Offset, refcountTableOffset])
      for (const entry of [
        -1n,
        1n << 63n,
        BigInt(l1Offset),
        BigInt(refcountTableOffset) | (1n << 63n),
        BigInt(cluster) << 40n,
      ]) {
        const bytes = image.slice();
        const view = new DataView(bytes.buffer);
        for (let i = 0; i < cluster; i += 8) view.setBigInt64(at + i, entry);
        useQcow2(bytes, false);
        useQcow2(bytes, true);
      }
  });
  it('every refcount says in use', () => {
    const bytes = image.slice();
    const view = new DataView(bytes.buffer);
    const { refcountTableOffset } = parseHeader(image);
    const block = Number(view.getBigUint64(refcountTableOffset));
    bytes.fill(1, block, block + (extended ? 16384 : 4096));
    for (let i = 0; i < (extended ? 16384 : 4096); i += 8)
      view.setBigUint64(refcountTableOffset + i, BigInt(block));
    useQcow2(bytes, false);
  });
});

it('header fields out of bounds are refused by name', () => {
  const image = goodQcow2(false);
  const refused = (at: number, value: number, what: RegExp): void => {
    const bytes = image.slice();
    new DataView(bytes.buffer).setUint32(at, value);
    expect(() => parseHeader(bytes.subarray(0, 4096))).toThrow(what);
  };
  refused(4, 4, /version 4/);
  refused(32, 2, /LUKS/);
  refused(24, 0x7fff_ffff, /larger than any file/);
  refused(36, 0x7fff_ffff, /32 MiB/);
  refused(36, 0, /needs/);
  refused(44, 7, /not at a cluster/);
  refused(56, 0x10_0000, /8 MiB/);
  refused(60, 0x10_0000, /snapshots/);
  refused(76, 0x20, /unknown/);
  refused(76, 4, /external file/);
  refused(96, 7, /refcount_order/);
  refused(100, 3, /header_length/);
});
