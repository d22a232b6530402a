/**
 * Reads of a disk from inside Linux: ours at the AHCI controller, ours as virtio-blk, and QEMU's ich9-ahci on TCG, with the same
 * kernel, program and image file, which the host has cached. Alternating rounds; ROUNDS=n, N=n (requests at depth 1).
 */
import { spawn } from 'node:child_process';
import { copyFileSync, writeFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { TestVm } from '@nyx/testkit';
import { clean, compiled, folder, guestImage, has, withFiles } from '../ahci/machine.ts';

const rounds = Number(process.env.ROUNDS ?? 3);
const count = Number(process.env.N ?? 2000);
const works = [
  ['4 KiB random, depth 1', 1, 4096, count, 'random'],
  ['4 KiB random, depth 32', 32, 4096, count * 4, 'random'],
  ['128 KiB sequential, depth 8', 8, 131072, count / 2, 'sequential'],
] as const;

interface Row {
  rate: number;
  p50: number;
  p99: number;
}
const rowOf = (line: string): Row => {
  const [rate, p50, p99] = line.trim().split(' ').map(Number);
  if (![rate, p50, p99].every(Number.isFinite)) throw new Error(`the guest printed ${JSON.stringify(line)}`);
  return { rate: rate!, p50: p50!, p99: p99! };
};
const command = (device: string, w: (typeof works)[number]): string =>
  `io /dev/${device} ${w[1]} ${w[2]} ${w[3]} ${w[4]}`;
const wait = (device: string): string =>
  `for i in $(seq 100); do [ -b /dev/${device} ] && break; sleep 0.1; done`;

const image = await guestImage();
if (!image || !has('gcc', 'bench ahci')) process.exit(0);
const program = compiled(fileURLToPath(new URL('../ahci/io.c', import.meta.url)));
const disk = join(folder, 'bench.img');
writeFileSync(disk, Buffer.alloc(64 << 20, 'nyx'));
const second = join(folder, 'bench2.img');
copyFileSync(disk, second);

const ours = async (): Promise<Record<string, Row[]>> => {
  const initrd = withFiles(image, 'io.img', [{ path: 'bin/io', type: 'file', mode: 0o755, data: program }]);
  const vm = await TestVm.boot({
    kernel: image.vmlinux,
    initrd,
    append: image.cmdline,
    memory: '256M',
    accel: 'soft',
    disks: [
      { path: disk, bus: 'ahci', readonly: true },
      { path: second, readonly: true },
    ],
  });
  try {
    await vm.run(wait('sda'));
    const rows: Record<string, Row[]> = { 'ours, AHCI': [], 'ours, virtio-blk': [] };
    for (const w of works)
      for (const [name, device] of [
        ['ours, AHCI', 'sda'],
        ['ours, virtio-blk', 'vda'],
      ] as const)
        rows[name]!.push(rowOf((await vm.run(command(device, w), 120)).stdout));
    return rows;
  } finally {
    await vm.close();
  }
};

const theirs = (): Promise<Row[]> =>
  new Promise((resolve, reject) => {
    const script = `#!/bin/sh\n${wait('sda')}\n${works.map((w) => `${command('sda', w)} >/dev/ttyS1`).join('\n')}\npoweroff -f\n`;
    const initrd = withFiles(image, 'io-qemu.img', [
      { path: 'bin/io', type: 'file', mode: 0o755, data: program },
      { path: 'sbin/nyx-agent', type: 'file', mode: 0o755, data: Buffer.from(script) },
    ]);
    const child = spawn('qemu-system-x86_64', [
      ...['-machine', 'q35,accel=tcg', '-m', '256M', '-display', 'none', '-nodefaults', '-no-reboot'],
      ...[
        '-drive',
        `if=none,id=d,file=${disk},format=raw,aio=io_uring`,
        '-device',
        'ide-hd,drive=d,bus=ide.0',
      ],
      ...['-kernel', image.kernel, '-initrd', initrd, '-append', `${image.cmdline} nyx.agent=1`],
      ...['-serial', 'null', '-serial', 'stdio'],
    ]);
    let text = '';
    child.stdout.on('data', (b: Buffer) => {
      text += b.toString('latin1');
    });
    const timer = setTimeout(() => child.kill('SIGKILL'), 200_000);
    child.on('error', reject);
    child.on('exit', () => {
      clearTimeout(timer);
      try {
        resolve([...text.matchAll(/^(\d+ \S+ \S+)\s*$/gm)].map((m) => rowOf(m[1]!)));
      } catch (e) {
        reject(e);
      }
    });
  });

const withQemu = has('qemu-system-x86_64', "QEMU's AHCI");
const all: Record<string, Row[][]> = {};
console.log(`${rounds} rounds, load ${loadavg()[0]!.toFixed(1)}; median (lowest..highest)`);
for (let round = 0; round < rounds; round++) {
  const mine = await ours();
  if (withQemu) mine['QEMU, AHCI on TCG'] = await theirs();
  for (const [name, rows] of Object.entries(mine)) (all[name] ??= []).push(rows);
}
const spread = (values: number[], digits: number): string => {
  const v = values.sort((a, b) => a - b);
  const f = (x: number): string => x.toFixed(digits);
  return `${f(v[v.length >> 1]!)} (${f(v[0]!)}..${f(v.at(-1)!)})`;
};
works.forEach(([title], i) => {
  console.log(`${title}`);
  for (const [name, list] of Object.entries(all)) {
    const rows = list.flatMap((r) => (r[i] ? [r[i]] : []));
    const column = (f: (r: Row) => number, digits: number): string => spread(rows.map(f), digits).padEnd(28);
    console.log(
      `  ${name.padEnd(20)} ${column((r) => r.rate, 0)} /s   p50 ${column((r) => r.p50, 0)} us   p99 ${column((r) => r.p99, 0)} us`,
    );
  }
});
clean();
