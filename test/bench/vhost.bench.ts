/**
 * What the front-end's hop costs a guest: 4 KiB direct reads, one at a time, by dd in a guest on the software CPU, of the same
 * file at a disk of the machine's own, at `nyx storage serve` and at qemu-storage-daemon over vhost-user; beside them QEMU's guest
 * (TCG), whose doorbell and interrupt eventfds the back-end has itself. Same kernel, same program, rounds take turns.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { ImageStore } from '@nyx/image';
import { TestVm } from '@nyx/testkit';
import { noise, spread } from './noise.ts';

const ROUNDS = 5;
const READS = 3000;
const folder = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'nyx-vhost-bench-'));
process.env.XDG_RUNTIME_DIR = folder;
const nyx = fileURLToPath(new URL('../../bin/nyx', import.meta.url));
const file = (name: string): string => {
  const path = join(folder, name);
  writeFileSync(path, Buffer.alloc(16 << 20, 1));
  return path;
};
const children: ChildProcess[] = [];
const start = (program: string, args: string[], env = process.env): ChildProcess => {
  const c = spawn(program, args, { stdio: ['pipe', 'pipe', 'ignore'], env });
  children.push(c);
  return c;
};
const socket = (name: string): string => join(folder, `${name}.sock`);
const listening = async (path: string): Promise<void> => {
  for (let n = 0; !existsSync(path) && n < 400; n++) await sleep(25);
};
const serve = async (name: string): Promise<string> => {
  const path = socket(name);
  start(process.execPath, [nyx, 'storage', 'serve', '--socket', path, file(name)]);
  await listening(path);
  return path;
};
const daemon = async (name: string): Promise<string> => {
  const path = socket(name);
  start('qemu-storage-daemon', [
    ...['--blockdev', `driver=file,node-name=d,filename=${file(name)}`],
    ...['--export', `type=vhost-user-blk,id=e,node-name=d,addr.type=unix,addr.path=${path},writable=on`],
  ]);
  await listening(path);
  return path;
};

/** A warm-up, then the reads, between two looks at the guest's clock (of hundredths of a second). */
const script = (disk: string): string => {
  const dd = (n: number): string =>
    `dd if=/dev/${disk} of=/dev/null bs=4k count=${n} iflag=direct 2>/dev/null`;
  return `${dd(200)}; read a b </proc/uptime; ${dd(READS)}; read c d </proc/uptime; echo from=$a to=$c`;
};
const over = /from=([\d.]+) to=([\d.]+)/;

const image = await new ImageStore().build('debian');
const hasQemu = spawnSync('qemu-storage-daemon', ['--version']).status === 0;
const results = new Map<string, number[]>();
const put = (what: string, text: string): void => {
  const [, from, to] = over.exec(text) ?? [];
  const us = ((Number(to) - Number(from)) * 1e6) / READS;
  results.set(what, [...(results.get(what) ?? []), us]);
};

/** A guest of QEMU with this socket; runs commands on its console. */
async function qemuGuest(path: string): Promise<(command: string) => Promise<string>> {
  const q = start('qemu-system-x86_64', [
    ...[
      '-accel',
      'tcg',
      '-nodefaults',
      '-nographic',
      '-no-reboot',
      '-m',
      '256M',
      '-machine',
      'q35,memory-backend=ram',
    ],
    ...['-object', 'memory-backend-memfd,id=ram,size=256M,share=on', '-serial', 'stdio'],
    ...['-chardev', `socket,id=d,path=${path},reconnect=1`, '-device', 'vhost-user-blk-pci,chardev=d'],
    ...['-kernel', image.kernel, '-initrd', image.initrd, '-append', 'console=ttyS0 quiet'],
  ]);
  let said = '';
  q.stdout!.on('data', (b: Buffer) => {
    said += b.toString('latin1');
  });
  const until = async (text: RegExp): Promise<string> => {
    for (let n = 0; !text.test(said); n++) {
      if (n > 2400) throw new Error(said.slice(-300));
      await sleep(25);
    }
    return said;
  };
  await until(/# /);
  return async (command) => {
    said = '';
    q.stdin!.write(`${command}\n`);
    return until(over);
  };
}

let vm: TestVm | undefined;
try {
  console.log(await noise());
  vm = await TestVm.boot({
    kernel: image.vmlinux,
    initrd: image.initrd,
    append: image.cmdline,
    memory: '256M',
    accel: 'soft',
    disks: [file('own.img')],
    vhostUser: [{ socket: await serve('ours') }, ...(hasQemu ? [{ socket: await daemon('theirs') }] : [])],
  });
  const qemuOurs = hasQemu ? await qemuGuest(await serve('qemu-ours')) : undefined;
  const qemuTheirs = hasQemu ? await qemuGuest(await daemon('qemu-theirs')) : undefined;
  for (let round = 0; round < ROUNDS; round++) {
    put('our guest, a disk of its own', (await vm.run(script('vda'))).stdout);
    put('our guest, nyx storage serve', (await vm.run(script('vdb'))).stdout);
    if (!qemuOurs || !qemuTheirs) continue;
    put('our guest, qemu-storage-daemon', (await vm.run(script('vdc'))).stdout);
    put("QEMU's guest, nyx storage serve", await qemuOurs(script('vda')));
    put("QEMU's guest, qemu-storage-daemon", await qemuTheirs(script('vda')));
  }
  for (const [what, us] of results) console.log(`  ${what.padEnd(36)} ${spread(us)} us a read`);
} finally {
  await vm?.close();
  for (const c of children) c.kill();
  rmSync(folder, { recursive: true, force: true });
}
