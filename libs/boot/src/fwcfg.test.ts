import { describe, expect, it } from 'vitest';
import { FwCfgKey, fwCfgItems } from './fwcfg.ts';

describe('fw_cfg items', () => {
  const items = fwCfgItems({
    cpus: 3,
    ramBytes: 3 * 2 ** 30,
    hasDma: true,
    bootMenuMs: 500,
    bootOrder: ['/rom@a', '/pci@b'],
    files: { 'opt/org.example/x': Uint8Array.of(1) },
  });
  const key = (k: number): Uint8Array | undefined => items.find((i) => 'key' in i && i.key === k)?.bytes;
  const file = (name: string): Uint8Array | undefined =>
    items.find((i) => 'file' in i && i.file === name)?.bytes;

  it('tells firmware what the machine is', () => {
    expect(Buffer.from(key(FwCfgKey.signature)!).toString()).toBe('QEMU');
    expect([...key(FwCfgKey.id)!]).toEqual([3, 0, 0, 0]);
    expect(Buffer.from(key(FwCfgKey.ramSize)!).readBigUInt64LE()).toBe(3n << 30n);
    expect([...key(FwCfgKey.cpus)!, ...key(FwCfgKey.maxCpus)!]).toEqual([3, 0, 3, 0]);
    expect([...file('etc/boot-fail-wait')!]).toEqual([0xff, 0xff, 0xff, 0xff]);
    expect([...key(FwCfgKey.nographic)!, ...key(FwCfgKey.bootMenu)!]).toEqual([1, 0, 1, 0]);
    expect([...file('etc/boot-menu-wait')!]).toEqual([0xf4, 1]);
    expect(Buffer.from(file('bootorder')!).toString()).toBe('/rom@a\n/pci@b\0');
  });
  it('describes memory below and above 4 GiB in 20-byte entries', () => {
    const e820 = Buffer.from(file('etc/e820')!);
    const entries = Array.from({ length: e820.length / 20 }, (_, i) => [
      e820.readBigUInt64LE(i * 20),
      e820.readBigUInt64LE(i * 20 + 8),
      e820.readUInt32LE(i * 20 + 16),
    ]);
    expect(entries).toEqual([
      [0n, 1n << 31n, 1],
      [1n << 32n, 1n << 30n, 1],
    ]);
  });
  it('names files once, sorted, in at most 55 characters', () => {
    const names = items.flatMap((i) => ('file' in i ? [i.file] : []));
    expect(names).toEqual([...new Set(names)].sort());
    expect(names).toContain('opt/org.example/x');
    for (const n of names) expect(n.length).toBeLessThan(56);
  });
});
