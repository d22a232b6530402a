/**
 * The program as a process, on real rings and a real file, killed by SIGKILL while requests are in flight: every
 * request is answered once, and what was acknowledged is in the file.
 */
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { GuestMemory, VirtioFeature } from '@nyx/device';
import { Served } from '@nyx/device/served';
import { VirtioDriver } from '@nyx/device/virtio-driver';
import { monotonicNs } from '@nyx/native';
import { ExitKind } from '@nyx/ring';
import { afterEach, expect, it } from 'vitest';
import { BlkType } from './virtio-blk/regs.ts';

const command = [process.execPath, '--import', 'tsx', fileURLToPath(new URL('main.ts', import.meta.url))];
const SECOND = 1_000_000_000;
const SECTORS = 4096;
const HEADERS = 0x20000;
const DATA = 0x40000;

let served: Served | undefined;
let folder: string | undefined;
const files: number[] = [];
afterEach(async () => {
  if (served && served.child.exitCode === null && served.child.signalCode === null) await served.kill();
  for (const fd of files.splice(0)) closeSync(fd);
  if (folder) rmSync(folder, { recursive: true });
  folder = undefined;
});

async function start(config: Record<string, unknown> = {}) {
  folder = mkdtempSync(join(tmpdir(), 'nyx-storage-'));
  const path = join(folder, 'disk');
  writeFileSync(path, new Uint8Array(SECTORS * 512));
  const file = openSync(path, 'r+');
  // Every process that takes over is sent it anew.
  files.push(file);
  const s = new Served(command, [{ name: 'disk0', kind: 'virtio-blk', irqs: 10, config, fds: { file } }]);
  served = s;
  await s.start();
  const exit = (kind: number, region: number, offset: number, width: number, value = 0): number => {
    if (s.cpu.sync(kind, 0, region, offset, width, value, 0, 1, 5 * SECOND) < 0)
      throw new Error(`no answer: ${s.stderr}`);
    return s.cpu.result[0]!;
  };
  const memory = new GuestMemory(s.ram, s.ram.byteLength);
  const driver = new VirtioDriver(
    {
      read: (region, offset, width) => exit(ExitKind.read, region, offset, width),
      write(region, offset, width, value) {
        // Doorbells are posted, as the class table says; the process may be dead while they wait.
        if (region === 0 && offset >= 0x3000)
          s.cpu.publish(ExitKind.write, 0, region, offset, width, value, 0, 1, 1);
        else exit(ExitKind.write, region, offset, width, value);
      },
      configRead: (register, width) => exit(ExitKind.configRead, 0, register, width),
      configWrite: (register, width, value) => void exit(ExitKind.configWrite, 0, register, width, value),
    },
    memory,
  );
  driver.enableMsix(2);
  driver.negotiate(((1 << VirtioFeature.indirectDesc) | (1 << VirtioFeature.eventIdx) | 0xffffff) >>> 0);
  const q = driver.setUpQueue(0, 0x8000, { size: 64, vector: 1 });
  driver.start();
  return { s, path, memory, driver, q };
}

/** Interrupt entry of the queue's vector: INTx, vector 0, vector 1. */
const QUEUE_IRQ = 2;

it('a storage process is killed again and again under load', { timeout: 60_000 }, async () => {
  const { s, path, memory, driver, q } = await start();
  const content = new Uint8Array(SECTORS * 512);
  const flight = new Map<number, { type: number; block: number; slot: number; value: number }>();
  const free = Array.from({ length: 12 }, (_, i) => i);
  const busy = new Set<number>();
  let seen = 0;
  let done = 0;
  let submitted = 0;
  let x = 7;
  const random = (n: number): number => {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    return Math.floor((x / 4294967296) * n);
  };
  const total = 1500;
  const kills = [100, 300, 301, 700, 1100, 1300];
  const deaths = kills.length;
  let last = Date.now();
  while (done < total) {
    let added = 0;
    while (free.length > 0 && submitted < total && added < 4) {
      const slot = free.pop()!;
      const type = random(3) === 0 ? BlkType.in : BlkType.out;
      let block = random(SECTORS / 8);
      while (busy.has(block)) block = (block + 1) % (SECTORS / 8);
      busy.add(block);
      const value = 1 + random(255);
      const header = HEADERS + slot * 64;
      memory.view.setUint32(header, type, true);
      memory.view.setUint32(header + 8, block * 8, true);
      memory.view.setUint8(header + 32, 0xff);
      const data = [DATA + slot * 4096, 4096] as const;
      memory.bytes(data[0], 4096).fill(type === BlkType.out ? value : 0xcd);
      const head = q.add(
        [[header, 16], ...(type === BlkType.out ? [data] : [])],
        [...(type === BlkType.in ? [data] : []), [header + 32, 1]],
        true,
      );
      flight.set(head, { type, block, slot, value });
      submitted++;
      added++;
    }
    if (added > 0) q.kick();
    if (kills.length > 0 && done >= kills[0]!) {
      kills.shift();
      // Some time after the doorbell: before it is heard, while the file works, or when all is done.
      for (const end = monotonicNs() + random(80_000); monotonicNs() < end; );
      await s.kill();
      await s.start();
      last = Date.now();
    }
    const word = s.word(QUEUE_IRQ);
    if (word === seen) {
      if (Date.now() - last > 5000)
        throw new Error(
          `no interrupt for 5 s: ${done} done, ${flight.size} in flight, used ${q.usedIdx}/${q.lastUsed}\n${s.stderr}`,
        );
      await new Promise((r) => setImmediate(r));
      continue;
    }
    seen = word;
    last = Date.now();
    for (const { id } of q.harvest()) {
      const f = flight.get(id)!;
      flight.delete(id);
      free.push(f.slot);
      busy.delete(f.block);
      done++;
      expect(memory.view.getUint8(HEADERS + f.slot * 64 + 32)).toBe(0);
      const at = f.block * 4096;
      if (f.type === BlkType.out) content.fill(f.value, at, at + 4096);
      else if (
        Buffer.compare(memory.bytes(DATA + f.slot * 4096, 4096), content.subarray(at, at + 4096)) !== 0
      )
        throw new Error(`read of block ${f.block} is wrong`);
    }
  }
  expect(kills).toEqual([]);
  expect(driver.status).toBe(15);
  expect(Buffer.compare(readFileSync(path), content)).toBe(0);
  expect(s.stderr).not.toContain('"level":"error"');
  expect(s.rings.control.epoch).toBe(deaths + 1);
});

it('a role without its file, or with a bad configuration, is refused with a code', {
  timeout: 20_000,
}, async () => {
  served = new Served(command, [{ name: 'disk0', kind: 'virtio-blk', irqs: 10 }]);
  await expect(served.start()).rejects.toMatchObject({ code: 'ROLE_DESCRIPTOR' });
  served = new Served(command, [{ name: 'disk0', kind: 'virtio-blk', irqs: 10, config: { queues: 77 } }]);
  await expect(served.start()).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
});
