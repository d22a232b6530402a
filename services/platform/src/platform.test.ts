/** The whole program as a process: chips that interrupt chips, on real rings, killed and taken over. */

import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { ConsoleHost, consoleWire, formatConsole } from '@nyx/device';
import { Served } from '@nyx/device/served';
import { eventfd, eventfdWrite, memfdCreate, mmap } from '@nyx/native';
import { ExitKind, MachineEvent, StatusFlag } from '@nyx/ring';
import { afterEach, expect, it } from 'vitest';
import { kinds } from './kinds.ts';

const command = [process.execPath, '--import', 'tsx', fileURLToPath(new URL('main.ts', import.meta.url))];
const SECOND = 1_000_000_000;
let served: Served | undefined;
afterEach(async () => {
  if (served && served.child.exitCode === null && served.child.signalCode === null) await served.kill();
});

/** Devices by index; interrupt entries: PIC 0, IOAPIC 1..24. */
const Dev = { pic: 0, ioapic: 1, pit: 2, uart: 3, pm: 4, mch: 5, lpc: 6 } as const;
const ioapicEntry = (pin: number): number => 1 + pin;

async function start() {
  const consoleFd = memfdCreate('console', consoleWire.bytes);
  const buffer = mmap(consoleFd, consoleWire.bytes);
  formatConsole(buffer);
  const host = new ConsoleHost(buffer);
  const input = eventfd();
  const lines = Object.fromEntries(Array.from({ length: 16 }, (_, i) => [i, i]));
  const s = new Served(command, [
    { name: 'pic', kind: 'pic8259', irqs: 1 },
    { name: 'ioapic', kind: 'ioapic', irqs: 24 },
    { name: 'pit', kind: 'pit8254', irqs: 1, gsi: { 0: 2 } },
    {
      name: 'com1',
      kind: 'uart16550',
      irqs: 1,
      gsi: { 0: 4 },
      fds: { console: consoleFd, consoleOut: eventfd(), consoleIn: input },
    },
    { name: 'pm', kind: 'acpi-pm', irqs: 1, gsi: { 0: 9 } },
    { name: 'mch', kind: 'mch', irqs: 0 },
    { name: 'lpc', kind: 'lpc', irqs: 16, gsi: lines },
  ]);
  served = s;
  await s.start();
  const exit = (
    kind: number,
    device: number,
    region: number,
    offset: number,
    width: number,
    value = 0,
  ): number => {
    if (s.cpu.sync(kind, device, region, offset, width, value, 0, 1, SECOND) < 0)
      throw new Error(`no answer: ${s.stderr}`);
    return s.cpu.result[0]!;
  };
  return {
    s,
    host,
    type(text: string) {
      host.push(Buffer.from(text));
      eventfdWrite(input);
    },
    read: (device: number, region: number, offset: number, width = 1) =>
      exit(ExitKind.read, device, region, offset, width),
    write: (device: number, region: number, offset: number, value: number, width = 1) =>
      exit(ExitKind.write, device, region, offset, width, value),
    intAck: () => exit(ExitKind.intAck, Dev.pic, 0, 0, 1),
    status: () => s.cpu.result[2]!,
    ioapic(index: number, value: number) {
      exit(ExitKind.write, Dev.ioapic, 0, 0, 4, index);
      exit(ExitKind.write, Dev.ioapic, 0, 0x10, 4, value);
    },
  };
}
const until = async (done: () => boolean): Promise<void> => {
  for (let i = 0; !done(); i++) {
    if (i === 400) throw new Error('waited 2 s in vain');
    await sleep(5);
  }
};

it('a typed byte becomes an interrupt of PIC and IOAPIC, also when the process dies in between', async () => {
  const p = await start();
  p.write(Dev.pic, 0, 0, 0x11);
  for (const v of [0x20, 4, 1, 0xef]) p.write(Dev.pic, 0, 1, v);
  p.ioapic(0x10 + 2 * 4, 0x34);
  p.write(Dev.uart, 0, 1, 1);
  p.type('a');
  await until(() => p.s.word(ioapicEntry(4)) === 1 && p.s.word(0) === 3);
  await p.s.kill();
  await p.s.start();
  // Every line was told again: nothing is counted twice.
  expect([p.s.word(ioapicEntry(4)), p.s.word(0)]).toEqual([1, 3]);
  expect([p.intAck(), p.read(Dev.uart, 0, 0)]).toEqual([0x24, 0x61]);
  p.write(Dev.pic, 0, 0, 0x20);
  await p.s.kill();
  p.type('b');
  await p.s.start();
  await until(() => p.s.word(ioapicEntry(4)) === 2);
  expect([p.read(Dev.uart, 0, 0), p.intAck()]).toEqual([0x62, 0x24]);
  for (const c of Buffer.from('hello')) p.s.cpu.publish(ExitKind.write, Dev.uart, 0, 0, 1, c, 0, 1, 1);
  p.read(Dev.uart, 0, 5);
  expect(Buffer.from(p.host.take()!).toString()).toBe('hello');
}, 20_000);

it('the timer ticks into the IOAPIC at 100 Hz and goes on over a restart', async () => {
  const p = await start();
  p.ioapic(0x10 + 2 * 2, 0x30);
  p.write(Dev.pit, 0, 3, 0x34);
  const n = 11_932;
  p.write(Dev.pit, 0, 0, n & 0xff);
  p.write(Dev.pit, 0, 0, n >> 8);
  const first = p.s.word(ioapicEntry(2));
  await until(() => p.s.word(ioapicEntry(2)) >= first + 10);
  await p.s.kill();
  const dead = p.s.word(ioapicEntry(2));
  await p.s.start();
  await until(() => p.s.word(ioapicEntry(2)) >= dead + 10);
}, 20_000);

it('level interrupts of another process through the fabric: IOAPIC, EOI, and the PIRQ router', async () => {
  const p = await start();
  p.ioapic(0x10 + 2 * 18, 0x8041);
  const line = (gsi: number, word: number): number =>
    p.s.fabric.sync(ExitKind.line, Dev.ioapic, 0, gsi, 4, word, 0, 1, SECOND);
  expect(line(18, 3)).toBeGreaterThan(0);
  // Interrupts follow the reply.
  await until(() => p.s.word(ioapicEntry(18)) === 1);
  line(18, 3);
  line(18, 3);
  expect(p.s.word(ioapicEntry(18))).toBe(1);
  p.s.cpu.sync(ExitKind.eoi, Dev.ioapic, 0, 0, 1, 0x41, 0, 1, SECOND);
  await until(() => p.s.word(ioapicEntry(18)) === 2);
  // PIRQC is GSI 18; to IRQ 11 of the PIC.
  p.write(Dev.pic, 2, 1, 0x08);
  for (const [chip, values] of [
    [0, [0x20, 4, 1, 0]],
    [1, [0x28, 2, 1, 0]],
  ] as const) {
    p.write(Dev.pic, chip, 0, 0x11);
    for (const v of values) p.write(Dev.pic, chip, 1, v);
  }
  p.s.cpu.sync(ExitKind.configWrite, Dev.lpc, 0, 0x62, 1, 11, 0, 1, SECOND);
  await until(() => (p.s.word(0) & 1) === 1);
  expect(p.intAck()).toBe(0x2b);
}, 20_000);

it('power off and changes of the address map are told with the reply', async () => {
  const p = await start();
  p.write(Dev.pm, 0, 4, 0x2000, 2);
  expect(p.status()).toBe(MachineEvent.shutdown << StatusFlag.eventShift);
  p.s.cpu.sync(ExitKind.configWrite, Dev.mch, 0, 0x60, 4, 0xe000_0001, 0, 1, SECOND);
  expect(p.status()).toBe(StatusFlag.mapChanged);
}, 20_000);

it('a standby has made every chip before it is needed, and given up what it needed for that', () => {
  expect(kinds.filter((k) => !k.early?.({})).map((k) => k.kind)).toEqual([]);
});
