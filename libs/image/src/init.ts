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

/** @param modules names in load order */
export const initScript = (modules: readonly string[]): string => `#!/bin/sh
export PATH=/sbin:/bin:/usr/sbin:/usr/bin HOME=/root TERM=linux
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
read -r cmdline </proc/cmdline
agent= hostname=nyx
set -f
for word in $cmdline; do
  case $word in
    ${execWire.parameter}) agent=1 ;;
    nyx.hostname=*) hostname=\${word#nyx.hostname=} ;;
  esac
done
set +f
echo "$hostname" >/proc/sys/kernel/hostname
for module in ${modules.join(' ')}; do
  insmod /lib/modules/$module.ko || echo "nyx: module $module did not load"
done
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
