/**
 * The guests of the crash sweep: what they boot, what they do, when they are done, and what of it is a matter of time. In a
 * deterministic machine nothing is: those are compared access by access, and by instructions, guest time and memory at
 * their end. The others show that it holds, too, when timers and disks come when they come.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { ImageStore } from '@nyx/image';
import type { Vm, VmSpecInput } from '@nyx/nyx';
import type { Timely } from './transcript.ts';

export interface Seen {
  /** Debug console bytes up to the end of the comparison; else the guest has ended by itself. */
  end?: number;
  console: string;
  disk: string;
}

export interface Guest {
  readonly name: string;
  spec(folder: string): VmSpecInput;
  /** Prepares the disk in `folder`. */
  prepare(folder: string): void;
  /** Lets the guest work to its end; what it left behind. */
  work(vm: Vm, folder: string): Promise<Seen>;
  readonly timely: readonly Timely[];
  /** On the console of a guest that has given up waiting for a device: it saw a slow host, and does something else from there on. */
  readonly impatient?: RegExp;
}

const sha = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
const diskOf = (folder: string): string => join(folder, 'disk.img');

/** For both guests: what depends on how much time has passed. */
const clocks: Timely[] = [
  { key: /^pm read 0\+0x8$/, compare: 'none', reason: 'ACPI PM timer: guest time' },
  { key: /^pit read 0\+/, compare: 'none', reason: 'PIT channels: guest time' },
  { key: /^pit read 1\+0x0$/, compare: 'none', reason: 'port 0x61: two of its bits toggle with guest time' },
  {
    key: /^pic intAck/,
    compare: 'none',
    reason: 'a tick each; spurious when a request was masked meanwhile',
  },
  { key: /^pic write [01]\+0x0$/, compare: 'values', reason: 'an end of interrupt for each tick' },
  {
    key: /^pic read [01]\+0x0$/,
    compare: 'none',
    reason: 'requests that are pending just now, ticks among them',
  },
  { key: /^pic (fabric )?line/, compare: 'none', reason: 'the word of a line counts its edges' },
  { key: /^rtc read 0\+0x1$/, compare: 'none', reason: 'time of day, and polls of the update bit' },
  { key: /^rtc (write 0\+0x[01]|read 0\+0x0)$/, compare: 'values', reason: 'as often as time is asked for' },
];

/** SeaBIOS. */
const firmware: Timely[] = [
  ...clocks,
  { key: /^com1 read 0\+0x5$/, compare: 'values', reason: 'polled until the console may print' },
  {
    key: /^com1 write 0\+0x0$/,
    compare: 'prefix',
    room: 16,
    reason: 'the serial console is flushed on ticks, so that its last bytes come before or after the end',
  },
  { key: /^com1 read 0\+0x0$/, compare: 'values', reason: 'polled for a key' },
  { key: /^i8042 (read|write) 2\+0x0$/, compare: 'values', reason: 'A20 is looked at on every tick' },
  {
    key: /^i8042 (read|write) [01]\+0x0$/,
    compare: 'values',
    // Enable the keyboard: what the handler of that interrupt may do.
    ignore: /^174 /,
    reason:
      "status polls; IRQ 1, latched by the controller's own answers, is taken when the firmware next lets it",
  },
];

/** Linux with the command channel on COM2. */
const system: Timely[] = [
  ...clocks,
  {
    key: /^com2 /,
    compare: 'none',
    reason: 'commands carry a random mark; their output is compared as text',
  },
  {
    key: /^com1 (write 0\+0x1|read 0\+0x[256])$/,
    compare: 'none',
    reason: 'interrupt-driven: how many bytes one interrupt finds is a matter of time',
  },
  { key: /^i8042 read 1\+0x0$/, compare: 'values', reason: 'status polls' },
  {
    key: /^disk0 write 0\+0x(20|28|30)$/,
    compare: 'none',
    reason: "where the guest's allocator put the queue",
  },
  {
    key: /^disk0 write 0\+0x3000$/,
    compare: 'values',
    reason: 'a notification for as many requests as are there',
  },
];

/** A guest in a deterministic machine that powers off when it is done; its machine then stands still, to be looked at. */
const exact = { accel: 'soft', deterministic: true, policy: { guestShutdown: 'pause' } } as const;

const hasEnded = async (vm: Vm, seconds: number): Promise<void> => {
  for (let tries = 0; tries < seconds * 50; tries++) {
    if ((await vm.status()).state === 'paused') return;
    await sleep(20);
  }
  throw new Error(`the guest did not come to its end within ${seconds} s`);
};
const debugConsole = (vm: Vm): string => readFileSync(join(vm.dir, 'debugcon.log'), 'latin1');

/**
 * A boot sector (the first 510 bytes of it) that reads 16 times 4 KiB of the disk it was loaded from, changes them, writes them
 * to other sectors and powers off; it says `D`, or `F` when the BIOS reports an error.
 */
const bootSector = Buffer.from(
  [
    // 7c00: cli; ax, ds, es, ss = 0; sp = 7c00; sti; cx = 16
    'fa 31c0 8ed8 8ec0 8ed0 bc007c fb b91000',
    // 7c10: push cx; ah = 42 (extended read), si = 7c80; push dx; int 13; pop dx; jc 7c3f
    '51 b442 be807c 52 cd13 5a 7223',
    // 7c1c: lba += 1024; word [8000] += 1; ax = 4300 (extended write), si = 7c80; push dx; int 13; pop dx; jc 7c3f
    '8106887c0004 ff060080 b80043 be807c 52 cd13 5a 720d',
    // 7c32: lba -= 1016; pop cx; loop 7c10
    '812e887cf803 59 e2d5',
    // 7c3b: al = 'D'; jmp 7c41; 7c3f: al = 'F'
    'b044 eb02 b046',
    // 7c41: out 402, al; out 604, 2000 (S5); hlt; jmp to it
    'ba0204 ee ba0406 b80020 ef f4 ebfd',
  ]
    .join('')
    .replaceAll(' ', ''),
  'hex',
);
/** Disk address packet of INT 13 AH=42: 8 sectors to 0:8000, from sector 8 on. */
const packet = Buffer.from('10000800008000000800000000000000', 'hex');

/** SeaBIOS, which boots from the disk. */
export const seabios: Guest = {
  name: 'seabios',
  prepare(folder) {
    const disk = Buffer.alloc(1 << 20);
    for (let i = 0; i < disk.length; i++) disk[i] = (i * 31 + (i >> 9)) & 0xff;
    disk.fill(0, 0, 512);
    bootSector.copy(disk);
    packet.copy(disk, 0x80);
    disk.writeUInt16LE(0xaa55, 510);
    writeFileSync(diskOf(folder), disk);
  },
  spec: (folder) => ({ ...exact, bios: 'seabios', memory: '32M', bootMenu: 0, disks: [diskOf(folder)] }),
  async work(vm, folder) {
    await hasEnded(vm, 120);
    const console = debugConsole(vm);
    if (!console.endsWith('D')) throw new Error(`the boot sector failed: ${console.slice(-80)}`);
    return { console, disk: sha(readFileSync(diskOf(folder))) };
  },
  timely: [],
};

/** The same with the disk, and an empty CD drive, at the AHCI controller. */
export const seabiosAhci: Guest = {
  ...seabios,
  name: 'seabios-ahci',
  spec: (folder) => ({
    ...seabios.spec(folder),
    disks: [{ path: diskOf(folder), bus: 'ahci' }],
    cdroms: [{}],
  }),
};

const nyx = fileURLToPath(new URL('../../bin/nyx', import.meta.url));
const unbootable = 'No bootable device';

/**
 * SeaBIOS on the host's time, with a TPM into which it measures (a command that is executed twice would change a PCR),
 * to the point where it has looked at every boot device.
 */
export const seabiosTpm: Guest = {
  name: 'seabios-tpm',
  // SeaBIOS waits 750 ms for the TIS (TIMEOUT_A of the PC Client specification).
  impatient: /Timeout at wait_reg8/,
  prepare(folder) {
    seabios.prepare(folder);
    const disk = readFileSync(diskOf(folder));
    disk.fill(0, 0, 512);
    writeFileSync(diskOf(folder), disk);
  },
  spec: (folder) => ({
    accel: 'soft',
    bios: 'seabios',
    memory: '32M',
    bootMenu: 0,
    disks: [diskOf(folder)],
    tpm: { model: 'tis' },
  }),
  async work(vm, folder) {
    for (let tries = 0; ; tries++) {
      let log = '';
      try {
        log = debugConsole(vm);
      } catch {}
      const at = log.indexOf(unbootable);
      if (at < 0 && tries > 3000) throw new Error('SeaBIOS did not come to its end within a minute');
      await sleep(at < 0 ? 20 : 50);
      if (at < 0) continue;
      const { stdout } = spawnSync(process.execPath, [nyx, 'tpm', 'pcrs', vm.name, '--json'], {
        encoding: 'utf8',
      });
      if (!/"sha256"/.test(stdout)) throw new Error('the PCRs cannot be read');
      const end = at + unbootable.length;
      return { end, console: log.slice(0, end), disk: `${sha(readFileSync(diskOf(folder)))} ${stdout}` };
    }
  },
  timely: [
    ...firmware,
    {
      key: /^tpm (read|write) 0\+0x24$/,
      compare: 'none',
      reason: 'random numbers: what the TPM gives, and what SeaBIOS stirs in; the PCRs are compared',
    },
    { key: /^tpm read 0\+0x(0|18)$/, compare: 'values', reason: 'polled until a command is done' },
  ],
};

const work = (rounds: number): string => `
set -e
for i in $(seq 0 ${rounds - 1}); do
  seq $((i * 3001)) $((i * 3001 + 9000)) | dd of=/dev/vda bs=8k seek=$((i * 5)) conv=notrunc 2>/dev/null
  sync
  echo "wrote $i"
done
echo 3 >/proc/sys/vm/drop_caches
sha256sum </dev/vda
dmesg | grep -iE 'i/o error|timed? ?out|nobody cared|hung task|BUG:|WARNING:' || true
`;

const linuxOf = async (
  name: string,
  command: string,
  more: VmSpecInput,
  timely: readonly Timely[],
): Promise<Guest> => {
  const image = await new ImageStore().build('debian');
  return {
    name,
    prepare: (folder) => writeFileSync(diskOf(folder), Buffer.alloc(2 << 20)),
    spec: (folder) => ({
      kernel: image.vmlinux,
      initrd: image.initrd,
      append: image.cmdline,
      agent: true,
      memory: '128M',
      accel: 'soft',
      disks: [diskOf(folder)],
      ...more,
    }),
    async work(vm, folder) {
      const r = await vm.exec(command, { timeout: 400 });
      if (more.deterministic) await hasEnded(vm, 60);
      return {
        console: `${r.stdout}${r.stderr}status ${r.status}`,
        disk: sha(readFileSync(diskOf(folder))),
      };
    },
    timely,
  };
};

/** Debian's kernel; writes to a disk and reads it back; everything that it prints is compared. */
export const linux = (rounds = 8): Promise<Guest> =>
  linuxOf('linux', work(rounds), { ...exact, command: work(rounds) }, []);

/** The same on the host's time. */
export const linuxLive = (rounds = 24): Promise<Guest> => linuxOf('linux-live', work(rounds), {}, system);
