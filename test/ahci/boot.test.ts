/**
 * Firmware, boot loader, kernel: SeaBIOS starts GRUB from a disk and from a CD (El Torito) at the AHCI controller, OVMF from a disk; GRUB
 * starts Debian's kernel, which finds them again with its own driver; so does ISOLINUX, which is a program of 16 bits, from a CD. Disk
 * and ISO are made with Debian's grub-pc-bin, isolinux, mke2fs, mtools and xorriso.
 */
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Image } from '@nyx/image';
import type { VmSpecInput } from '@nyx/nyx';
import { vmTest } from '@nyx/testkit';
import { afterAll, describe, expect } from 'vitest';
import { bios, bootDisk, canBoot, efi, efiDisk, grub, grubConfig, ovmf, run } from '../boot-disk.ts';
import { clean, folder, guestImage } from './machine.ts';

afterAll(clean);

const needs = ['grub-mkrescue', 'grub-mkimage', 'mke2fs', 'xorriso', 'mcopy', 'mformat'];
const image = canBoot('boots from AHCI', needs) ? await guestImage() : undefined;
const words = (mark: string): string => `nyx.agent=1 mark=${mark}`;

const bootCd = (i: Image): string => {
  const tree = join(folder, 'cd.d');
  mkdirSync(join(tree, 'boot/grub'), { recursive: true });
  copyFileSync(i.kernel, join(tree, 'vmlinuz'));
  copyFileSync(i.initrd, join(tree, 'initrd.img'));
  writeFileSync(join(tree, 'boot/grub/grub.cfg'), grubConfig(words('cd')));
  const path = join(folder, 'grub.iso');
  run('grub-mkrescue', ['-d', grub, '-o', path, tree]);
  return path;
};

const isolinux = '/usr/lib/ISOLINUX/isolinux.bin';
const ldlinux = '/usr/lib/syslinux/modules/bios/ldlinux.c32';
/** ISOLINUX, the loader of Debian's own CDs: a program in real mode that calls firmware for each sector, key and character. */
const isolinuxCd = (i: Image): string => {
  const tree = join(folder, 'isolinux.d');
  mkdirSync(join(tree, 'isolinux'), { recursive: true });
  copyFileSync(i.kernel, join(tree, 'vmlinuz'));
  copyFileSync(i.initrd, join(tree, 'initrd.img'));
  copyFileSync(isolinux, join(tree, 'isolinux/isolinux.bin'));
  copyFileSync(ldlinux, join(tree, 'isolinux/ldlinux.c32'));
  const kernel = `kernel /vmlinuz\n  initrd /initrd.img\n  append console=ttyS0 quiet panic=-1 ${words('isolinux')}`;
  writeFileSync(
    join(tree, 'isolinux/isolinux.cfg'),
    `serial 0 115200\nsay ISOLINUX speaks\ndefault linux\nlabel linux\n  ${kernel}\n`,
  );
  const path = join(folder, 'isolinux.iso');
  const boot = ['-b', 'isolinux/isolinux.bin', '-c', 'isolinux/boot.cat', '-no-emul-boot'];
  const table = ['-boot-load-size', '4', '-boot-info-table'];
  run('xorriso', ['-as', 'mkisofs', '-quiet', '-R', '-o', path, ...boot, ...table, tree]);
  return path;
};

const spec: VmSpecInput = { bios, bootMenu: 0, memory: '512M', accel: 'soft' };
const test = vmTest(spec, { bootTimeout: 240 });

describe.runIf(image)(
  'SeaBIOS and GRUB boot Linux',
  () => {
    test.for([
      [
        'disk',
        'sda1',
        () => ({ disks: [{ path: bootDisk(folder, image!, words('disk')), bus: 'ahci' as const }] }),
      ],
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

const old = image !== undefined && canBoot('a boot of ISOLINUX', ['xorriso'], [bios, isolinux, ldlinux]);
test.runIf(old)('SeaBIOS and ISOLINUX boot Linux from a CD', { timeout: 400_000 }, async ({ boot }) => {
  const vm = await boot({ cdroms: [isolinuxCd(image!)] }, { bootTimeout: 240 });
  const r = await vm.run('cat /proc/cmdline');
  expect(r.stdout).toContain('mark=isolinux');
  expect(readFileSync(join(vm.vm.dir, 'console.log'), 'latin1')).toContain('ISOLINUX speaks');
});

const uefi =
  image !== undefined &&
  canBoot('a boot of OVMF from AHCI', ['grub-mkimage', 'mformat', 'mcopy'], [ovmf, `${efi}/moddep.lst`]);
test.runIf(uefi)('OVMF and GRUB boot Linux from a disk at AHCI', { timeout: 400_000 }, async ({ boot }) => {
  const disks = [{ path: efiDisk(folder, image!, words('uefi')), bus: 'ahci' as const }];
  const vm = await boot({ bios: ovmf, disks }, { bootTimeout: 300 });
  const found = 'for i in $(seq 100); do [ -b /dev/sda1 ] && break; sleep 0.1; done; ls /dev/sda1';
  const r = await vm.run(`cat /proc/cmdline; ls -d /sys/firmware/efi; ${found}`);
  expect(r.stdout).toMatch(/mark=uefi\n\/sys\/firmware\/efi\n\/dev\/sda1\n/);
});
