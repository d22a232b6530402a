/** Compressed bytes that lie: an error or a cluster, in bounded time. */
import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { random } from '../testing/rig.ts';
import { Compression, unpackCluster } from './unpack.ts';

const CLUSTER = 65536;
const zstd = (content: Uint8Array, ...args: string[]): Uint8Array | undefined => {
  const r = spawnSync('zstd', ['-q', '-c', `--stream-size=${content.length}`, ...args], {
    input: content,
  });
  return r.status === 0 ? new Uint8Array(r.stdout) : undefined;
};
const content = new TextEncoder().encode(
  Array.from({ length: CLUSTER }, (_, i) => `${(i * 7919) % 1000} `)
    .join('')
    .slice(0, CLUSTER),
);
const packed = zstd(content);
if (!packed) console.warn('skipped: Zstandard of damaged bytes, the program zstd is not installed');

describe.skipIf(!packed)('Zstandard', () => {
  it('one frame or several, with or without a size, with something behind it', () => {
    const to = new Uint8Array(CLUSTER);
    const half = CLUSTER / 2;
    const frames = [zstd(content.subarray(0, half))!, zstd(content.subarray(half))!];
    const several = new Uint8Array([...frames[0]!, ...frames[1]!]);
    for (const p of [
      packed!,
      zstd(content, '--no-content-size', '-19')!,
      several,
      zstd(content, '--no-check')!,
    ]) {
      to.fill(1);
      unpackCluster(Compression.zstd, new Uint8Array([...p, 0x28, 0xb5, 0x2f, 0xfd, 1, 2]), to);
      expect(Buffer.compare(to, content)).toBe(0);
    }
    const long = zstd(new Uint8Array([...content, 1]))!;
    expect(() => unpackCluster(Compression.zstd, long, to)).toThrow(/longer/);
  });
  it('damaged bytes', { timeout: 120_000 }, () => {
    const rand = random(3);
    const to = new Uint8Array(CLUSTER);
    let refused = 0;
    const start = process.cpuUsage();
    for (let i = 0; i < 2000; i++) {
      const bad = packed!.slice(0, i % 3 ? packed!.length : rand(packed!.length));
      for (let k = 0; k <= rand(4); k++) bad[rand(i % 2 ? 32 : bad.length)] = rand(256);
      try {
        unpackCluster(Compression.zstd, bad, to);
      } catch {
        refused++;
      }
    }
    expect(refused).toBeGreaterThan(1000);
    // Microseconds of this process; a busy host is not its fault.
    expect(process.cpuUsage(start).user).toBeLessThan(15e6);
  });
  it('many blocks of little', () => {
    const bomb = new Uint8Array(CLUSTER);
    bomb.set([0x28, 0xb5, 0x2f, 0xfd, 0, 0x58]);
    // Repeats of one byte, 128 KiB each, never the last.
    for (let at = 6; at + 4 <= CLUSTER; at += 4) bomb.set([0x02, 0x00, 0x10, 7], at);
    expect(() => unpackCluster(Compression.zstd, bomb, new Uint8Array(CLUSTER))).toThrow(/too many/);
  });
});
