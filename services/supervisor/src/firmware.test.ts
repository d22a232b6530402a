/**
 * SeaBIOS as Debian builds it, on each engine: its boot menu on the serial console, a boot sector from a virtio disk, all
 * ways to reset, ACPI power off; and its debug log (port 0x402), which must be the same on both engines.
 */
import { spawnSync } from 'node:child_process';
import { accessSync, constants, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Vm } from '@nyx/nyx';
import { list } from '@nyx/nyx/rundir';
import { afterAll, describe, expect, test } from 'vitest';

const dir = mkdtempSync(join(tmpdir(), 'nyx-firmware-'));
process.env.XDG_RUNTIME_DIR = dir;
afterAll(async () => {
  for (const vm of list()) if (vm.kind === 'alive') await Vm.connect(vm.name).stop(0);
  rmSync(dir, { recursive: true, force: true });
});

const why = (leftOut: string, reason: string): false => {
  console.warn(`${leftOut} left out: ${reason}`);
  return false;
};
const bios = '/usr/share/seabios/bios-256k.bin';
const hasFirmware = existsSync(bios) || why('tests of firmware', `there is no ${bios}`);
const hasKvm = (): boolean => {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
    return true;
  } catch (e) {
    return why('firmware on kvm, and the comparison of the engines', (e as Error).message);
  }
};
const engines = hasKvm() ? (['soft', 'kvm'] as const) : (['soft'] as const);
type Engine = (typeof engines)[number];

/** A disk of 1 MiB that starts with testing/boot-sector.s. */
const bootDisk = (name: string): string => {
  const source = fileURLToPath(new URL('testing/boot-sector.s', import.meta.url));
  const [object, image] = [join(dir, 'boot.o'), join(dir, 'boot.bin')];
  for (const [command, args] of [
    ['as', ['--32', source, '-o', object]],
    [
      'ld',
      [
        '-m',
        'elf_i386',
        '-N',
        '-Ttext',
        '0x7c00',
        '--oformat',
        'binary',
        '-e',
        '_start',
        object,
        '-o',
        image,
      ],
    ],
  ] as const) {
    const r = spawnSync(command, args, { encoding: 'utf8' });
    if (r.status !== 0) throw new Error(`${command}: ${r.error?.message ?? r.stderr}`);
  }
  const code = readFileSync(image);
  return disk(name, Buffer.concat([code, Buffer.alloc((1 << 20) - code.length)]));
};
const disk = (name: string, bytes: Buffer): string => {
  const path = join(dir, name);
  writeFileSync(path, bytes);
  return path;
};

/** What the guest printed on its serial console, consumed piece by piece. */
class Screen {
  #text = '';
  #heard = (): void => {};

  /** @param told more for the message when something does not come */
  constructor(
    readonly socket: Socket,
    readonly told: () => string,
  ) {
    socket.on('data', (b) => {
      this.#text += b.toString('latin1');
      this.#heard();
    });
    socket.on('error', () => {});
  }

  /** Everything up to `what` and it; the next call looks behind it. */
  async until(what: string): Promise<string> {
    const end = Date.now() + 60_000;
    for (;;) {
      const at = this.#text.indexOf(what);
      if (at >= 0) {
        const seen = this.#text.slice(0, at + what.length);
        this.#text = this.#text.slice(at + what.length);
        return seen;
      }
      if (Date.now() > end)
        throw new Error(`'${what}' was not printed; but: ${JSON.stringify(this.#text)}\n${this.told()}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 1000);
        this.#heard = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }
}

/** Debug log of each boot, by engine. */
const logs = new Map<Engine, string[][]>();
const logOf = (engine: Engine): string[][] => {
  const log = logs.get(engine);
  if (!log)
    throw new Error(`the machine on ${engine} did not come to its end (see above): no log to compare`);
  return log;
};
const boots = (log: string): string[][] =>
  log
    .split(/^(?=SeaBIOS .*\nBUILD)/m)
    .filter((l) => l.length > 0)
    .map((l) => l.trimEnd().split('\n'));

/** What differs between the engines, and why; everything else is compared. */
const differences: readonly { why: string; on: Engine; pattern: RegExp; mask?: string }[] = [
  { why: "CPUID has KVM's name", on: 'kvm', pattern: /^Running on KVM$/ },
  { why: "timer: KVM's paravirtual clock, a measured frequency", on: 'kvm', pattern: /^kvmclock: / },
  { why: 'its frequency again', on: 'kvm', pattern: /^CPU Mhz=\d+ \(kvmclock\)$/ },
  { why: 'timer: without that clock, the one of ACPI', on: 'soft', pattern: /^Using pmtimer, ioport 0x608$/ },
  {
    why: 'the heap has a record (48 bytes) of the page of the clock',
    on: 'kvm',
    pattern: /^(Copying MPTABLE from 0x\w+)\/\w+ /,
    mask: '$1/* ',
  },
  {
    why: 'low memory has the clock itself (32 bytes)',
    on: 'kvm',
    pattern: /^drive 0x\w+:/,
    mask: 'drive *:',
  },
];
const masked = (log: readonly string[], engine: Engine): string[] =>
  log.flatMap((line) => {
    const d = differences.find((d) => d.pattern.test(line) && (d.mask !== undefined || d.on === engine));
    return !d ? [line] : d.mask === undefined ? [] : [line.replace(d.pattern, d.mask)];
  });

describe.runIf(hasFirmware)('SeaBIOS', () => {
  test.each(engines)(
    '%s: the boot menu, a boot sector from the second disk, resets, power off',
    async (accel) => {
      const second = bootDisk(`second-${accel}.img`);
      const vm = await Vm.start({
        name: `bios-${accel}`,
        bios,
        accel,
        memory: '64M',
        bootMenu: 30,
        disks: [disk(`first-${accel}.img`, Buffer.alloc(1 << 20)), second],
      });
      const screen = new Screen(await vm.console(), () =>
        readFileSync(join(vm.dir, 'debugcon.log'), 'latin1').slice(-1000),
      );
      const boot = async (): Promise<string> => {
        await screen.until('Press ESC for boot menu.');
        screen.socket.write('\x1b');
        const menu = await screen.until('2. Virtio disk PCI:00:03.0');
        screen.socket.write('2');
        await screen.until('Boot sector.\r\nRead from the disk.\r\nWritten. Key?');
        return menu;
      };
      expect(await boot()).toContain('1. Virtio disk PCI:00:02.0');
      expect(readFileSync(second).toString('latin1', 1024, 1043)).toBe('Wead from the disk.');
      // Port 0xcf9, the keyboard controller, a triple fault.
      for (const key of 'ckt') {
        screen.socket.write(key);
        await boot();
      }
      expect((await vm.status()).resets).toBe(3);
      const log = readFileSync(join(vm.dir, 'debugcon.log'), 'latin1');
      logs.set(accel, boots(log));
      screen.socket.write('p');
      await vm.launched!.ended;
      vm.close();
    },
    180_000,
  );

  test.each(engines)('%s: the debug log of each boot is that of the first', (engine) => {
    const [first, ...others] = logOf(engine);
    expect(first).toContain('Booting from 0000:7c00');
    expect(others).toEqual([first, first, first]);
  });

  test.runIf(engines.length === 2)('the debug log is the same on both engines', () => {
    const [soft, kvm] = engines.map((e) => logOf(e)[0]!) as [string[], string[]];
    for (const d of differences)
      expect(
        (d.on === 'soft' ? soft : kvm).some((l) => d.pattern.test(l)),
        d.why,
      ).toBe(true);
    expect(masked(kvm, 'kvm')).toEqual(masked(soft, 'soft'));
  });
});
