/** The guests of the crash sweep: what they boot, what they do, when they are done, and what of it is a matter of time. */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ImageStore } from '@nyx/image';
import type { Vm, VmSpecInput } from '@nyx/nyx';
import type { Timely } from './transcript.ts';

export interface Seen {
  /** Debug console bytes up to the end of the comparison. */
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
const sleep = (ms: number): Promise<void> => new Promise((r) => setTimeout(r, ms));
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

const seabiosEnd = 'No bootable device';

/** SeaBIOS to the point where it has looked at every boot device, the disk among them. */
export const seabios: Guest = {
  name: 'seabios',
  prepare(folder) {
    const disk = Buffer.alloc(1 << 20);
    for (let i = 0; i < disk.length; i++) disk[i] = (i * 31 + (i >> 9)) & 0xff;
    writeFileSync(diskOf(folder), disk);
  },
  spec: (folder) => ({ bios: 'seabios', memory: '32M', accel: 'soft', bootMenu: 0, disks: [diskOf(folder)] }),
  async work(vm, folder) {
    for (let tries = 0; tries < 3000; tries++) {
      let log = '';
      try {
        log = readFileSync(join(vm.dir, 'debugcon.log'), 'latin1');
      } catch {}
      const at = log.indexOf(seabiosEnd);
      if (at >= 0) {
        await sleep(50);
        const end = at + seabiosEnd.length;
        return { end, console: log.slice(0, end), disk: sha(readFileSync(diskOf(folder))) };
      }
      await sleep(20);
    }
    throw new Error('SeaBIOS did not come to its end within a minute');
  },
  timely: firmware,
};

const nyx = fileURLToPath(new URL('../../bin/nyx', import.meta.url));

/** The same with a TPM, into which SeaBIOS measures: a command that is executed twice would change a PCR. */
export const seabiosTpm: Guest = {
  ...seabios,
  name: 'seabios-tpm',
  // SeaBIOS waits 750 ms for the TIS (TIMEOUT_A of the PC Client specification).
  impatient: /Timeout at wait_reg8/,
  spec: (folder) => ({ ...seabios.spec(folder), tpm: { model: 'tis' } }),
  async work(vm, folder) {
    const seen = await seabios.work(vm, folder);
    const { stdout } = spawnSync(process.execPath, [nyx, 'tpm', 'pcrs', vm.name, '--json'], {
      encoding: 'utf8',
    });
    if (!/"sha256"/.test(stdout)) throw new Error('the PCRs cannot be read');
    return { ...seen, disk: `${seen.disk} ${stdout}` };
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

/** The same with the disk, and an empty CD drive, at the AHCI controller. */
export const seabiosAhci: Guest = {
  ...seabios,
  name: 'seabios-ahci',
  spec: (folder) => ({
    ...seabios.spec(folder),
    disks: [{ path: diskOf(folder), bus: 'ahci' }],
    cdroms: [{}],
  }),
  timely: [
    ...firmware,
    {
      key: /^ahci read 0\+0x1[1289ab][08]$/,
      compare: 'values',
      reason: 'PxIS, PxTFD, PxSSTS and PxCI, polled until a command is done',
    },
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

/** Debian's kernel; writes to a disk and reads it back; everything that it prints is compared. */
export const linux = async (rounds = 24): Promise<Guest> => {
  const image = await new ImageStore().build('debian');
  return {
    name: 'linux',
    prepare: (folder) => writeFileSync(diskOf(folder), Buffer.alloc(2 << 20)),
    spec: (folder) => ({
      kernel: image.vmlinux,
      initrd: image.initrd,
      append: image.cmdline,
      agent: true,
      memory: '128M',
      accel: 'soft',
      disks: [diskOf(folder)],
    }),
    async work(vm, folder) {
      const r = await vm.exec(work(rounds), { timeout: 300 });
      return {
        console: `${r.stdout}${r.stderr}status ${r.status}`,
        disk: sha(readFileSync(diskOf(folder))),
      };
    },
    timely: system,
  };
};
