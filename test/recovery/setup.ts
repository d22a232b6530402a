/** What the tests of recovery share: machines with a real guest, and ways to see and to hurt them. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { ImageStore } from '@nyx/image';
import { fileSize, mmap, munmap } from '@nyx/native';
import type { Vm, VmEvent } from '@nyx/nyx';
import type { FaultKind } from '@nyx/protocol';
import type { FaultRecord } from '@nyx/protocol/control';
import { type TestVm, vmTest } from '@nyx/testkit';
import { expect } from 'vitest';

process.env.XDG_RUNTIME_DIR = mkdtempSync(join(tmpdir(), 'nyx-recovery-'));
const root = fileURLToPath(new URL('../..', import.meta.url));
export const scratch = mkdtempSync(join(tmpdir(), 'nyx-recovery-files-'));

const imageOf = (name: string) =>
  new ImageStore().build(name).catch((e: Error) => {
    console.warn(`tests of recovery with ${name} are left out, there is no image: ${e.message}`);
    return undefined;
  });
export const image = await imageOf('debian');
/** Its kernel knows the watchdog. */
export const generic = image && (await imageOf('debian-generic'));

export const test = vmTest(
  {
    ...(image ? { kernel: image.vmlinux, initrd: image.initrd, append: `${image.cmdline} reboot=t` } : {}),
    memory: '192M',
    accel: 'soft',
  },
  { blankDisks: [4 << 20] },
);

/** A BIOS that is these bytes at the reset vector. */
export const bios = (name: string, code: number[]): string => {
  const rom = Buffer.alloc(0x10000, 0x90);
  Buffer.from(code).copy(rom, 0xfff0);
  const path = join(scratch, name);
  writeFileSync(path, rom);
  return path;
};

export const nyx = (...args: string[]): string => {
  const r = spawnSync(process.execPath, [join(root, 'bin/nyx'), ...args], {
    encoding: 'utf8',
    timeout: 240_000,
  });
  expect([r.stderr, r.status]).toEqual([expect.any(String), 0]);
  return r.stdout;
};

/** Waits until `what` gives something. @throws Error after `seconds` */
export const until = async <T>(what: () => Promise<T | undefined>, seconds = 30): Promise<T> => {
  for (const end = Date.now() + seconds * 1000; ; ) {
    const found = await what();
    if (found !== undefined) return found;
    if (Date.now() > end) throw new Error(`not within ${seconds} s`);
    await sleep(50);
  }
};

type Faulty = Pick<Vm, 'history'>;
const isFault = (e: VmEvent): e is VmEvent & FaultRecord => e.type === 'fault';
export const faultsOf = async (vm: Faulty, kind: FaultKind): Promise<FaultRecord[]> =>
  (await vm.history()).filter(isFault).filter((f) => f.kind === kind);
export const fault = (vm: Faulty, kind: FaultKind): Promise<FaultRecord> =>
  until(async () => (await faultsOf(vm, kind)).at(-1));
export const state = (vm: Vm, wanted: string) =>
  until(async () => ((await vm.status()).state === wanted ? true : undefined));
/** Runs a command that the guest does not survive. */
export const last = (vm: TestVm, command: string): void => void vm.run(command, 20).catch(() => {});
export const report = (vm: Pick<Vm, 'dir'>): string => readFileSync(join(vm.dir, 'report.txt'), 'utf8');
export const alive = async (vm: TestVm): Promise<void> =>
  expect((await vm.run('echo yes', 60)).stdout).toBe('yes\n');

/** The process that serves a device, and the place's state. */
export const process_ = async (vm: TestVm, name: string) =>
  (await vm.vm.status()).processes.find((p) => p.name === name)!;

/** Damages a state block, as a stray write would: `halves` of it. */
export const damage = async (vm: TestVm, device: string, halves: 'both' | 'active'): Promise<void> => {
  const { pid } = await vm.vm.status();
  const folder = `/proc/${pid}/fd`;
  const found = readdirSync(folder).find((fd) => {
    try {
      return readlinkSync(join(folder, fd)).startsWith(`/memfd:nyx-state-${device} `);
    } catch {
      return false;
    }
  });
  const { openSync, closeSync } = await import('node:fs');
  const fd = openSync(join(folder, found!), 'r+');
  const memory = mmap(fd, fileSize(fd));
  const bytes = new Uint8Array(memory);
  const words = new Uint32Array(memory);
  // BlockHeader (libs/ring/src/wire.ts): halfBytes is word 5, generation word 16.
  const [half, generation] = [words[5]!, words[16]!];
  for (const n of halves === 'both' ? [0, 1] : [generation & 1]) bytes[0x1000 + n * half + 80]! ^= 0xff;
  munmap(memory);
  closeSync(fd);
};

/** SIGKILL by somebody, not by a wish of ours. */
export const crash = async (vm: TestVm, name: string): Promise<void> => {
  process.kill((await process_(vm, name)).pid, 'SIGKILL');
};
