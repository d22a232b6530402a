/**
 * Disks that firmware boots: MBR, Debian's GRUB behind it, and one ext3 partition with kernel, initramfs and a root file system.
 * Made with grub-pc-bin and mke2fs (for UEFI: grub-efi-amd64-bin and mtools),
 * without privileges.
 */
import { spawnSync } from 'node:child_process';
import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import type { Image } from '@nyx/image';

export const bios = '/usr/share/seabios/bios-256k.bin';
export const grub = '/usr/lib/grub/i386-pc';
export const ovmf = '/usr/share/OVMF/OVMF_CODE.fd';
export const efi = '/usr/lib/grub/x86_64-efi';
const MiB = 1 << 20;

/** Says what is left out when the program is not there. */
export const has = (program: string, what: string): boolean => {
  const found = (process.env.PATH ?? '').split(':').some((d) => existsSync(join(d, program)));
  if (!found) console.warn(`${what} left out: there is no ${program}`);
  return found;
};

/** What a boot from a disk needs of the host. */
export const canBoot = (
  what: string,
  programs: readonly string[] = ['grub-mkimage', 'mke2fs'],
  files: readonly string[] = [bios, `${grub}/boot.img`],
): boolean => {
  const missing = files.filter((f) => !existsSync(f));
  if (missing.length > 0) console.warn(`${what} left out: there is no ${missing.join(', ')}`);
  return programs.every((p) => has(p, what)) && missing.length === 0;
};

export const run = (program: string, args: readonly string[]): string => {
  const r = spawnSync(program, args, { encoding: 'utf8', timeout: 120_000 });
  if (r.status !== 0) throw new Error(`${program}: ${r.error?.message ?? r.stderr}`);
  return r.stdout;
};

/** GRUB's configuration: one entry, at once, on the serial console. */
export const grubConfig = (words: string): string => `serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
set timeout=0
menuentry linux { linux /vmlinuz console=ttyS0 quiet panic=-1 ${words}; initrd /initrd.img }
`;

/** Unpacks directories, files and links of an uncompressed initramfs ("newc"). */
function unpack(archive: Buffer, to: string): void {
  for (let at = 0; at + 110 <= archive.length; ) {
    const field = (i: number): number =>
      Number.parseInt(archive.toString('latin1', at + 6 + 8 * i, at + 14 + 8 * i), 16);
    const [mode, bytes, nameBytes] = [field(1), field(6), field(11)];
    const name = archive.toString('utf8', at + 110, at + 109 + nameBytes);
    const start = at + ((110 + nameBytes + 3) & ~3);
    const data = archive.subarray(start, start + bytes);
    at = start + ((bytes + 3) & ~3);
    if (name === 'TRAILER!!!') return;
    const path = join(to, name);
    mkdirSync(dirname(path), { recursive: true });
    const type = mode & 0o170000;
    if (type === 0o040000) mkdirSync(path, { recursive: true, mode: mode & 0o7777 });
    else if (type === 0o100000) writeFileSync(path, data, { mode: mode & 0o7777 });
    else if (type === 0o120000) symlinkSync(data.toString(), path);
  }
}

/** Of a root file system: the agent, if the machine wants it, and a shell. */
const init = `#!/bin/sh
export PATH=/sbin:/bin:/usr/sbin:/usr/bin HOME=/root
mount -t tmpfs tmp /tmp
case " $(cat /proc/cmdline) " in *" nyx.agent=1 "*) nyx-agent & ;; esac
cd /root
echo rooted on $(awk '$2 == "/" && $1 != "rootfs" {print $1}' /proc/mounts)
while :; do setsid cttyhack sh -l; done
`;

const partition = (type: number, mib: number): Buffer => {
  const sector = Buffer.alloc(512);
  Buffer.from([0x80, 0, 0, 0, type, 0, 0, 0]).copy(sector, 446);
  sector.writeUInt32LE(MiB / 512, 454);
  sector.writeUInt32LE(((mib - 1) * MiB) / 512, 458);
  sector.writeUInt16LE(0xaa55, 510);
  return sector;
};

/** A disk that UEFI firmware boots: GRUB as \EFI\BOOT\BOOTX64.EFI on a FAT partition, kernel and initramfs beside it. */
export function efiDisk(folder: string, image: Image, words: string, mib = 96): string {
  const path = join(folder, 'efi.img');
  const config = join(folder, 'efi.cfg');
  const loader = join(folder, 'bootx64.efi');
  const menu = join(folder, 'efi-menu.cfg');
  writeFileSync(config, 'search --set=root --file /grub.cfg\nset prefix=($root)/\n');
  writeFileSync(menu, grubConfig(words));
  const modules = ['part_msdos', 'fat', 'normal', 'linux', 'serial', 'search', 'search_fs_file'];
  run('grub-mkimage', ['-d', efi, '-O', 'x86_64-efi', '-o', loader, '-c', config, '-p', '/', ...modules]);
  run('truncate', ['-s', `${mib}M`, path]);
  const at = `${path}@@1M`;
  const sectors = ((mib - 1) * MiB) / 512;
  run('mformat', ['-i', at, '-F', '-T', String(sectors), '-h', '255', '-s', '63', '::']);
  run('mmd', ['-i', at, '::EFI', '::EFI/BOOT']);
  run('mcopy', ['-i', at, loader, '::EFI/BOOT/BOOTX64.EFI']);
  run('mcopy', ['-i', at, menu, '::grub.cfg']);
  run('mcopy', ['-i', at, image.kernel, '::vmlinuz']);
  run('mcopy', ['-i', at, image.initrd, '::initrd.img']);
  const fd = openSync(path, 'r+');
  writeSync(fd, partition(0xef, mib), 0, 512, 0);
  closeSync(fd);
  return path;
}

/**
 * A disk of `mib` MiB that boots.
 * @param words of the kernel's command line
 * @param files of a root file system beside the guest image's own (path to content); undefined: kernel and initramfs only
 */
export function bootDisk(
  folder: string,
  image: Image,
  words: string,
  files?: Readonly<Record<string, string>>,
  mib = 96,
): string {
  const path = join(folder, 'boot.img');
  const tree = join(folder, 'boot.d');
  mkdirSync(join(tree, 'boot/grub'), { recursive: true });
  if (files !== undefined) {
    unpack(readFileSync(image.initrd), tree);
    rmSync(join(tree, 'sbin/init'), { force: true });
    writeFileSync(join(tree, 'sbin/init'), init, { mode: 0o755 });
    for (const [name, text] of Object.entries(files)) writeFileSync(join(tree, name), text, { mode: 0o755 });
  }
  copyFileSync(image.kernel, join(tree, 'vmlinuz'));
  copyFileSync(image.initrd, join(tree, 'initrd.img'));
  writeFileSync(join(tree, 'boot/grub/grub.cfg'), grubConfig(words));
  writeFileSync(path, '');
  // GRUB 2.06 does not read ext4 as mke2fs makes it today.
  const quiet = ['-q', '-F', '-t', 'ext3', '-m', '0', '-E', `offset=${MiB},root_owner=0:0`];
  run('truncate', ['-s', `${mib}M`, path]);
  run('mke2fs', [...quiet, '-d', tree, path, `${(mib - 1) * 1024}k`]);
  rmSync(tree, { recursive: true });

  const core = join(folder, 'core.img');
  const modules = ['biosdisk', 'part_msdos', 'ext2', 'normal', 'linux', 'serial'];
  run('grub-mkimage', ['-d', grub, '-O', 'i386-pc', '-o', core, '-p', '(hd0,msdos1)/boot/grub', ...modules]);
  const loader = readFileSync(core);
  if (loader.length > MiB - 512) throw new Error(`GRUB is ${loader.length} bytes, there is 1 MiB`);
  const sector = partition(0x83, mib);
  readFileSync(`${grub}/boot.img`).copy(sector, 0, 0, 440);
  const fd = openSync(path, 'r+');
  writeSync(fd, sector, 0, 512, 0);
  writeSync(fd, loader, 0, loader.length, 512);
  closeSync(fd);
  return path;
}
