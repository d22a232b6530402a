import { setTimeout as sleep } from 'node:timers/promises';
import { close, eventfd, memfdCreate, mmap } from '@nyx/native';
import {
  defaultBlockBytes,
  ExitKind,
  formatIrqPage,
  formatRings,
  IrqPage,
  irqPageBytes,
  MachineEvent,
  ringsBytes,
  Status,
} from '@nyx/ring';
import { afterEach, describe, expect, test } from 'vitest';
import * as a from './asm.ts';
import { booter, type Exit, enginesHere, event, hasSoft, Machine } from './rig.ts';

const engines = enginesHere();

const fds: number[] = [];
afterEach(() => {
  for (const fd of fds.splice(0)) close(fd);
});
const boot = booter();

/** A second device process, this process too: its device `far` has `lines` lines, which go to `gsi`. */
function farDevice(m: Machine, lines: number, gsi: number): IrqPage {
  const ring = memfdCreate('ring2', ringsBytes(1));
  const irqPage = memfdCreate('irq2', irqPageBytes(lines));
  const state = memfdCreate('state2', defaultBlockBytes);
  const [kick, irqEvent] = [eventfd(), eventfd()];
  fds.push(ring, irqPage, state, kick, irqEvent);
  formatRings(mmap(ring, ringsBytes(1)), 1);
  const page = mmap(irqPage, irqPageBytes(lines));
  formatIrqPage(page, lines);
  const d = m.description;
  d.processes.push({ name: 'other', ring, kick, irqPage, irqEvent });
  d.devices.push({ name: 'far', process: 'other', index: 0, state, irqBase: 0, irqCount: lines });
  for (let entry = 0; entry < lines; entry++) d.routes.push({ device: 'far', entry, kind: 'gsi', gsi });
  return new IrqPage(page, irqEvent);
}

/**
 * Real mode, stack at 0x8000. Vector 0x20 points at F000:0200, which tells port 0x502 and returns; vector
 * 0x21 likewise tells 0x506. (IRET gives CS the base 0xF0000, so the program is there as well as in the ROM.) The main program tells 0x500, then halts for ever.
 */
const handlerAt = 0xf0200;
function handlers(m: Machine): void {
  const ram = new Uint8Array(m.ram);
  const tell = (port: number) => a.code([0x50, 0x52], a.out16(port, 1), [0x5a, 0x58], a.iret);
  ram.set(tell(0x502), handlerAt);
  ram.set(tell(0x506), handlerAt + 0x20);
  const table = new Uint16Array(m.ram, 0, 512);
  table.set([0x200, 0xf000], 0x20 * 2);
  table.set([0x220, 0xf000], 0x21 * 2);
}
function program(m: Machine, bytes: Uint8Array): void {
  new Uint8Array(mmap(m.fds.rom, 1 << 16)).set(bytes);
  new Uint8Array(m.ram).set(bytes, 0xf0000);
}
const idle = a.code(
  a.xorAxAx,
  a.movSsAx,
  a.movSp(0x8000),
  a.movDsAx,
  a.out16(0x500, 1),
  a.sti,
  a.hlt,
  [0xeb, 0xfd],
);
/** Enables the local APIC: SVR = 0x1ff, through a 32-bit address in "unreal" mode set up by hand. */
const enableApic = (() => {
  // GDT at 0x600 in RAM (the test writes it), descriptor 8: flat data. lgdt; PE; ds = 8; PE off; then 32-bit addresses work.
  const lgdt = [0x0f, 0x01, 0x16, 0x00, 0x06];
  const pe = [0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0];
  const flat = [...a.movAx(8), ...a.movDsAx];
  const real = [0x0f, 0x20, 0xc0, 0x24, 0xfe, 0x0f, 0x22, 0xc0];
  // mov dword [0xfee000f0], 0x1ff (67 66 c7 05)
  const svr = [0x67, 0x66, 0xc7, 0x05, 0xf0, 0x00, 0xe0, 0xfe, 0xff, 0x01, 0x00, 0x00];
  return [...a.xorAxAx, ...a.movDsAx, ...lgdt, ...pe, ...flat, ...real, ...svr];
})();
/** mov dword [0xfee000b0], 0 */
const eoi = [0x67, 0x66, 0xc7, 0x05, 0xb0, 0x00, 0xe0, 0xfe, 0, 0, 0, 0];
function flatSegment(m: Machine): void {
  const ram = new Uint8Array(m.ram);
  ram.set([0x0f, 0x00, 0x10, 0x06, 0x00, 0x00], 0x600);
  ram.set([0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0x92, 0xcf, 0], 0x610);
}

describe.each(engines)('interrupts under %s', (accel) => {
  test('the PIC: INTR wakes a halted guest, which acknowledges and gets the vector', async () => {
    const m = new Machine({
      accel,
      rom: a.code([0x90], [...idle]),
      description: {
        pic: 'dev',
        routes: [{ device: 'dev', entry: 0, kind: 'extint' }],
        boot: { bootMode: 0 },
      },
    });
    handlers(m);
    // LINT0 = ExtINT needs the APIC; a disabled one passes INTR through (wrmsr 0x1b, base without enable).
    const disable = [0x66, 0xb9, 0x1b, 0, 0, 0, 0x66, 0x31, 0xd2, ...a.movEax(0xfee00100), 0x0f, 0x30];
    const virtualWire = [...enableApic, 0x67, 0x66, 0xc7, 0x05, 0x50, 0x03, 0xe0, 0xfe, 0x00, 0x07, 0, 0];
    flatSegment(m);
    program(m, accel === 'soft' ? a.code(disable, [...idle]) : a.code(virtualWire, [...idle]));
    let acks = 0;
    let word = 0;
    let told = 0;
    const raise = () => {
      word += 3 - (word & 1);
      word |= 1;
      m.irq.setLine(0, word);
      m.irq.kick();
    };
    m.serve((x) => {
      if (x.kind === ExitKind.intAck) {
        // Nothing pending: the request was withdrawn.
        if (!(word & 1)) return [0, Status.unclaimed];
        acks++;
        word &= ~1;
        m.irq.setLine(0, word);
        m.irq.kick();
        return 0x20;
      }
      if (x.offset === 2) told++;
      return 0;
    });
    await boot(m);
    for (let n = 1; n <= 20; n++) {
      raise();
      await expect.poll(() => told, { timeout: 5000, interval: 2 }).toBe(n);
    }
    expect(acks).toBe(20);
  });

  test('messages: to the local APIC, each vector to its handler, again after EOI', async () => {
    const m = new Machine({
      accel,
      rom: a.code(enableApic, [...idle]),
      description: {
        routes: [
          { device: 'dev', entry: 0, kind: 'msi' },
          { device: 'dev', entry: 1, kind: 'msi' },
        ],
      },
    });
    handlers(m);
    flatSegment(m);
    const ram = new Uint8Array(m.ram);
    // ds is flat while the program runs; handlers end with an EOI.
    const tell = (port: number) => a.code([0x50, 0x52], a.out16(port, 1), eoi, [0x5a, 0x58], a.iret);
    ram.set(tell(0x502), handlerAt);
    ram.set(tell(0x506), handlerAt + 0x20);
    const noDs = a.code(a.xorAxAx, a.movSsAx, a.movSp(0x8000), a.out16(0x500, 1), a.sti, a.hlt, [0xeb, 0xfd]);
    program(m, a.code(enableApic, [...noDs]));
    const told = [0, 0];
    let ready = false;
    m.serve((x) => {
      if (x.offset === 0) ready = true;
      if (x.offset === 2) told[0]!++;
      if (x.offset === 6) told[1]!++;
      return 0;
    });
    await boot(m);
    await expect.poll(() => ready, { timeout: 5000, interval: 2 }).toBe(true);
    for (let n = 1; n <= 20; n++) {
      m.irq.setMessage(0, 0xfee00000, 0, 0x20, n);
      m.irq.kick();
      await expect.poll(() => told[0], { timeout: 5000, interval: 2 }).toBe(n);
      m.irq.setMessage(1, 0xfee00000, 0, 0x21, n);
      m.irq.kick();
      await expect.poll(() => told[1], { timeout: 5000, interval: 2 }).toBe(n);
    }
    // Telling the same word again is no message; an address elsewhere is none either.
    m.irq.setMessage(0, 0xfed00000, 0, 0x20, 99);
    m.irq.kick();
    m.irq.mustKick();
    m.irq.kick();
    await sleep(50);
    expect(told).toEqual([20, 20]);
  });

  test('a level-triggered message: its EOI is told to the IOAPIC', async () => {
    const m = new Machine({
      accel,
      rom: a.code([0x90]),
      description: { ioapic: 'dev', routes: [{ device: 'dev', entry: 0, kind: 'msi' }] },
    });
    handlers(m);
    flatSegment(m);
    new Uint8Array(m.ram).set(a.code([0x50, 0x52], a.out16(0x502, 1), eoi, [0x5a, 0x58], a.iret), handlerAt);
    const rom = a.code(a.xorAxAx, a.movSsAx, a.movSp(0x8000), a.out16(0x500, 1), a.sti, a.hlt, [0xeb, 0xfd]);
    program(m, a.code(enableApic, [...rom]));
    const log: (string | number)[] = [];
    m.serve((x) => {
      if (x.kind === ExitKind.eoi) log.push('eoi', x.data);
      else if (x.offset === 0) log.push('ready');
      else if (x.offset === 2) log.push('handler');
      return 0;
    });
    await boot(m);
    await expect.poll(() => log.length, { timeout: 5000 }).toBe(1);
    m.irq.setMessage(0, 0xfee00000, 0, 0xc020, 1);
    m.irq.kick();
    await expect.poll(() => log, { timeout: 5000 }).toEqual(['ready', 'handler', 'eoi', 0x20]);
  });
});

describe('the fabric', () => {
  test('tells the controllers of lines of other processes: the newest word, shared lines or-ed', async () => {
    const m = new Machine({ accel: hasSoft ? 'soft' : 'kvm', rom: a.code(a.jmpSelf) });
    const irq = farDevice(m, 2, 16);
    const d = m.description;
    // The controllers' own lines do not travel.
    d.routes.push({ device: 'dev', entry: 0, kind: 'gsi', gsi: 5 });
    d.pic = d.ioapic = 'dev';
    const seen: Exit[] = [];
    const lines = () =>
      seen.filter((x) => x.kind === ExitKind.line).map((x) => [x.ring, x.device, x.offset, x.data]);
    m.serve((x) => {
      seen.push(x);
      return 0;
    });
    await boot(m);
    m.irq.setLine(0, 3);
    m.irq.kick();
    irq.setLine(0, 3);
    irq.kick();
    await expect.poll(lines).toEqual([[1, 0, 16, 3]]);
    irq.setLine(1, 7);
    irq.kick();
    await expect.poll(lines).toEqual([
      [1, 0, 16, 3],
      [1, 0, 16, 9],
    ]);
    irq.setLine(0, 2);
    irq.setLine(1, 6);
    irq.kick();
    await expect.poll(lines).toEqual([
      [1, 0, 16, 3],
      [1, 0, 16, 9],
      [1, 0, 16, 8],
    ]);
  });

  test('does not wait for controllers that are gone; the newest word comes when they are back', async () => {
    const m = new Machine({ accel: hasSoft ? 'soft' : 'kvm', rom: a.code(a.out16(0x500, 1), a.jmpSelf) });
    const irq = farDevice(m, 1, 20);
    m.description.ioapic = 'dev';
    const v = await boot(m);
    // More changes than a ring has slots.
    for (let n = 1; n <= 100; n++) {
      irq.setLine(0, (n << 1) | (n & 1));
      irq.kick();
      await sleep(3);
    }
    const words: number[] = [];
    m.serve((x) => {
      if (x.kind === ExitKind.line) words.push(x.data);
      return x.kind === ExitKind.write ? [0, event(MachineEvent.shutdown)] : 0;
    });
    v.send('replaced', 0);
    await v.event('machineEvent');
    await expect.poll(() => words.at(-1)).toBe(200);
    expect(words.length).toBeLessThanOrEqual(66);
  });
});
