/**
 * Firmware, boot loader, kernel: SeaBIOS starts GRUB from a disk and from a CD (El Torito) at the AHCI controller, and GRUB
 * starts Debian's kernel, which finds them again with its own driver. Disk and ISO are made with Debian's grub-pc-bin, mtools
 * and xorriso.
 */
import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import type { Image } from '@nyx/image';
import type { VmSpecInput } from '@nyx/nyx';
import { vmTest } from '@nyx/testkit';
import { afterAll, describe, expect } from 'vitest';
import { clean, folder, guestImage, has, run } from './machine.ts';

afterAll(clean);

const bios = '/usr/share/seabios/bios-256k.bin';
const grub = '/usr/lib/grub/i386-pc';
const needs = ['grub-mkrescue', 'grub-mkimage', 'xorriso', 'mcopy', 'mformat'];
const missing = [bios, `${grub}/boot.img`].filter((f) => !existsSync(f));
if (missing.length > 0) console.warn(`boots from AHCI left out: there is no ${missing.join(', ')}`);
const image =
  missing.length === 0 && needs.every((p) => has(p, 'boots from AHCI')) ? await guestImage() : undefined;

const config = (mark: string): string => `serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
set timeout=0
menuentry linux { linux /vmlinuz console=ttyS0 quiet panic=-1 nyx.agent=1 mark=${mark}; initrd /initrd.img }
`;

/** MBR, GRUB behind it, and a FAT partition at 1 MiB with the rest. */
const bootDisk = (i: Image): string => {
  const path = join(folder, 'grub.img');
  const MiB = 1 << 20;
  const sectors = (63 * MiB) / 512;
  run('truncate', ['-s', '64M', path]);
  const modules = ['biosdisk', 'part_msdos', 'fat', 'normal', 'linux', 'serial'];
  const core = join(folder, 'core.img');
  run('grub-mkimage', ['-d', grub, '-O', 'i386-pc', '-o', core, '-p', '(hd0,msdos1)/boot/grub', ...modules]);
  const fd = openSync(path, 'r+');
  const sector = Buffer.alloc(512);
  readFileSync(`${grub}/boot.img`).copy(sector, 0, 0, 440);
  Buffer.from([0x80, 0, 0, 0, 0x0c, 0, 0, 0]).copy(sector, 446);
  sector.writeUInt32LE(MiB / 512, 454);
  sector.writeUInt32LE(sectors, 458);
  sector.writeUInt16LE(0xaa55, 510);
  writeSync(fd, sector, 0, 512, 0);
  const loader = readFileSync(core);
  expect(loader.length).toBeLessThan(MiB - 512);
  writeSync(fd, loader, 0, loader.length, 512);
  closeSync(fd);
  const at = `${path}@@1M`;
  const grubConfig = join(folder, 'grub.cfg');
  writeFileSync(grubConfig, config('disk'));
  run('mformat', ['-i', at, '-F', '-T', String(sectors), '-h', '255', '-s', '63', '::']);
  run('mmd', ['-i', at, '::boot', '::boot/grub']);
  run('mcopy', ['-i', at, grubConfig, '::boot/grub/grub.cfg']);
  run('mcopy', ['-i', at, i.kernel, '::vmlinuz']);
  run('mcopy', ['-i', at, i.initrd, '::initrd.img']);
  return path;
};

const bootCd = (i: Image): string => {
  const tree = join(folder, 'cd.d');
  mkdirSync(join(tree, 'boot/grub'), { recursive: true });
  copyFileSync(i.kernel, join(tree, 'vmlinuz'));
  copyFileSync(i.initrd, join(tree, 'initrd.img'));
  writeFileSync(join(tree, 'boot/grub/grub.cfg'), config('cd'));
  const path = join(folder, 'grub.iso');
  run('grub-mkrescue', ['-d', grub, '-o', path, tree]);
  return path;
};

const spec: VmSpecInput = { bios, bootMenu: 0, memory: '512M', accel: 'soft' };
const test = vmTest(spec, { bootTimeout: 240 });

describe.runIf(image)(
  'SeaBIOS and GRUB boot Linux',
  () => {
    test.for([
      ['disk', 'sda1', () => ({ disks: [{ path: bootDisk(image!), bus: 'ahci' as const }] })],
      ['cd', 'sr0', () => ({ cdroms: [bootCd(image!)] })],
    ] as const)('from the %s', async ([what, device, drives], { boot }) => {
      const vm = await boot(drives(), { bootTimeout: 240 });
      const found = `for i in $(seq 100); do [ -b /dev/${device} ] && break; sleep 0.1; done; ls /dev/${device}`;
      const r = await vm.run(`cat /proc/cmdline; ${found}`);
      expect(r.stdout).toMatch(new RegExp(`mark=${what}\\n/dev/${device}\\n`));
      // What firmware says of the drives it found.
      const log = readFileSync(join(vm.vm.dir, 'debugcon.log'), 'latin1');
      expect(log).toMatch(what === 'cd' ? /Booting from DVD\/CD/ : /Booting from Hard Disk/);
    });
  },
  400_000,
);
