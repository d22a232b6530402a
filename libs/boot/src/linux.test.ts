import { existsSync, readdirSync, readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { hdr, parseBzImage, payloadFormat, unpackKernel } from './bzimage.ts';
import { E820, e820Map } from './e820.ts';
import { parseElf } from './elf.ts';
import { BootError } from './errors.ts';
import { loadFirmware } from './firmware.ts';
import { type DirectBoot, loadKernel } from './linux.ts';
import { low } from './lowmem.ts';
import { GuestRam } from './ram.ts';

const MiB = 1 << 20;
const ramOf = (mib: number): GuestRam => new GuestRam(new ArrayBuffer(mib * MiB), mib * MiB);

/** The smallest bzImage that is right in all that a loader looks at. */
function bzImage(change: (v: DataView, file: Uint8Array) => void = () => {}): Uint8Array {
  const file = new Uint8Array(512 * 5 + 0x400);
  const v = new DataView(file.buffer);
  v.setUint8(hdr.setupSects, 4);
  v.setUint32(hdr.syssize, 0x400 / 16, true);
  v.setUint16(hdr.bootFlag, 0xaa55, true);
  v.setUint8(hdr.jump, 0xeb);
  v.setUint8(hdr.jump + 1, 0x6a);
  v.setUint32(hdr.magic, 0x53726448, true);
  v.setUint16(hdr.version, 0x20f, true);
  v.setUint8(hdr.loadflags, 1);
  v.setUint32(hdr.initrdAddrMax, 0x7fff_ffff, true);
  v.setUint8(hdr.relocatable, 1);
  v.setUint16(hdr.xloadflags, 3, true);
  v.setUint32(hdr.cmdlineSize, 2047, true);
  v.setBigUint64(hdr.prefAddress, 0x100_0000n, true);
  v.setUint32(hdr.initSize, 4 * MiB, true);
  file.fill(0x90, 512 * 5);
  // Bytes around the header that must not get into boot_params.
  file.fill(0xee, 0, hdr.setupSects);
  file.fill(0xee, 0x26c, 0x300);
  change(v, file);
  return file;
}

interface Segment {
  address: number;
  data: number[];
  bytes?: number;
}
function elf(options: { entry: number; segments: Segment[]; pvh?: number; is64?: boolean }): Uint8Array {
  const { entry, segments, pvh, is64 = true } = options;
  const file = new Uint8Array(8192);
  const v = new DataView(file.buffer);
  file.set([0x7f, 0x45, 0x4c, 0x46, is64 ? 2 : 1, 1, 1]);
  v.setUint16(16, 2, true);
  v.setUint16(18, is64 ? 62 : 3, true);
  const word = (at: number, value: number): void =>
    is64 ? v.setBigUint64(at, BigInt(value), true) : v.setUint32(at, value, true);
  word(24, entry);
  word(is64 ? 32 : 28, 64);
  const size = is64 ? 56 : 32;
  v.setUint16(is64 ? 54 : 42, size, true);
  v.setUint16(is64 ? 56 : 44, segments.length + (pvh === undefined ? 0 : 1), true);
  let data = 4096;
  const header = (
    i: number,
    type: number,
    at: number,
    address: number,
    fileBytes: number,
    bytes: number,
  ): void => {
    const p = 64 + i * size;
    v.setUint32(p, type, true);
    word(p + (is64 ? 8 : 4), at);
    word(p + (is64 ? 24 : 12), address);
    word(p + (is64 ? 32 : 16), fileBytes);
    word(p + (is64 ? 40 : 20), bytes);
  };
  segments.forEach((s, i) => {
    file.set(s.data, data);
    header(i, 1, data, s.address, s.data.length, s.bytes ?? s.data.length);
    data += s.data.length;
  });
  if (pvh !== undefined) {
    data = (data + 3) & ~3;
    // A foreign note first.
    const notes = [
      [4, 4, 1, 0x00554e47, 7],
      [4, 4, 18, 0x006e6558, pvh],
    ].flat();
    for (const [i, n] of notes.entries()) v.setUint32(data + i * 4, n, true);
    header(segments.length, 4, data, 0, notes.length * 4, notes.length * 4);
  }
  return file;
}

const boot = (kernel: Uint8Array, more: Partial<DirectBoot> = {}): DirectBoot => ({
  kernel,
  cmdline: 'console=ttyS0',
  e820: e820Map(32 * MiB),
  rsdp: 0xe0000,
  ...more,
});
const codeOf = (work: () => unknown): string => {
  try {
    work();
  } catch (error) {
    if (error instanceof BootError) return error.code;
    throw error;
  }
  return 'none';
};
const initrd = Buffer.concat([Buffer.from([0x1f, 0x8b]), Buffer.alloc(5000, 7)]);

describe('bzImage by the 64-bit boot protocol', () => {
  it('loads code, boot_params, command line, initrd, tables', () => {
    const ram = ramOf(32);
    new Uint8Array(ram.buffer).fill(0xcc);
    const plan = loadKernel(ram, boot(bzImage(), { initrd, seed: new Uint8Array(32).fill(5) }));
    expect(plan).toMatchObject({
      bootMode: 1,
      rip: 0x100_0200,
      rsi: low.bootParams,
      cr3: low.pml4,
      gdtBase: low.gdt,
      gdtLimit: 31,
      codeSelector: 0x10,
      dataSelector: 0x18,
    });
    expect([...ram.bytes(0x100_0000, 0x400)].every((b) => b === 0x90)).toBe(true);
    const v = ram.view(low.bootParams, 4096);
    expect(v.getUint32(hdr.magic, true)).toBe(0x53726448);
    expect(v.getUint8(hdr.typeOfLoader)).toBe(0xff);
    expect(Number(v.getBigUint64(0x70, true))).toBe(0xe0000);
    const cmdline = v.getUint32(hdr.cmdLinePtr, true);
    expect(Buffer.from(ram.bytes(cmdline, 14)).toString()).toBe('console=ttyS0\0');
    const at = v.getUint32(hdr.ramdiskImage, true);
    expect([at % 4096, v.getUint32(hdr.ramdiskSize, true)]).toEqual([0, initrd.length]);
    expect(Buffer.from(ram.bytes(at, initrd.length)).equals(initrd)).toBe(true);
    expect(at).toBeGreaterThan(31 * MiB);
    // zero-page.rst: what is not the header is zero, the sentinel (0x1ef) above all.
    expect(v.getUint8(0x1ef)).toBe(0);
    expect([v.getUint8(0), v.getUint8(0x26c), v.getUint8(0x2cf)]).toEqual([0, 0, 0]);
    expect(v.getUint8(0x1e8)).toBe(e820Map(32 * MiB).length);
    expect(Number(v.getBigUint64(0x2d0 + 60 + 8, true))).toBe(31 * MiB);
    const seed = Number(v.getBigUint64(hdr.setupData, true));
    expect([...ram.bytes(seed, 17)]).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 32, 0, 0, 0, 5]);
  });

  it('maps the first 4 GiB one to one and nothing else', () => {
    const ram = ramOf(32);
    new Uint8Array(ram.buffer).fill(0xcc, 0, MiB);
    const { cr3, gdtBase } = loadKernel(ram, boot(bzImage()));
    const entry = (table: number, i: number): number =>
      Number(ram.view(table + i * 8, 8).getBigUint64(0, true));
    const walk = (address: number): number | undefined => {
      let table = cr3;
      for (const shift of [39, 30, 21]) {
        const e = entry(table, Math.floor(address / 2 ** shift) % 512);
        if (!(e & 1)) return undefined;
        if (shift === 21)
          return e & 0x80 ? Math.floor(e / 2 ** 21) * 2 ** 21 + (address % 2 ** 21) : undefined;
        table = Math.floor(e / 4096) * 4096;
      }
      return undefined;
    };
    fc.assert(fc.property(fc.integer({ min: 0, max: 0xffff_ffff }), (address) => walk(address) === address));
    fc.assert(
      fc.property(fc.integer({ min: 0x1_0000_0000, max: 2 ** 47 }), (address) => walk(address) === undefined),
    );
    // Intel SDM 3A 3.4.5: present, code with L=1 D=0; data writable.
    expect(
      ram
        .view(gdtBase + 0x10, 8)
        .getBigUint64(0, true)
        .toString(16),
    ).toBe('af9b000000ffff');
    expect(
      ram
        .view(gdtBase + 0x18, 8)
        .getBigUint64(0, true)
        .toString(16),
    ).toBe('cf93000000ffff');
  });

  it('takes a kernel whose last paragraph is short', () => {
    const whole = bzImage();
    expect(() => loadKernel(ramOf(32), boot(whole.subarray(0, whole.length - 15)))).not.toThrow();
    expect(() => loadKernel(ramOf(32), boot(whole.subarray(0, whole.length - 16)))).toThrow(
      /KERNEL_TRUNCATED/,
    );
  });

  it('enters a 32-bit kernel where its protected-mode code begins', () => {
    const plan = loadKernel(ramOf(32), boot(bzImage((v) => v.setUint16(hdr.xloadflags, 0, true))));
    const wide = loadKernel(ramOf(32), boot(bzImage()));
    expect(plan).toMatchObject({
      bootMode: 2,
      rip: wide.rip - 0x200,
      rsi: wide.rsi,
      rbx: 0,
      codeSelector: 0x10,
    });
  });

  it.each<[string, () => unknown]>([
    ['KERNEL_NOT_BZIMAGE', () => loadKernel(ramOf(32), boot(new Uint8Array(10)))],
    ['KERNEL_NOT_BZIMAGE', () => loadKernel(ramOf(32), boot(Buffer.from('#!/bin/sh\n'.repeat(1000))))],
    ['KERNEL_TRUNCATED', () => loadKernel(ramOf(32), boot(bzImage().subarray(0, 0x240)))],
    ['KERNEL_TRUNCATED', () => loadKernel(ramOf(32), boot(bzImage().subarray(0, 3000)))],
    [
      'KERNEL_TOO_OLD',
      () => loadKernel(ramOf(32), boot(bzImage((v) => v.setUint16(hdr.version, 0x20a, true)))),
    ],
    [
      'KERNEL_BAD_ADDRESS',
      () => loadKernel(ramOf(32), boot(bzImage((v) => v.setBigUint64(hdr.prefAddress, 0n, true)))),
    ],
    ['MEMORY_TOO_SMALL', () => loadKernel(ramOf(16), boot(bzImage()))],
    ['CMDLINE_TOO_LONG', () => loadKernel(ramOf(32), boot(bzImage(), { cmdline: 'x'.repeat(2048) }))],
    ['INITRD_TOO_LARGE', () => loadKernel(ramOf(32), boot(bzImage(), { initrd: new Uint8Array(20 * MiB) }))],
    ['INITRD_TRUNCATED', () => loadKernel(ramOf(32), boot(bzImage(), { initrd: new Uint8Array(0) }))],
    ['KERNEL_NOT_ELF', () => loadKernel(ramOf(32), boot(bzImage(), { protocol: 'pvh' }))],
    ['MEMORY_BAD_SIZE', () => e820Map(12345)],
    ['MEMORY_BAD_SIZE', () => e820Map(2 ** 40)],
    ['MEMORY_BAD_SIZE', () => new GuestRam(new ArrayBuffer(MiB), 2 * MiB)],
    ['FIRMWARE_BAD_SIZE', () => loadFirmware(ramOf(2), new Uint8Array(1000))],
  ])('%s', (code, work) => expect(codeOf(work)).toBe(code));

  it('never fails otherwise, whatever the file holds', () => {
    const good = bzImage();
    const ram = ramOf(32);
    const flips = fc.array(
      fc.tuple(fc.integer({ min: 0x1f1, max: 0x268 }), fc.integer({ min: 0, max: 255 })),
      { maxLength: 8 },
    );
    fc.assert(
      fc.property(flips, (changes) => {
        const file = good.slice();
        for (const [at, value] of changes) file[at] = value;
        codeOf(() => loadKernel(ram, boot(file, { initrd })));
      }),
    );
  });
});

describe('ELF kernels', () => {
  const kernel = {
    entry: 0x100_0010,
    segments: [
      { address: 0x100_0000, data: [1, 2, 3, 4], bytes: 64 },
      { address: 0x110_0000, data: [9] },
    ],
  };

  it('loads a Linux vmlinux by the 64-bit protocol', () => {
    const ram = ramOf(32);
    new Uint8Array(ram.buffer).fill(0xcc);
    const plan = loadKernel(ram, boot(elf(kernel), { initrd }));
    expect(plan).toMatchObject({ bootMode: 1, rip: 0x100_0010, rsi: low.bootParams });
    expect([...ram.bytes(0x100_0000, 6)]).toEqual([1, 2, 3, 4, 0, 0]);
    expect(ram.bytes(0x110_0000, 2)[1]).toBe(0xcc);
    expect(ram.view(low.bootParams, 4096).getUint16(hdr.bootFlag, true)).toBe(0xaa55);
  });

  it.each([true, false])('boots by PVH (64-bit file: %s)', (is64) => {
    const ram = ramOf(32);
    new Uint8Array(ram.buffer).fill(0xcc);
    const plan = loadKernel(
      ram,
      boot(elf({ ...kernel, pvh: 0x100_0020, is64 }), { initrd, protocol: 'pvh' }),
    );
    expect(plan).toMatchObject({
      bootMode: 2,
      rip: 0x100_0020,
      rbx: low.startInfo,
      cr3: 0,
      codeSelector: 0x10,
    });
    // start_info.h: magic, version, flags, nr_modules, modlist, cmdline, rsdp, memmap, entries.
    const v = ram.view(plan.rbx, 4096);
    expect([v.getUint32(0, true), v.getUint32(4, true), v.getUint32(8, true), v.getUint32(12, true)]).toEqual(
      [0x336ec578, 1, 0, 1],
    );
    const at = (o: number): number => Number(v.getBigUint64(o, true));
    const module = ram.view(at(16), 32);
    expect(Buffer.from(ram.bytes(Number(module.getBigUint64(0, true)), initrd.length)).equals(initrd)).toBe(
      true,
    );
    expect(Number(module.getBigUint64(8, true))).toBe(initrd.length);
    expect(Buffer.from(ram.bytes(at(24), 14)).toString()).toBe('console=ttyS0\0');
    expect(at(32)).toBe(0xe0000);
    const map = e820Map(32 * MiB);
    expect(v.getUint32(48, true)).toBe(map.length);
    map.forEach((e, i) => {
      const m = ram.view(at(40) + i * 24, 24);
      expect([
        Number(m.getBigUint64(0, true)),
        Number(m.getBigUint64(8, true)),
        m.getUint32(16, true),
      ]).toEqual([e.address, e.size, e.type]);
    });
    expect(
      ram
        .view(plan.gdtBase + 0x10, 8)
        .getBigUint64(0, true)
        .toString(16),
    ).toBe('cf9b000000ffff');
  });

  it.each<[string, () => unknown]>([
    ['KERNEL_NO_PVH', () => loadKernel(ramOf(32), boot(elf(kernel), { protocol: 'pvh' }))],
    ['KERNEL_BAD_ADDRESS', () => loadKernel(ramOf(32), boot(elf({ ...kernel, entry: 0x500 })))],
    [
      'KERNEL_BAD_ADDRESS',
      () => loadKernel(ramOf(32), boot(elf({ entry: 0, segments: [{ address: 0x7000, data: [1] }] }))),
    ],
    ['MEMORY_TOO_SMALL', () => loadKernel(ramOf(16), boot(elf(kernel)))],
    ['KERNEL_TRUNCATED', () => loadKernel(ramOf(32), boot(elf(kernel).subarray(0, 4097)))],
    ['KERNEL_NOT_ELF', () => loadKernel(ramOf(32), boot(Object.assign(elf(kernel), { 18: 183 })))],
  ])('%s', (code, work) => expect(codeOf(work)).toBe(code));

  it('never fails otherwise, whatever the headers hold', () => {
    const good = elf({ ...kernel, pvh: 1 });
    const ram = ramOf(32);
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 4, max: 240 }), fc.integer({ min: 0, max: 255 })), {
          maxLength: 6,
        }),
        fc.constantFrom('pvh', 'linux'),
        (changes, protocol) => {
          const file = good.slice();
          for (const [at, value] of changes) file[at] = value;
          codeOf(() => loadKernel(ram, boot(file, { protocol: protocol as 'pvh' })));
        },
      ),
    );
  });
});

describe('memory map', () => {
  it.each([2, 64, 2048, 2049, 8192])('adds up for %i MiB', (mib) => {
    const map = e820Map(mib * MiB);
    const ram = map.filter((e) => e.type === E820.ram).reduce((n, e) => n + e.size, 0);
    expect(ram).toBe(mib * MiB - (0x100000 - low.usableEnd));
    for (let i = 1; i < map.length; i++)
      expect(map[i]!.address).toBeGreaterThanOrEqual(map[i - 1]!.address + map[i - 1]!.size);
  });
});

const installed = existsSync('/boot')
  ? readdirSync('/boot')
      .filter((f) => f.startsWith('vmlinuz-'))
      .map((f) => `/boot/${f}`)
  : [];
if (installed.length === 0)
  console.warn('skipped: no kernel in /boot to read (libs/image tests read a downloaded one)');
describe.skipIf(installed.length === 0)('kernels of this host', () => {
  it.each(installed)('%s', async (path) => {
    const image = parseBzImage(readFileSync(path));
    expect(image.release).toMatch(/^\d+\.\d+/);
    const format = payloadFormat(image.payload);
    if (format === 'lz4' || format === 'gzip') {
      const kernel = parseElf(await unpackKernel(image, () => Promise.reject(new Error('not needed'))));
      expect(kernel.entry).toBe(image.prefAddress);
    } else expect(format).not.toBe('unknown');
  });
});

const seabios = '/usr/share/seabios/bios-256k.bin';
if (!existsSync(seabios)) console.warn(`skipped: ${seabios} (package seabios) is not installed`);
describe.skipIf(!existsSync(seabios))('SeaBIOS', () => {
  it('ends at 4 GiB and below 1 MiB with the reset vector', () => {
    const ram = ramOf(2);
    const image = readFileSync(seabios);
    const { plan, rom } = loadFirmware(ram, image);
    expect([plan.bootMode, rom.address, rom.bytes.length]).toEqual([0, 0xfffc_0000, 0x40000]);
    expect(ram.bytes(0xffff0, 16)).toEqual(new Uint8Array(rom.bytes.subarray(-16)));
    // Far jump to f000:e05b, as in every PC BIOS.
    expect([...ram.bytes(0xffff0, 5)]).toEqual([0xea, 0x5b, 0xe0, 0x00, 0xf0]);
  });
});
