/**
 * QEMU's Q35 board as a second opinion on what libs/boot makes: its RAM is a file that our loader has filled, and its
 * firmware is the few instructions below, which do only what a board needs (RAM at 0xC0000, ECAM at 0xB0000000, PM block at
 * 0x600, SCI_EN) and then enter the guest as the boot plan says. No SeaBIOS, no tables of QEMU's.
 */

import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, ftruncateSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { BootPlan, GuestRam } from '@nyx/boot';

/**
 * Assembled from: lgdt; for each pair (address, value): out 0xcf8, out 0xcfc; out 0x604, SCI_EN; protected mode; flat data
 * segments; plan at 0xfffff000 -> esp, esi, ebx; unless PVH: CR4.PAE, CR3, EFER.LME, CR0.PG; lgdt of the plan; far
 * jump to 0x10:rip. The pairs: PAM0..7 = RAM, PCIEXBAR = 0xb0000001, PMBASE = 0x601, ACPI_CNTL = 0x80.
 */
const FIRMWARE = [
  'fa2e660f0116c000bec8002e668b046685c07414baf80c66efbafc0c2e668b440466ef83c608ebe3ba0406b80100ef0f20c0',
  '0c010f22c066ea3f00ffff0800b8180000008ed88ec08ed08ee08ee8bd00f0ffff8b65108b75188b5d20837d000274280f20',
  'e083c8200f22e08b45280f22d8b9800000c00f320d000100000f300f20c00d000000800f22c00f0155308b4508894424f066',
  'c74424f41000ff6c24f00000000000000000ffff0000009bcf000000000000000000ffff00000093cf001f00a000ffff6690',
  '9000008030333333940000803333333360000080010000b0640000800000000040f800800106000044f80080800000000000',
  '0000',
].join('');

const ROM_BYTES = 0x10000;
const PLAN_AT = 0xf000;

function rom(plan: BootPlan): Buffer {
  const out = Buffer.alloc(ROM_BYTES);
  out.write(FIRMWARE, 'hex');
  // Reset vector: jump to the start of the ROM.
  out.set([0xe9, 0x0d, 0x00], 0xfff0);
  const words = [plan.bootMode, plan.rip, plan.rsp, plan.rsi, plan.rbx, plan.cr3];
  for (const [i, w] of words.entries()) out.writeUInt32LE(w, PLAN_AT + i * 8);
  out.writeUInt16LE(plan.gdtLimit, PLAN_AT + 48);
  out.writeUInt32LE(plan.gdtBase, PLAN_AT + 50);
  return out;
}

/** Guest RAM as a sparse file. */
function writeRam(path: string, ram: GuestRam): void {
  const CHUNK = 1 << 20;
  const zero = Buffer.alloc(CHUNK);
  const fd = openSync(path, 'w');
  ftruncateSync(fd, ram.buffer.byteLength);
  for (let at = 0; at < ram.buffer.byteLength; at += CHUNK) {
    const chunk = Buffer.from(ram.buffer as ArrayBuffer, at, CHUNK);
    if (!chunk.equals(zero)) writeSync(fd, chunk, 0, CHUNK, at);
  }
  closeSync(fd);
}

export interface Board {
  /** Waits for text on the console (COM1) or on the second serial port. @throws Error with what came instead */
  expect(port: 'console' | 'com2' | 'monitor', what: string | RegExp, timeoutMs?: number): Promise<string>;
  send(port: 'console' | 'com2' | 'monitor', text: string): void;
  /** Exit status of QEMU; the guest's power-off gives 0. */
  exit: Promise<number | null>;
  kill(): void;
  /** Milliseconds since QEMU was started. */
  elapsed(): number;
}

export interface BoardOptions {
  directory: string;
  cpus?: number;
  disk?: string;
}

/** Enters the guest as `plan` says on a board whose memory is `ram`. */
export function startBoard(ram: GuestRam, plan: BootPlan, options: BoardOptions): Promise<Board> {
  const file = (name: string): string => join(options.directory, name);
  writeRam(file('ram'), ram);
  writeFileSync(file('rom'), rom(plan));
  const mib = ram.buffer.byteLength >> 20;
  const disk = [
    '-drive',
    `file=${options.disk},if=none,id=d,format=raw`,
    '-device',
    'virtio-blk-pci,drive=d,disable-legacy=on',
  ];
  const args = [
    ...[
      '-machine',
      'q35,memory-backend=m',
      '-m',
      String(mib),
      '-smp',
      String(options.cpus ?? 1),
      '-bios',
      file('rom'),
    ],
    ...['-object', `memory-backend-file,id=m,size=${mib}M,mem-path=${file('ram')},share=on`],
    ...(options.disk ? disk : []),
  ];
  return startQemu(args, options.directory);
}

/** QEMU with our three ports. `directory` takes its sockets. */
export async function startQemu(machine: readonly string[], directory: string): Promise<Board> {
  const file = (name: string): string => join(directory, name);
  const port = (name: string): string => `unix:${file(name)},server=on,wait=off`;
  const args = [
    '-accel',
    'tcg',
    '-nodefaults',
    '-display',
    'none',
    '-no-reboot',
    '-serial',
    'stdio',
    '-serial',
    port('com2'),
    '-monitor',
    port('monitor'),
    ...machine,
  ];
  const started = performance.now();
  const qemu: ChildProcess = spawn('qemu-system-x86_64', args, { stdio: ['pipe', 'pipe', 'pipe'] });
  const heard = { console: '', com2: '', monitor: '' };
  const wake = new Set<() => void>();
  const hear = (port: keyof typeof heard) => (data: Buffer) => {
    heard[port] += data.toString('latin1');
    for (const w of wake) w();
  };
  qemu.stdout!.on('data', hear('console'));
  qemu.stderr!.on('data', hear('console'));
  const exit = new Promise<number | null>((resolve) => qemu.on('close', resolve));
  const open = async (name: 'com2' | 'monitor'): Promise<Socket> => {
    for (let tries = 0; ; tries++) {
      const socket = connect(file(name));
      const ok = await new Promise<boolean>((resolve) =>
        socket.once('connect', () => resolve(true)).once('error', () => resolve(false)),
      );
      if (ok) return socket.on('data', hear(name)).on('error', () => {});
      if (tries > 200 || qemu.exitCode !== null) throw new Error(`QEMU did not start: ${heard.console}`);
      await sleep(20);
    }
  };
  const sockets = { com2: await open('com2'), monitor: await open('monitor') };
  return {
    exit,
    elapsed: () => performance.now() - started,
    kill: () => qemu.kill(),
    send: (port, text) => void (port === 'console' ? qemu.stdin!.write(text) : sockets[port].write(text)),
    expect: (port, what, timeoutMs = 60_000) =>
      new Promise((resolve, reject) => {
        const look = (): void => {
          const text = heard[port];
          const found =
            typeof what === 'string' ? (text.includes(what) ? what : undefined) : what.exec(text)?.[0];
          if (found === undefined) return;
          done();
          resolve(found);
        };
        const fail = (why: string) => () => {
          done();
          reject(new Error(`${why} while waiting for ${what} on ${port}; came: ${heard[port].slice(-2000)}`));
        };
        const timer = setTimeout(fail('timeout'), timeoutMs);
        const ended = fail('QEMU ended');
        const done = (): void => {
          clearTimeout(timer);
          wake.delete(look);
          qemu.off('close', ended);
        };
        wake.add(look);
        qemu.on('close', ended);
        look();
      }),
  };
}
