/** The default guest on QEMU's board, entered by our own loader with our own ACPI tables. Needs QEMU and a built image. */

import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  acpiFiles,
  checkInitrd,
  e820Map,
  GuestRam,
  loadKernel,
  lowRam,
  parseBzImage,
  parseElf,
  unpackKernel,
  writeAcpi,
} from '@nyx/boot';
import { ExecParser, execRequest, execWire } from '@nyx/protocol';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createDataDisk } from './disk.ts';
import { ImageStore } from './images.ts';
import { shellPrompt } from './init.ts';
import { type Board, startBoard, startQemu } from './testing/board.ts';

const image = new ImageStore().find('debian');
const hasQemu = spawnSync('qemu-system-x86_64', ['-version']).error === undefined;
if (!image) console.warn('skipped: the image debian is not built (`nyx image build debian`)');
if (!hasQemu) console.warn('skipped: qemu-system-x86_64 is not installed');

let directory = '';
let board: Board | undefined;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'nyx-guest-'));
});
afterEach(async () => {
  board?.kill();
  await board?.exit;
  board = undefined;
  rmSync(directory, { recursive: true, force: true });
});

interface Start {
  kernel: 'vmlinux' | 'kernel';
  protocol?: 'linux' | 'pvh';
  mib?: number;
  cpus?: number;
  append?: string;
  disk?: string;
}

async function start({
  kernel,
  protocol = 'linux',
  mib = 256,
  cpus = 1,
  append = '',
  disk,
}: Start): Promise<Board> {
  const bytes = mib << 20;
  const ram = new GuestRam(new ArrayBuffer(bytes), lowRam(bytes));
  const rsdp = writeAcpi(ram, { cpus });
  const plan = loadKernel(ram, {
    kernel: readFileSync(image![kernel]),
    initrd: readFileSync(image!.initrd),
    cmdline: `${image!.cmdline} ${append}`,
    e820: e820Map(bytes),
    rsdp,
    protocol,
    seed: new Uint8Array(32).fill(1),
  });
  board = await startBoard(ram, plan, { directory, cpus, ...(disk ? { disk } : {}) });
  return board;
}

describe.skipIf(!image || !hasQemu)('the default guest on another board', () => {
  it.each<Start>([{ kernel: 'vmlinux' }, { kernel: 'vmlinux', protocol: 'pvh' }, { kernel: 'kernel' }])(
    'comes to a shell and powers off ($kernel $protocol)',
    { timeout: 120_000 },
    async (how) => {
      const b = await start(how);
      await b.expect('console', shellPrompt);
      console.log(
        `${how.kernel} ${how.protocol ?? 'linux'}: shell after ${(b.elapsed() / 1000).toFixed(2)} s`,
      );
      b.send('console', 'dmesg | grep -ciE "ACPI (Error|BIOS Error|Warning)|BUG:|WARNING:"\n');
      await b.expect('console', /\n0\r?\n/);
      // Not before: what the console has not sent yet is lost with the power.
      b.send('console', 'exit\n');
      expect(await b.exit).toBe(0);
    },
  );

  it('sees two processors, mounts the disk, keeps what is written', { timeout: 120_000 }, async () => {
    const disk = join(directory, 'disk');
    await createDataDisk(disk, 64 << 20);
    const first = await start({ kernel: 'vmlinux', cpus: 2, disk });
    await first.expect('console', shellPrompt);
    first.send('console', 'echo cpus=$(nproc); mount | grep " /data "; echo kept-$((6*7)) >/data/file\n');
    await first.expect('console', 'cpus=2');
    await first.expect('console', '/dev/vda on /data type ext4');
    first.send('console', 'exit\n');
    expect(await first.exit).toBe(0);
    // Powered off cleanly: the journal need not be replayed.
    expect(spawnSync('/sbin/dumpe2fs', ['-h', disk]).stdout.toString()).not.toMatch(/needs_recovery/);
    const second = await start({ kernel: 'vmlinux', disk });
    await second.expect('console', shellPrompt);
    second.send('console', 'cat /data/file\n');
    await second.expect('console', 'kept-42');
  });

  it('runs commands over COM2', { timeout: 120_000 }, async () => {
    const b = await start({ kernel: 'vmlinux', append: execWire.parameter });
    await b.expect('com2', execWire.ready);
    const nonce = '0123456789abcdef';
    b.send('com2', execRequest(nonce, 'printf "a\\r\\nb"; echo oops >&2; exit 7').toString());
    const stream = await b.expect('com2', /NYX-END .*\n/).then(() => b.expect('com2', /[\s\S]*NYX-END .*\n/));
    const got = { stdout: '', stderr: '', status: -1 };
    new ExecParser(nonce, {
      stdout: (d) => {
        got.stdout += d;
      },
      stderr: (d) => {
        got.stderr += d;
      },
      end: (s) => {
        got.status = s;
      },
    }).feed(Buffer.from(stream, 'latin1'));
    expect(got).toEqual({ stdout: 'a\r\nb', stderr: 'oops\n', status: 7 });
    b.send('com2', execRequest(nonce, 'nyx-poweroff').toString());
    expect(await b.exit).toBe(0);
  });

  it('powers off when the power button is pressed', { timeout: 120_000 }, async () => {
    const b = await start({ kernel: 'vmlinux' });
    await b.expect('console', shellPrompt);
    b.send('monitor', 'system_powerdown\n');
    expect(await b.exit).toBe(0);
  });
});

describe.skipIf(!image || !hasQemu)('ACPI tables through firmware', () => {
  const names: Record<string, string> = {
    SeaBIOS: '/usr/share/seabios/bios-256k.bin',
    OVMF: '/usr/share/qemu/OVMF.fd',
  };
  for (const [name, file] of Object.entries(names))
    if (!existsSync(file)) console.warn(`skipped: ${name} (${file}) is not installed`);
  it.each(Object.entries(names).filter(([, file]) => existsSync(file)))(
    '%s places and links them',
    { timeout: 400_000 },
    async (_, firmware) => {
      const files = Object.entries(
        acpiFiles({ cpus: 2, hasHpet: true, hasVga: true, hasMouse: true }),
      ).flatMap(([file, bytes]) => {
        const at = join(directory, file.replaceAll('/', '-'));
        writeFileSync(at, bytes);
        return ['-fw_cfg', `name=${file},file=${at}`];
      });
      // Without QEMU's own tables.
      const kernel = ['-kernel', image!.kernel, '-initrd', image!.initrd, '-append', image!.cmdline];
      const machine = ['-machine', 'q35,acpi=off', '-m', '512', '-smp', '2', '-bios', firmware];
      let b: Board;
      for (let tries = 1; ; tries++) {
        b = await startQemu([...machine, ...kernel, ...files], directory);
        board = b;
        const came = await b.expect('console', new RegExp(`${shellPrompt}|soft lockup`), 120_000);
        if (came === shellPrompt) break;
        // One of TCG's processors stands still now and then, before our tables matter.
        console.warn(`QEMU: a soft lockup of its guest, try ${tries} of 3`);
        expect(tries).toBeLessThan(3);
        b.kill();
        await b.exit;
      }
      b.send(
        'console',
        'echo cpus=$(nproc) tables=$(dmesg | grep -cE "ACPI: (APIC|FACP|MCFG|HPET|DSDT) .* NYX ")\n',
      );
      await b.expect('console', 'cpus=2 tables=5');
      b.send('console', 'exit\n');
      expect(await b.exit).toBe(0);
    },
  );
});

describe.skipIf(!image)('the kernel of the image', () => {
  it('unpacks to the ELF file that lies beside it', async () => {
    const bz = parseBzImage(readFileSync(image!.kernel));
    const vmlinux = readFileSync(image!.vmlinux);
    const tool = (format: string, data: Uint8Array): Promise<Uint8Array> =>
      Promise.resolve(spawnSync(format, ['-dc'], { input: data, maxBuffer: 1 << 30 }).stdout);
    expect(Buffer.compare(await unpackKernel(bz, tool), vmlinux)).toBe(0);
    const elf = parseElf(vmlinux);
    expect(elf.entry).toBe(bz.prefAddress);
    expect(elf.pvhEntry).toBeDefined();
  });

  it('has an initramfs that the loader takes whole and refuses when it is cut', () => {
    const initrd = readFileSync(image!.initrd);
    expect(() => checkInitrd(initrd)).not.toThrow();
    // The last 512 bytes may be padding after the trailer.
    for (const bytes of [0, 15, 100, 1000, 4096, initrd.length >> 1, initrd.length - 1024])
      expect(() => checkInitrd(initrd.subarray(0, bytes)), `${bytes} bytes`).toThrow(/^INITRD_TRUNCATED/);
  });
});
