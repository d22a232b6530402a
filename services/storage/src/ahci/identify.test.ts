/** What hdparm (Debian) reads in our IDENTIFY data; and answers of a DVD, which no image of a test is large enough for. */
import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { Bench } from './bench.ts';
import { configuration, discStructure, type Medium, Profile, profileOf, toc } from './mmc.ts';

const version = spawnSync('hdparm', ['-V'], { encoding: 'utf8' });
if (version.error) console.warn(`hdparm on our IDENTIFY data left out: ${version.error.message}`);

const read = (port: number): string => {
  const b = new Bench({ sectors: 4096 });
  b.start();
  b.run(port, { command: port ? 0xa1 : 0xec, prds: [[b.data(0), 512]] });
  const id = Buffer.from(b.bytes(b.data(0), 512))
    .swap16()
    .toString('hex');
  const input = id.replace(/(.{4})/g, '$1 ').replace(/(.{40})/g, '$1\n');
  return spawnSync('hdparm', ['--Istdin'], { input, encoding: 'utf8' }).stdout;
};

describe.runIf(!version.error)('hdparm', () => {
  it('reads a disk', () => {
    const text = read(0);
    for (const line of [
      /ATA device, with non-removable media/,
      /Model Number: +Nyx SATA disk/,
      /Serial Number: +disk0/,
      /Supported: 8 7 6 5/,
      /LBA48 +user addressable sectors: +4096/,
      /Physical Sector size: +4096 bytes/,
      /Solid State Device/,
      /Queue depth: 32/,
      /\*udma6/,
      /\*\s+Write cache/,
      /\*\s+Native Command Queueing \(NCQ\)/,
      /\*\s+Data Set Management TRIM supported \(limit 8 blocks\)/,
      /\*\s+WRITE_\{DMA\|MULTIPLE\}_FUA_EXT/,
      /Checksum: correct/,
    ])
      expect(text).toMatch(line);
  });
  it('reads a CD drive', () => {
    const text = read(1);
    for (const line of [
      /ATAPI CD-ROM, with removable media/,
      /Packet size: 12 bytes/,
      /\*\s+DEVICE_RESET command/,
    ])
      expect(text).toMatch(line);
  });
});

describe('a DVD', () => {
  const dvd: Medium = { sectors: 2_000_000, trayOpen: false, locked: false };
  it('is one when it is longer than a CD can be', () => {
    expect([
      profileOf(dvd),
      profileOf({ ...dvd, sectors: 360_000 }),
      profileOf({ ...dvd, sectors: 0 }),
    ]).toEqual([Profile.dvd, Profile.cd, Profile.none]);
    const c = configuration(dvd, 1, 0)!;
    expect([c[3]! + 4, c[7]]).toEqual([c.length, 0x10]);
  });
  it('tells its physical format, and has a table of contents beyond 99 minutes', () => {
    const s = discStructure(dvd, 0)!;
    expect([s.length, (s[0]! << 8) | s[1]!]).toEqual([2052, 2050]);
    expect([...s.slice(8, 16)]).toEqual([0, 3, 0, 0, 0, 0x21, 0x84, 0x7f]);
    expect(discStructure(dvd, 0x30)).toBeUndefined();
    expect([...toc(dvd, 0, false, 0xaa)!]).toEqual([0, 10, 1, 1, 0, 0x14, 0xaa, 0, 0, 0x1e, 0x84, 0x80]);
    expect([...toc(dvd, 0, true, 0xaa)!.slice(8)]).toEqual([0, 255, 59, 74]);
  });
});
