/** State of a machine out and in: the contract of libs/protocol/src/machine-state.ts, also with bytes that nobody wrote. */
import { setTimeout as sleep } from 'node:timers/promises';
import { Memory, view } from '@nyx/layout';
import { close, memfdCreate, mmap } from '@nyx/native';
import { machine, machineState, SoftState, StateHeader, StatePart, StateSection } from '@nyx/protocol';
import { afterEach, describe, expect, test } from 'vitest';
import { booter, enginesHere, Machine, type Vcpu } from './rig.ts';

const boot = booter();
/** L: mov ax, [0x1000]; inc ax; mov [0x1000], ax; jmp L */
const counter = [0xa1, 0x00, 0x10, 0x40, 0xa3, 0x00, 0x10, 0xeb, 0xf7];

const table = Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let i = 0; i < 8; i++) c = c & 1 ? (c >>> 1) ^ 0x82f63b78 : c >>> 1;
  return c >>> 0;
});
const crc32c = (bytes: Uint8Array): number => {
  let c = 0xffffffff;
  for (const b of bytes) c = table[(c ^ b) & 255]! ^ (c >>> 8);
  return ~c >>> 0;
};

const opened: number[] = [];
afterEach(() => {
  for (const fd of opened.splice(0)) close(fd);
});
const memory = (bytes: number): { fd: number; buffer: ArrayBuffer } => {
  const fd = memfdCreate('state', bytes);
  opened.push(fd);
  return { fd, buffer: mmap(fd, bytes) };
};

/** Asks and gives the text of the answer: '' is good. */
const ask = async (
  v: Vcpu,
  op: 'quieten' | 'save' | 'load',
  answer: string,
  fds: number[] = [],
  a = 0,
): Promise<{ a: number; b: number; text: string }> => {
  const from = v.events.length;
  v.send(op, a, new Uint8Array(0), fds);
  return v.event(answer, from);
};

const started = async (accel: 'kvm' | 'soft', cpus = 1) => {
  const m = new Machine({ accel, cpus, rom: Uint8Array.from(counter) });
  m.serve(() => 0);
  const v = await boot(m);
  const ram = new Uint16Array(m.ram);
  await expect.poll(() => ram[0x800], { timeout: 10_000 }).toBeGreaterThan(0);
  return { m, v, ram, state: memory(machineState.maxBytes), copy: memory(1 << 20) };
};

describe.each(enginesHere())('state of a machine under %s', (accel) => {
  test('goes out, and in again: memory and registers are as they were', async () => {
    const { v, ram, state, copy } = await started(accel);
    expect((await ask(v, 'save', 'saved', [state.fd, copy.fd])).text).toMatch(/does not stand still/);
    expect((await ask(v, 'quieten', 'quiet')).text).toBe('');
    const saved = await ask(v, 'save', 'saved', [state.fd, copy.fd]);
    expect(saved.text).toBe('');
    const header = view(StateHeader, new Memory(state.buffer));
    expect([header.magic, header.version, header.bytes, header.cpus]).toEqual([
      machineState.magic,
      1,
      saved.a,
      1,
    ]);
    expect(new Uint16Array(copy.buffer)[0x800]).toBe(ram[0x800]);
    const was = ram[0x800]!;
    // The page of the counter, not all of memory: holes stay holes.
    expect(saved.b).toBeLessThan(64 << 10);
    ram[0x4000] = 0x1234;
    for (let i = 0; i < 3; i++) {
      v.send('resume');
      await v.event('resumed');
      await expect.poll(() => ram[0x800] !== was).toBe(true);
      expect((await ask(v, 'quieten', 'quiet', [], 1)).text).toBe('');
      expect((await ask(v, 'load', 'loaded', [state.fd, copy.fd])).text).toBe('');
      expect([ram[0x800], ram[0x4000]]).toEqual([was, 0]);
      // The same state comes out again, bit for bit, but for what KVM counts by itself.
      const again = memory(machineState.maxBytes);
      expect((await ask(v, 'save', 'saved', [again.fd, copy.fd])).text).toBe('');
      if (accel === 'soft') {
        const bytes = (b: ArrayBuffer): string => Buffer.from(b, 0, saved.a).toString('hex');
        expect(bytes(again.buffer)).toBe(bytes(state.buffer));
      }
    }
    v.send('resume');
    await expect.poll(() => ram[0x800] !== was).toBe(true);
  });

  test('what is damaged, cut or of another machine is refused, and changes nothing', async () => {
    const { m, v, ram, state, copy } = await started(accel);
    await ask(v, 'quieten', 'quiet');
    const { a: length } = await ask(v, 'save', 'saved', [state.fd, copy.fd]);
    const was = ram[0x800]!;
    const good = new Uint8Array(state.buffer).slice(0, length);
    const bytes = new Uint8Array(state.buffer);
    const header = view(StateHeader, new Memory(state.buffer));
    const load = async (change: () => void, seal = true): Promise<string> => {
      bytes.fill(0);
      bytes.set(good);
      change();
      if (seal) header.crc = crc32c(bytes.subarray(StateHeader.bytes, header.bytes));
      ram[0x800] = 7;
      const { text } = await ask(v, 'load', 'loaded', [state.fd, copy.fd]);
      expect([text === '', ram[0x800]]).toEqual([text === '', text === '' ? was : 7]);
      return text;
    };
    expect(await load(() => {})).toBe('');
    expect(await load(() => (bytes[200]! += 1), false)).toMatch(/checksum/);
    expect(await load(() => header.magic++)).toMatch(/magic/);
    expect(await load(() => header.version++)).toMatch(/version 1 is known, not 2/);
    expect(await load(() => header.cpus++)).toMatch(/2 vCPUs, not 1/);
    expect(await load(() => (header.engine ^= 3))).toMatch(/another engine/);
    expect(await load(() => header.tscKhz++)).toMatch(/TSC/);
    expect(await load(() => header.sections++)).toMatch(/number of sections/);
    for (const cut of [1, 8, 500, length - StateHeader.bytes])
      expect(await load(() => (header.bytes -= cut))).toMatch(/machine state/);
    expect(await load(() => (header.bytes = 0xffffffff), false)).toMatch(/cannot be/);
    const first = view(StateSection, new Memory(state.buffer), StateHeader.bytes);
    expect(await load(() => (first.part = 999))).toMatch(/missing|not known/);
    expect(await load(() => (first.version = 2))).toMatch(/version 2/);
    expect(await load(() => (first.cpu = 5))).toMatch(/missing/);
    expect(await load(() => (first.bytes = 0xfffffff0))).toMatch(/longer than the rest/);
    expect(await load(() => (first.bytes -= 8))).toMatch(/machine state/);
    // Not what it should be at all.
    const small = memory(4096);
    expect((await ask(v, 'load', 'loaded', [small.fd, copy.fd])).text).toMatch(/too small/);
    expect((await ask(v, 'load', 'loaded', [state.fd, small.fd])).text).toMatch(/smaller than guest memory/);
    // Of memory nothing was kept.
    bytes.set(good);
    expect((await ask(v, 'load', 'loaded', [state.fd])).text).toMatch(
      accel === 'kvm' ? /a second descriptor/ : /not whole/,
    );
    expect((await ask(v, 'load', 'loaded', [m.fds.kick, m.fds.kick])).text).not.toBe('');
    expect(await load(() => {})).toBe('');
    v.send('resume');
    await expect.poll(() => ram[0x800] !== was).toBe(true);
  });

  test('any bytes with a right checksum are refused or taken, and the process lives', {
    timeout: 120_000,
  }, async () => {
    const { v, ram, state, copy } = await started(accel, accel === 'soft' ? 2 : 1);
    await ask(v, 'quieten', 'quiet');
    const { a: length } = await ask(v, 'save', 'saved', [state.fd, copy.fd]);
    const good = new Uint8Array(state.buffer).slice(0, length);
    const bytes = new Uint8Array(state.buffer);
    const header = view(StateHeader, new Memory(state.buffer));
    let seed = Number(process.env.NYX_SEED ?? 1) >>> 0;
    const random = (n: number): number => {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      return Math.floor((seed / 2 ** 32) * n);
    };
    const count = { taken: 0, refused: 0 };
    for (let i = 0; i < 150; i++) {
      bytes.set(good);
      for (let k = random(6); k >= 0; k--)
        bytes[StateHeader.bytes + random(length - StateHeader.bytes)] = random(256);
      header.crc = crc32c(bytes.subarray(StateHeader.bytes, length));
      const { text } = await ask(v, 'load', 'loaded', [state.fd, copy.fd]);
      count[text === '' ? 'taken' : 'refused']++;
      if (text !== '') continue;
      // A guest that is nonsense runs for a moment; whatever it does, the machine can be put right.
      v.send('resume');
      await sleep(2);
      expect((await ask(v, 'quieten', 'quiet', [], 1)).text).toBe('');
    }
    expect(count.taken).toBeGreaterThan(0);
    expect(count.refused).toBeGreaterThan(0);
    bytes.set(good);
    expect((await ask(v, 'load', 'loaded', [state.fd, copy.fd])).text).toBe('');
    const was = ram[0x800];
    v.send('resume');
    await expect.poll(() => ram[0x800] !== was).toBe(true);
  });
});

test('registers that no guest can have are refused by name', async () => {
  const { v, state, copy } = await started('soft');
  await ask(v, 'quieten', 'quiet');
  const { a: length } = await ask(v, 'save', 'saved', [state.fd, copy.fd]);
  const good = new Uint8Array(state.buffer).slice(0, length);
  const bytes = new Uint8Array(state.buffer);
  const header = view(StateHeader, new Memory(state.buffer));
  const at = StateHeader.bytes;
  expect(view(StateSection, new Memory(state.buffer), at).part).toBe(StatePart.soft);
  const s = view(SoftState, new Memory(state.buffer), at + StateSection.bytes);
  const cases: [() => void, RegExp][] = [
    [() => (s.mxcsr = 0x10000), /MXCSR/],
    [() => (s.cpl = 4), /flag/],
    [() => (s.xcr0 = 2), /XCR0/],
    [() => (s.cr0 = 0x80000000), /CR0/],
    [() => (s.cr4 = 2 ** 31), /CR4/],
    [() => (s.efer = 0x400), /EFER/],
    [() => (s.rflags = 0), /RFLAGS/],
    [() => (s.rip = 2 ** 33), /RIP/],
    [() => (s.lstar = 2 ** 50), /canonical/],
    [() => (s.gdtrLimit = 0x10000), /descriptor/],
  ];
  for (const [change, what] of cases) {
    bytes.set(good);
    change();
    header.crc = crc32c(bytes.subarray(StateHeader.bytes, length));
    expect((await ask(v, 'load', 'loaded', [state.fd, copy.fd])).text).toMatch(what);
  }
  expect(machine.none).toBe(0xffff);
});
