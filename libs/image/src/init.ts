/**
 * The first process of the default guest: a shell script for busybox. It runs on a CPU that may be emulated, so it
 * forks as little as it can and never sleeps.
 */
import { agentScript, execWire } from '@nyx/protocol';

/** Modules that the guest needs; dependencies are found by `loadOrder`. Built-in ones are skipped. */
export const guestModules = [
  'virtio_pci',
  'virtio_blk',
  'ext4',
  'crc32c',
  'button',
  'evdev',
  'pvpanic_mmio',
] as const;

/** Modules for a virtio device, loaded when there is one: its type as sysfs writes it. */
export const modulesForDevice: Readonly<Record<string, readonly string[]>> = {
  // A file system that the host has (virtiofs).
  '0x001a': ['fuse', 'virtiofs'],
};

/** A guest that can be built. */
export interface Guest {
  /** Packages whose dependencies name the newest kernel, by preference. */
  kernels: readonly string[];
  modules: readonly string[];
}

export const guests: Readonly<Record<string, Guest>> = {
  /** Debian's kernel for virtual machines, then Ubuntu's. */
  debian: {
    kernels: ['linux-image-cloud-amd64', 'linux-image-virtual', 'linux-image-kvm'],
    modules: guestModules,
  },
  /** The kernel for all hardware, because that for virtual machines knows no AHCI and no watchdog. */
  'debian-generic': {
    kernels: ['linux-image-amd64', 'linux-image-generic'],
    modules: [...guestModules, 'ahci', 'sd_mod', 'sr_mod', 'sg', 'isofs', 'i6300esb'],
  },
};

/** What the console shows when the shell is there; the supervisor and tests wait for it. */
export const shellPrompt = 'root@nyx:';

const load = (modules: readonly string[], indent = ''): string =>
  `${indent}for module in ${modules.join(' ')}; do
${indent}  insmod /lib/modules/$module.ko || echo "nyx: module $module did not load"
${indent}done`;

/**
 * With `root=DEVICE` on the command line it is only what finds the root file system and starts `init` there (`init=`, else
 * /sbin/init), as every initramfs does; `rw` mounts it for writing.
 * @param modules names in load order
 * @param forDevice as `modulesForDevice`, in load order, without those of `modules`
 */
export const initScript = (
  modules: readonly string[],
  forDevice: Readonly<Record<string, readonly string[]>> = {},
): string => `#!/bin/sh
export PATH=/sbin:/bin:/usr/sbin:/usr/bin HOME=/root TERM=linux
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
read -r cmdline </proc/cmdline
agent= hostname=nyx root= mode=ro init=/sbin/init
set -f
for word in $cmdline; do
  case $word in
    ${execWire.parameter}) agent=1 ;;
    nyx.hostname=*) hostname=\${word#nyx.hostname=} ;;
    root=/dev/*) root=\${word#root=} ;;
    init=*) init=\${word#init=} ;;
    ro | rw) mode=$word ;;
  esac
done
set +f
echo "$hostname" >/proc/sys/kernel/hostname
${load(modules)}
${Object.entries(forDevice)
  .map(
    ([type, names]) => `for device in /sys/bus/virtio/devices/*/device; do
  id= && [ -e $device ] && read -r id <$device
  [ "$id" = ${type} ] || continue
${load(names, '  ')}
  break
done
`,
  )
  .join('')}if [ -n "$root" ]; then
  mkdir /root.d
  if mount -o $mode "$root" /root.d; then
    for d in dev proc sys; do
      mkdir -p /root.d/$d && mount -o move /$d /root.d/$d
    done
    exec switch_root /root.d "$init"
  fi
  echo "nyx: $root could not be mounted"
  root=
fi
if [ -b /dev/vda ]; then
  mount -t ext4 -o noatime /dev/vda /data || echo "nyx: /dev/vda holds no ext4 file system; /data is in memory"
fi
[ -n "$agent" ] && nyx-agent &
# Runs when the power button is pressed.
[ -e /dev/input/event0 ] && acpid -f -l /dev/null &
cd /root
echo "Linux $(uname -r). The disk is on /data; 'exit' powers off."
while :; do
  setsid cttyhack sh -l
  nyx-poweroff
done
`;

/** Unmounts what can be unmounted and powers off; `poweroff -f` alone would leave the journal to be replayed. */
export const poweroffScript = `#!/bin/sh
cd /
umount /data 2>/dev/null || mount -o remount,ro /data 2>/dev/null
exec poweroff -f
`;

export const profileScript = `export PS1='root@\\h:\\w# '
`;

export { agentScript };
