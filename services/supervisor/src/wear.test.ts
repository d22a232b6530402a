import { mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { wearOf } from './wear.ts';

const folder = mkdtempSync(join(tmpdir(), 'nyx-wear-'));
afterAll(() => rmSync(folder, { recursive: true }));

it('is what eMMC tells of the device that holds a file, and unknown of any other', () => {
  const { dev } = statSync(folder);
  const number = `${(dev >> 8) & 0xfff}:${(dev & 0xff) | ((dev >>> 12) & 0xfff00)}`;
  const disk = join(folder, 'devices/mmcblk0');
  mkdirSync(join(disk, 'device'), { recursive: true });
  mkdirSync(join(disk, 'mmcblk0p1'));
  mkdirSync(join(folder, 'dev/block'), { recursive: true });
  expect(wearOf(folder, folder)).toEqual([0, 0, 0]);
  symlinkSync(join(disk, 'mmcblk0p1'), join(folder, 'dev/block', number));
  writeFileSync(join(disk, 'mmcblk0p1/partition'), '1\n');
  expect(wearOf(folder, folder)).toEqual([0, 0, 0]);
  writeFileSync(join(disk, 'device/pre_eol_info'), '0x01\n');
  writeFileSync(join(disk, 'device/life_time'), '0x02 0x0b\n');
  expect(wearOf(folder, folder)).toEqual([1, 2, 11]);
  writeFileSync(join(disk, 'device/life_time'), '0x2c nonsense\n');
  expect(wearOf(folder, folder)).toEqual([1, 0, 0]);
  expect(wearOf(join(folder, 'nowhere'), folder)).toEqual([0, 0, 0]);
});
