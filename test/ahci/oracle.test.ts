/**
 * The same program under the same Linux asks our drives and QEMU's (q35, ich9-ahci) what they are. Every difference is in
 * the table below, with its reason; one that is not there is an error, and so is one that has gone.
 */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Image } from '@nyx/image';
import { TestVm } from '@nyx/testkit';
import { afterAll, describe, expect, test } from 'vitest';
import { Bench } from '../../services/storage/src/ahci/bench.ts';
import { hbaRegisters } from '../../services/storage/src/ahci/regs.ts';
import { clean, compiled, folder, guestImage, has, iso, ready, run, withFiles } from './machine.ts';

afterAll(clean);

const needs = ['qemu-system-x86_64', 'gcc', 'xorriso'];
const image = needs.every((p) => has(p, "the comparison with QEMU's AHCI is"))
  ? await guestImage()
  : undefined;

/** Answers by question. */
type Answers = Map<string, string>;
const parse = (text: string): Answers =>
  new Map([...text.matchAll(/^([a-z][^:\n]*): (.*?)\s*$/gm)].map((m) => [m[1]!, m[2]!]));

const ours = async (i: Image, disk: string, cd: string): Promise<Answers> => {
  const initrd = withFiles(i, 'probe.img', [
    { path: 'bin/probe', type: 'file', mode: 0o755, data: program() },
  ]);
  const vm = await TestVm.boot({
    kernel: i.vmlinux,
    initrd,
    append: i.cmdline,
    memory: '256M',
    accel: 'soft',
    disks: [{ path: disk, bus: 'ahci' }],
    cdroms: [cd],
  });
  try {
    return parse((await vm.run(`${ready} probe`)).stdout);
  } finally {
    await vm.close();
  }
};

const program = (): Buffer => compiled(fileURLToPath(new URL('probe.c', import.meta.url)));

/** QEMU runs the same initramfs; the program's output comes over a second serial port. */
const theirs = (i: Image, disk: string, cd: string): Promise<Answers> =>
  new Promise((resolve, reject) => {
    const script = `#!/bin/sh\n${ready}\nprobe >/dev/ttyS1; echo done: >/dev/ttyS1; poweroff -f\n`;
    const initrd = withFiles(i, 'theirs.img', [
      { path: 'bin/probe', type: 'file', mode: 0o755, data: program() },
      // In place of the agent.
      { path: 'sbin/nyx-agent', type: 'file', mode: 0o755, data: Buffer.from(script) },
    ]);
    const args = ['-machine', 'q35,accel=tcg', '-m', '256M', '-display', 'none', '-nodefaults', '-no-reboot'];
    const drives = [
      ...['-drive', `if=none,id=d,file=${disk},format=raw`, '-device', 'ide-hd,drive=d,bus=ide.0'],
      ...['-drive', `if=none,id=c,file=${cd},media=cdrom,format=raw`, '-device', 'ide-cd,drive=c,bus=ide.1'],
    ];
    const boot = ['-kernel', i.kernel, '-initrd', initrd, '-append', `${i.cmdline} nyx.agent=1`];
    const child = spawn('qemu-system-x86_64', [
      ...args,
      ...drives,
      ...boot,
      '-serial',
      'null',
      '-serial',
      'stdio',
    ]);
    let text = '';
    child.stdout.on('data', (b: Buffer) => {
      text += b.toString('latin1');
    });
    let errors = '';
    child.stderr.on('data', (b: Buffer) => {
      errors += b.toString();
    });
    const timer = setTimeout(() => child.kill('SIGKILL'), 150_000);
    child.on('error', reject);
    child.on('exit', () => {
      clearTimeout(timer);
      if (/^done:/m.test(text)) resolve(parse(text.replaceAll('\r', '')));
      else reject(new Error(`QEMU: ${errors || text || 'nothing was printed'}`));
    });
  });

const bytesOf = (answer: string | undefined): number[] =>
  (answer?.replace(/^0:/, '').trim().split(/ +/) ?? []).map((h) => Number.parseInt(h, 16));
const wordsOf = (answer: string | undefined): number[] => {
  const b = bytesOf(answer);
  return Array.from({ length: b.length / 2 }, (_, i) => b[2 * i]! | (b[2 * i + 1]! << 8));
};

const own = 'a name, serial number or version of its own';
const words = {
  identify: {
    'geometry of ATA-1, retired': [4, 5, 20, 21, 22, 51, 52],
    [own]: [10, 11, 12, 13, 14, 23, 24, 27, 28, 29, 30, 31, 32, 33],
    'double word I/O (retired) there; trusted computing, not ours, here': [48],
    'here IORDY may be disabled; words 49 and 50 as ATA8-ACS wants them': [49, 50],
    'READ MULTIPLE is off until it is set up, as ATA8-ACS says': [59],
    'single word DMA, retired': [62],
    'there DRAT (reads after a trim are the same), although it trims only when told to': [69],
    'here 1.5 and 3 Gbit/s beside NCQ': [76],
    'ATA8-ACS; there up to ATA/ATAPI-7': [80, 81],
    'here look-ahead, power management and SMART can be set; logs and FUA are there': [82, 84, 85, 86, 87],
    'UDMA up to mode 6, the fastest is selected': [88],
    'hardware reset result, which is of parallel ATA': [93],
    'trim is offered without asking for it': [105],
    'physical sectors of 4096 bytes': [106],
    'extended settings, alignment, not rotating, transport SATA': [119, 120, 209, 217, 222],
    'here the words have a check sum': [255],
  },
  'identify packet': {
    'retired words': [20, 21, 22, 48, 62],
    [own]: [10, 11, 12, 13, 23, 24, 27, 28, 29, 30, 31, 32],
    'here IORDY may be disabled, as ATA8-ACS wants words 49 and 50': [49, 50],
    'no geometry: words 54 to 58 are not valid': [53],
    'PIO and DMA cycles': [65, 66, 67, 68],
    'release times and queue of overlapped packets, which neither has': [71, 72, 75],
    '1.5 and 3 Gbit/s; there NCQ, which a packet device does not have': [76],
    'ATA8-ACS, commands that are supported; there nothing is told': [80, 82, 83, 84, 85, 87],
    'UDMA up to mode 6': [88],
    'transport SATA; check sum': [222, 255],
  },
} as const;

/** Questions that are answered differently, and why. */
const reasons: Record<string, string> = {
  'smart data': 'QEMU invents attributes of a disk that does not exist; a file has none',
  'log directory': 'QEMU has no READ LOG EXT; with NCQ it is mandatory (ATA8-ACS 4.16.3)',
  'queued error log': 'as above',
  inquiry: own,
  'inquiry 5': 'byte 3: QEMU has the ATAPI version of SFF 8020; SPC-3 has the response data format, 2',
  'vital pages': 'here also the serial number, mandatory for what has one',
  'request sense':
    'sense data is gone with the next command (SPC-3 4.5.1); QEMU still tells of the one before',
  toc: 'control of the lead-out: QEMU has 16h (copy permitted), here 14h, a data track, as for track 1',
  'toc as time': 'as above',
  'toc lead-out': 'as above',
  sessions: 'format in byte 2 (MMC-5 6.30.2); QEMU knows only the control byte of old drives',
  'raw toc': 'as above',
  'toc format 7': 'as above: reserved here',
  configuration: 'all features that a drive with a medium has; QEMU has profiles and core alone',
  'configuration 1e': 'request type 2, one feature (MMC-5 6.6.2.1); QEMU refuses it',
  events: 'event data length counts all that follows it: 6 (MMC-5 6.7.2.1)',
  'events again': 'as above',
  'events of no class': 'as above: 2',
  'mode page 1': 'page of 12 bytes (MMC-5 7.4), no medium type (reserved since MMC-2)',
  'mode page 2a': 'no audio; 32x; a buffer of 512 KiB',
  'disc information':
    'there is no lead-in and lead-out of a next session on a finalized disc: FFh (MMC-5 6.22.3.1)',
  mechanism: 'number of slots: no changer (MMC-5 6.12)',
  'mechanism when open': 'as above; and the door is open',
  'read nothing': 'a length of 0 is no error (MMC-5 6.15.3)',
  'structure of a CD': 'cannot read medium, incompatible format: ASCQ 02h (MMC-5 annex F)',
  'open while locked': 'illegal request, medium removal prevented (MMC-5 6.49)',
  'events when open': 'that the medium was removed is told once',
  'ready when open': 'ASCQ 02h: the tray is open',
  'capacity when open': 'as above',
  'events when closed': 'a new medium is told once',
  'ready when closed': 'from not ready to ready is a unit attention (MMC-5 4.1.6.1)',
};

/** Registers after reset; what is not here is the same. */
const registers: Record<string, string> = {
  cap: 'CLO, 3 Gbit/s, PIO in blocks of many sectors; QEMU has 1.5 Gbit/s and none of them',
  pi: 'here only ports with a drive, which systems look for faster',
  vs: 'AHCI 1.3.1; QEMU says 1.0',
  p0Tfd: 'the first FIS of a device is taken although FRE is clear (3.3.7), so the task file is valid',
  p0Sig: 'as above: and the signature',
  p0Ssts: '3 Gbit/s',
  p0Serr: 'COMINIT was received, PhyRdy changed (3.3.12, 10.4.2)',
  p0Is: 'which PCS and PRCS mirror (3.3.5)',
};

describe.runIf(image)('beside QEMU', () => {
  test('the same program under the same Linux gets the same answers, but for what is listed', async () => {
    const disk = join(folder, 'disk.img');
    run('truncate', ['-s', '64M', disk]);
    const cd = iso('cd.iso', { 'a.txt': 'a\n' });
    // One after the other: the disk is locked.
    const [o, t] = [await ours(image!, disk, cd), await theirs(image!, disk, cd)];
    expect(o.size).toBeGreaterThan(50);
    expect([...o.keys()]).toEqual([...t.keys()]);
    const different = [...o.keys()].filter((k) => o.get(k) !== t.get(k) && !(k in words));
    expect(different.sort()).toEqual(Object.keys(reasons).sort());
    for (const [k, list] of Object.entries(words)) {
      const [a, b] = [wordsOf(o.get(k)), wordsOf(t.get(k))];
      expect([a.length, b.length]).toEqual([256, 256]);
      const expected = Object.values(list).flat();
      const found = a.flatMap((w, i) => (w === b[i] ? [] : [i]));
      expect(found, k).toEqual(expected.sort((x, y) => x - y));
      expect(bytesOf(o.get(k)).reduce((x, y) => (x + y) & 0xff, 0)).toBe(0);
    }
  }, 300_000);

  test('registers after reset, but for what is listed', async () => {
    const { Qtest } = await import('@nyx/device/qtest');
    const drive = [
      '-drive',
      'if=none,id=d,file=null-co://,format=raw',
      '-device',
      'ide-hd,drive=d,bus=ide.0',
    ];
    const q = new Qtest(drive);
    try {
      const ahci = (31 << 3) | 2;
      expect(await q.configRead(ahci, 0, 4)).toBe(0x29228086);
      expect((await q.configRead(ahci, 8, 4)) >>> 8).toBe(0x010601);
      await q.configWrite(ahci, 0x24, 4, 0xe000_0000);
      await q.configWrite(ahci, 4, 2, 6);
      const mine = new Bench({ config: { ports: [{ type: 'disk' }] } });
      mine.rig.configWrite(0x24, 4, 0xe000_0000);
      mine.rig.configWrite(4, 2, 6);
      const different: string[] = [];
      for (const r of hbaRegisters.registers) {
        const theirs = (await q.read(0xe000_0000 + r.at, 4)) >>> 0;
        if (theirs !== mine.read(r.name)) different.push(r.name);
      }
      expect(different.sort()).toEqual(Object.keys(registers).sort());
    } finally {
      q.close();
    }
  });
});
