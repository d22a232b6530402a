/**
 * A machine with a TPM, all processes real: Linux drives both interfaces and reads the event log; the TPM's process is killed
 * while commands run; firmware measures; a state directory outlives the machine.
 */

import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { decodeLog, hashes, replay } from '@nyx/boot';
import { type Image, ImageStore } from '@nyx/image';
import { Vm } from '@nyx/nyx';
import { list } from '@nyx/nyx/rundir';
import { tpmWire } from '@nyx/protocol';
import type { VmSpecInput } from '@nyx/protocol/spec';
import { afterAll, describe, expect, test } from 'vitest';

const dir = mkdtempSync(join(tmpdir(), 'nyx-tpm-'));
process.env.XDG_RUNTIME_DIR = dir;
const nyx = fileURLToPath(new URL('../../../bin/nyx', import.meta.url));
const image: Image | undefined = await new ImageStore().build('debian').catch((e: Error) => {
  console.warn(`TPM tests with a guest are left out, there is no image: ${e.message}`);
  return undefined;
});
afterAll(async () => {
  for (const vm of list())
    if (vm.kind === 'alive')
      try {
        await Vm.connect(vm.name).stop(0);
      } catch {
        // It has ended meanwhile.
      }
  rmSync(dir, { recursive: true, force: true });
});

const guest = (name: string, tpm: VmSpecInput['tpm']): VmSpecInput => ({
  name,
  kernel: image!.vmlinux,
  initrd: image!.initrd,
  append: image!.cmdline,
  memory: '256M',
  accel: 'soft',
  agent: true,
  tpm,
});
const run = async (vm: Vm, command: string, timeout = 300): Promise<string> => {
  const r = await vm.exec(command, { timeout });
  expect(r.status, r.stderr.toString()).toBe(0);
  return r.stdout.toString();
};

const octal = (bytes: Buffer): string =>
  [...bytes].map((b) => `\\${b.toString(8).padStart(3, '0')}`).join('');
const hex = (text: string): Buffer => {
  const b = Buffer.from(text.replaceAll(' ', ''), 'hex');
  b.writeUInt32BE(b.length, 2);
  return b;
};
/** Shell that sends commands to the TPM, one after the other, and prints the responses in hexadecimal digits. */
const transact = (...commands: Buffer[]): string =>
  `exec 3<>$(echo /dev/tpm[0-9]); ${commands
    .map(
      (c) => `printf '${octal(c)}' >&3; dd bs=4096 count=1 <&3 2>/dev/null | hexdump -ve '1/1 "%02x"'; echo`,
    )
    .join('; ')}`;
const password = '00000009 40000009 0000 00 0000';
const digest = createHash('sha256').update('measured').digest();
const extend = (pcr: number): Buffer =>
  hex(
    `8002 00000000 00000182 ${pcr.toString(16).padStart(8, '0')} ${password} 00000001 000b ${digest.toString('hex')}`,
  );
const extended = (times: number): string => {
  let value = Buffer.alloc(32);
  for (let i = 0; i < times; i++) value = createHash('sha256').update(value).update(digest).digest();
  return value.toString('hex');
};
/** RSA 3072 in the NULL hierarchy: takes a second or so. */
const createPrimary = hex(
  `8002 00000000 00000131 40000007 ${password} 0004 0000 0000 0016 0001 000b 00040072 0000 0010 0010 0c00 00000000 0000 0000 00000000`,
);
const pcr = async (vm: Vm, bank: string, n: number): Promise<string> =>
  (await run(vm, `cat /sys/class/tpm/tpm[0-9]/pcr-${bank}/${n}`)).trim().toLowerCase();

/** The page that the guest, its firmware and the loader share for physical presence. */
function presencePage(status: Awaited<ReturnType<Vm['status']>>): Buffer {
  const buffer = memories(status).find(([name]) => name.includes('nyx-tpm-buffer'))!;
  return readFileSync(buffer[1]).subarray(tpmWire.ppiAt, tpmWire.ppiAt + tpmWire.ppiBytes);
}
function setPresence(status: Awaited<ReturnType<Vm['status']>>, at: number, bytes: Buffer): void {
  const [, path] = memories(status).find(([name]) => name.includes('nyx-tpm-buffer'))!;
  const buffer = openSync(path, 'r+');
  writeSync(buffer, bytes, 0, bytes.length, tpmWire.ppiAt + at);
  closeSync(buffer);
}
/** Shared memory of a process: name, path. */
function memoriesOf(pid: number): [name: string, path: string][] {
  const fds = `/proc/${pid}/fd`;
  return readdirSync(fds)
    .map((f): [string, string] => {
      try {
        return [readlinkSync(join(fds, f)), join(fds, f)];
      } catch {
        return ['', ''];
      }
    })
    .filter(([name]) => name.includes('memfd:'));
}
const memories = (status: Awaited<ReturnType<Vm['status']>>): [name: string, path: string][] =>
  memoriesOf(status.processes.find((p) => p.name === 'tpm')!.pid!);
/** The file of a machine's memory. */
function ramOf(name: string): string {
  const { pid } = list()
    .find((vm) => vm.name === name)!
    .pids.find((p) => p.role === 'nyxd')!;
  return memoriesOf(pid).find(([memory]) => memory.includes('nyx-ram'))![1];
}
/** What others can look at when a TPM's process has died: files of the run directory, and shared memory but the TPM's own. */
function leftBehind(
  runDir: string,
  status: Awaited<ReturnType<Vm['status']>>,
): [name: string, bytes: Buffer][] {
  const files = readdirSync(runDir, { withFileTypes: true, recursive: true })
    .filter((f) => f.isFile())
    .map((f): [string, string] => [f.name, join(f.parentPath, f.name)]);
  const shared = memories(status).filter(([name]) => !/nyx-tpm-(state|buffer)|ram/.test(name));
  return [...files, ...shared].map(([name, path]) => [name, readFileSync(path)]);
}

/** PCR 16 is extended so many times while the TPM's process is killed again and again. */
async function extendWhileKilled(vm: Vm, times: number): Promise<void> {
  const restarts = async (): Promise<number> =>
    (await vm.status()).processes.find((p) => p.name === 'tpm')!.restarts;
  const before = await restarts();
  // Again if the machine was so fast that it was killed only once.
  for (let round = 1; round === 1 || ((await restarts()) - before < 2 && round < 5); round++) {
    const extending = run(vm, `set -e\n${transact(...Array.from({ length: times }, () => extend(16)))}`);
    let over = false;
    void extending.finally(() => (over = true)).catch(() => {});
    for (let i = 0; i < 12 && !over; i++) {
      await sleep(60 + 25 * (i % 5));
      await vm.kill('tpm').catch(() => {});
    }
    const responses = (await extending).trim().split('\n');
    expect(new Set(responses.map((r) => r.slice(12, 20)))).toEqual(new Set(['00000000']));
    expect(responses).toHaveLength(times);
    expect(await pcr(vm, 'sha256', 16)).toBe(extended(round * times));
  }
  expect((await restarts()) - before).toBeGreaterThan(1);
}

describe.runIf(image)('Linux with a TPM', () => {
  test.each(['tis', 'crb'] as const)(
    '%s: PCRs, event log, and every command once while its process is killed',
    async (model) => {
      const vm = await Vm.start(guest(`tpm-${model}`, { model }));
      try {
        expect(await run(vm, 'cat /sys/class/tpm/tpm0/tpm_version_major')).toBe('2\n');
        expect(await run(vm, 'basename $(readlink /sys/class/tpm/tpm0/device/driver)')).toBe(
          `tpm_${model}\n`,
        );

        await run(vm, 'mount -t securityfs s /sys/kernel/security');
        const read = await run(vm, 'base64 /sys/kernel/security/tpm0/binary_bios_measurements');
        const log = decodeLog(Buffer.from(read, 'base64'));
        expect(log.broken).toBeUndefined();
        const ipl = log.events.filter((e) => e.type === 0xd).map((e) => Buffer.from(e.data).toString());
        expect(ipl.slice(0, 2)).toEqual(['kernel\0', 'initrd\0']);
        expect(ipl[2]).toMatch(/^kernel_cmdline: .*console=ttyS0/);
        const values = replay(log);
        for (const { name, alg } of hashes)
          for (const [n, value] of values.get(alg)!)
            expect(await pcr(vm, name, n), `${name} ${n}`).toBe(value.toString('hex'));

        await extendWhileKilled(vm, 40);

        // What only firmware may do: the operating system asks, the next start does it.
        const ppi = '/sys/class/tpm/tpm0/ppi';
        expect(await run(vm, `cat ${ppi}/version ${ppi}/transition_action`)).toMatch(/^1\.3\n2: Reboot/);
        const operations = await run(vm, `cat ${ppi}/tcg_operations`);
        expect(operations).toMatch(/^5 4: User not required/m);
        expect(operations).not.toMatch(/^6 /m);
        const secret = Buffer.from('correct horse battery');
        const owner = hex(`8002 00000000 00000129 40000001 ${password} 0015 ${secret.toString('hex')}`);
        expect((await run(vm, transact(owner))).slice(12, 20)).toBe('00000000');
        expect((await run(vm, transact(owner))).slice(12, 20)).toBe('000009a2');
        // The secret is in the TPM's state, and nowhere else.
        await vm.kill('tpm').catch(() => {});
        expect(await pcr(vm, 'sha256', 17)).toBe('ff'.repeat(32));
        const status = await vm.status();
        const own = memories(status).find(([name]) => name.includes('nyx-tpm-state'))!;
        expect(readFileSync(own[1]).includes(secret)).toBe(true);
        const left = leftBehind(join(dir, 'nyx', vm.name), status);
        expect(left.length).toBeGreaterThan(2);
        for (const [name, bytes] of left)
          for (const form of [secret, secret.toString('hex'), secret.toString('base64')])
            expect(bytes.includes(form), name).toBe(false);
        await run(vm, `echo 5 >${ppi}/request`);
        expect(await run(vm, `cat ${ppi}/request`)).toMatch(/^5\b/);
        expect(presencePage(await vm.status()).subarray(0x109, 0x10d)).toEqual(Buffer.of(5, 0, 0, 0));

        const making = run(vm, transact(createPrimary));
        await sleep(300);
        await vm.kill('tpm').catch(() => {});
        expect((await making).slice(12, 20)).toBe('00000000');

        await vm.reset();
        expect(await pcr(vm, 'sha256', 16)).toBe('00'.repeat(32));
        expect(await pcr(vm, 'sha256', 9)).toBe(values.get(0xb)!.get(9)!.toString('hex'));
        expect(await run(vm, `cat ${ppi}/response ${ppi}/request`)).toMatch(/^5 0: Success\n0\b/);
        expect((await run(vm, transact(owner))).slice(12, 20)).toBe('00000000');
      } finally {
        await vm.stop(0);
      }
    },
    400_000,
  );

  test.each([
    ['tis', 'platform'],
    ['crb', 'acpi'],
  ] as const)(
    '%s: a guest that writes anything to its registers harms nobody but itself',
    async (model, bus) => {
      const vm = await Vm.start(guest(`tpm-hostile-${model}`, { model }));
      try {
        // The same every time.
        let seed = 0x2545f491;
        const random = (n: number): number => {
          seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
          return Math.floor((seed / 2 ** 32) * n);
        };
        const registers = [
          0, 8, 0xc, 0x10, 0x18, 0x1b, 0x20, 0x24, 0x28, 0x30, 0x40, 0x44, 0x48, 0x4c, 0x80, 0xf00,
        ];
        const operations = Array.from({ length: 500 }, () => {
          const page = 0xfed4_0000 + 0x1000 * random(5);
          const width = [8, 16, 32, 64][random(4)]!;
          const at = random(3) > 0 ? registers[random(registers.length)]! : random(0x1000 - 8);
          const value = [0, 1, 2, 0x20, 0x40, 0x80, 0xff, 0x0200_0000][random(8)]!;
          return `devmem ${page + at} ${width}${random(3) > 0 ? ` ${value}` : ' >/dev/null'}`;
        });
        const driver = `/sys/bus/${bus}/drivers/tpm_${model}`;
        await run(vm, `echo MSFT0101:00 >${driver}/unbind`);
        await run(vm, operations.slice(0, 250).join('\n'));
        await vm.kill('tpm');
        await run(vm, operations.slice(250).join('\n'));
        // Whoever has the TPM gives it back, and the driver finds it as it was.
        const [register, release] = model === 'tis' ? [0, 0x20] : [8, 2];
        for (const l of [3, 2, 1, 0])
          await run(vm, `devmem ${0xfed4_0000 + 0x1000 * l + register} 8 ${release}`);
        await run(vm, `echo MSFT0101:00 >${driver}/bind`);
        expect(await pcr(vm, 'sha256', 17)).toBe('ff'.repeat(32));
        expect((await run(vm, transact(extend(16)))).slice(12, 20)).toBe('00000000');
        const p = (await vm.status()).processes.find((x) => x.name === 'tpm')!;
        expect([p.state, p.restarts, p.violations]).toEqual(['serving', 1, 0]);
      } finally {
        await vm.stop(0);
      }
    },
    400_000,
  );

  test('a state directory outlives the machine, encrypted, and belongs to one machine at a time', async () => {
    const state = join(dir, 'state');
    const key = join(dir, 'key');
    writeFileSync(key, `${createHash('sha256').update('a key').digest('hex')}\n`);
    const tool = (...args: string[]): { status: number | null; stdout: string; stderr: string } =>
      spawnSync(process.execPath, [nyx, 'tpm', ...args], { encoding: 'utf8', timeout: 120_000 });
    expect(tool('init', state, '--key', key).status).toBe(0);
    expect(tool('init', state, '--key', key).stderr).toContain('TPM_STATE');
    expect(tool('info', state).stderr).toContain('the state is encrypted');

    const first = await Vm.start(guest('tpm-state', { state, key }));
    try {
      const owner = hex(`8002 00000000 00000129 40000001 ${password} 0003 616263`);
      expect((await run(first, transact(owner))).slice(12, 20)).toBe('00000000');
      const second = await Vm.start(guest('tpm-second', { state, key })).catch((e) => e);
      expect(second).toMatchObject({ code: 'FILE_IN_USE' });
      expect(tool('clear', state, '--key', key).stderr).toContain('TPM_STATE');
      const pcrs = JSON.parse(tool('pcrs', 'tpm-state', '--json').stdout);
      expect(pcrs.sha256[8]).toBe(await pcr(first, 'sha256', 8));
      const log = JSON.parse(tool('log', 'tpm-state', '--json').stdout);
      expect(log.pcrs.sha512['9']).toBe(await pcr(first, 'sha512', 9));
    } finally {
      await first.stop(0);
    }
    await first.launched!.ended;
    const info = (): { authSet: object; resets: object } =>
      JSON.parse(tool('info', state, '--key', key, '--json').stdout);
    expect(info()).toMatchObject({ authSet: { owner: true } });
    expect(tool('clear', state, '--key', key).status).toBe(0);
    expect(info()).toMatchObject({ authSet: { owner: false } });
    expect(tool('reset', state, '--key', key).stderr).toContain('--yes');
    expect(tool('reset', state, '--key', key, '--yes').status).toBe(0);
    expect(info()).toMatchObject({ resets: { total: 0 } });

    const wrong = join(dir, 'wrong-key');
    writeFileSync(wrong, Buffer.alloc(32, 1));
    const refused = await Vm.start(guest('tpm-wrong', { state, key: wrong })).catch((e) => e);
    expect(refused).toMatchObject({ code: 'DEVICE_FAILED' });
    expect(String(refused.got)).toContain('encrypted with another key');
  }, 400_000);
});

const swtpm = spawnSync('swtpm', ['--version']).error === undefined;
if (!swtpm) console.warn('the test with swtpm is left out: swtpm is not installed');
test.runIf(image && swtpm)(
  'the TPM of swtpm, by its sockets: measured boot, and every command once while our process is killed',
  async () => {
    const state = mkdtempSync(join(dir, 'swtpm-'));
    const socket = join(state, 'control');
    const child = spawn('swtpm', [
      ...['socket', '--tpm2', '--tpmstate', `dir=${state}`, '--ctrl', `type=unixio,path=${socket}`],
    ]);
    try {
      for (let i = 0; i < 1200 && !existsSync(socket); i++) await sleep(50);
      const vm = await Vm.start(guest('tpm-swtpm', { backend: `swtpm:${socket}` }));
      try {
        const log = decodeLog(
          Buffer.from(
            await run(
              vm,
              'mount -t securityfs s /sys/kernel/security; base64 /sys/kernel/security/tpm0/binary_bios_measurements',
            ),
            'base64',
          ),
        );
        expect(await pcr(vm, 'sha256', 9)).toBe(replay(log).get(0xb)!.get(9)!.toString('hex'));
        await extendWhileKilled(vm, 30);
        // A machine reset is a power cycle of swtpm, too.
        await vm.reset();
        expect(await pcr(vm, 'sha256', 16)).toBe('00'.repeat(32));
        expect(await pcr(vm, 'sha256', 9)).toBe(replay(log).get(0xb)!.get(9)!.toString('hex'));
        // Without swtpm the guest is told, not left waiting.
        child.kill();
        expect((await run(vm, transact(extend(16)))).slice(12, 20)).toBe('00000101');
      } finally {
        await vm.stop(0);
      }
      const none = await Vm.start(guest('tpm-none', { backend: `swtpm:${join(state, 'nobody')}` })).catch(
        (e) => e,
      );
      expect(none).toMatchObject({ code: 'TPM_BACKEND' });
    } finally {
      child.kill();
    }
  },
  400_000,
);

const bios = '/usr/share/seabios/bios-256k.bin';
if (!existsSync(bios)) console.warn(`the test of firmware with a TPM is left out: there is no ${bios}`);
test.skipIf(!existsSync(bios)).each(['tis', 'crb'] as const)(
  'SeaBIOS measures into a TPM with %s, and its log says the same',
  async (model) => {
    const name = `tpm-bios-${model}`;
    const vm = await Vm.start({ name, bios, bootMenu: 0, accel: 'soft', tpm: { model } });
    const tool = (command: string): { pcrs?: Record<string, Record<string, string>>; sha256?: string[] } => {
      const r = spawnSync(process.execPath, [nyx, 'tpm', command, name, '--json'], { encoding: 'utf8' });
      return r.status === 0 ? JSON.parse(r.stdout) : {};
    };
    try {
      // The separator of PCR 7 is the last that it measures.
      for (let i = 0; i < 300 && tool('log').pcrs?.sha256?.['7'] === undefined; i++) await sleep(200);
      const { pcrs } = tool('log');
      const now = tool('pcrs');
      expect(Object.keys(pcrs!.sha256!)).toEqual(['0', '1', '2', '3', '4', '5', '6', '7']);
      for (const [n, value] of Object.entries(pcrs!.sha256!)) expect(now.sha256![Number(n)]).toBe(value);

      // What is in memory outlives a reset, unless the operating system asked for the contrary, as the ACPI method does.
      const [at, keys] = [0x0100_0000, Buffer.from('must not outlive the machine')];
      const ram = openSync(ramOf(name), 'r+');
      const held = (): Buffer => {
        const b = Buffer.alloc(keys.length);
        readSync(ram, b, 0, b.length, at);
        return b;
      };
      writeSync(ram, keys, 0, keys.length, at);
      await vm.reset();
      expect(held()).toEqual(keys);
      setPresence(await vm.status(), 0x15a, Buffer.of(0x11));
      await vm.reset();
      expect(held()).toEqual(Buffer.alloc(keys.length));
      expect(presencePage(await vm.status())[0x15a]).toBe(0x10);
      closeSync(ram);
    } finally {
      await vm.stop(0);
    }
  },
  240_000,
);

const ovmf = '/usr/share/OVMF/OVMF_CODE.fd';
if (!existsSync(ovmf))
  console.warn(`the test of OVMF with a TPM is left out: there is no ${ovmf} (package ovmf)`);
test.skipIf(!existsSync(ovmf)).each(['tis', 'crb'] as const)(
  'OVMF measures into a TPM with %s',
  async (model) => {
    const name = `tpm-ovmf-${model}`;
    const vm = await Vm.start({ name, bios: ovmf, memory: '256M', accel: 'soft', tpm: { model } });
    const pcrs = (): string[] => {
      const r = spawnSync(process.execPath, [nyx, 'tpm', 'pcrs', name, '--json'], { encoding: 'utf8' });
      return r.status === 0 ? JSON.parse(r.stdout).sha256 : [];
    };
    const zero = Buffer.alloc(32);
    const separator = createHash('sha256').update(Buffer.alloc(4)).digest();
    const separated = createHash('sha256').update(zero).update(separator).digest('hex');
    try {
      // Into those PCRs it measures nothing else; the separator comes when it is ready to boot.
      for (let i = 0; i < 300 && pcrs()[6] !== separated; i++) await sleep(200);
      const values = pcrs();
      expect([values[3], values[6]]).toEqual([separated, separated]);
      // Code and configuration, and the state of Secure Boot.
      for (const n of [0, 1, 7]) expect([zero.toString('hex'), separated]).not.toContain(values[n]);
      // It has found the page for physical presence by its file, has set it up, and says there that it clears.
      const page = presencePage(await vm.status());
      expect(page[0x100]).toBe(1);
      expect(page[5]).toBe(3);
      if (model === 'tis') return;

      // At the next start it asks the user, who stands at the console and says no: F12, for yes, has only a keyboard.
      const resets = (): { total: number; sinceClear: number } => {
        const r = spawnSync(process.execPath, [nyx, 'tpm', 'info', name, '--json'], { encoding: 'utf8' });
        return r.status === 0 ? JSON.parse(r.stdout).resets : { total: 0, sinceClear: 0 };
      };
      expect(resets()).toMatchObject({ total: 1, sinceClear: 1 });
      setPresence(await vm.status(), 0x109, Buffer.of(5, 0, 0, 0));
      const terminal = await vm.console();
      let said = '';
      terminal.on('data', (b: Buffer) => {
        said += b.toString('latin1');
        if (/Press ESC to reject/.test(said)) terminal.write('\x1b');
        said = said.slice(-1000);
      });
      await vm.reset();
      const answered = async (): Promise<Buffer> => presencePage(await vm.status()).subarray(0x105, 0x115);
      for (let i = 0; i < 600 && (await answered()).readUInt32LE(12) !== 5; i++) await sleep(200);
      // Response (the user aborted), no request and no parameter, last request.
      expect((await answered()).toString('hex')).toBe('f0ffffff000000000000000005000000');
      expect(resets()).toMatchObject({ total: 2, sinceClear: 2 });
      terminal.destroy();
    } finally {
      await vm.stop(0);
    }
  },
  300_000,
);
