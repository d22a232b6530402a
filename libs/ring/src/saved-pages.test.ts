/** Pages saved by several processes that write at random and are killed at any instruction: libs/native/src/cc/page_store.h. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Memory, view } from '@nyx/layout';
import { close, createPageSaver, fallocate, futexWake, memfdCreate, mmap, munmap } from '@nyx/native';
import { expect, test } from 'vitest';
import { formatPageMap, pageMapBytes, pageMapFileBytes, SavedPages } from './pages.ts';
import { PageMap, wire } from './wire.ts';

const pages = 4096;
const cpus = 1;
const limit = pages + wire.spareSlots;
const slotsAt = pageMapFileBytes(pages) - 4096 * 2 * limit;
const addon = fileURLToPath(new URL('../../native/build/Release/nyx_native.node', import.meta.url));
const random = (seed: number) => (): number => {
  // Park and Miller's generator.
  seed = (seed * 48271) % 0x7fffffff;
  return seed / 0x7fffffff;
};

/** RAM and a page map, as a supervisor makes them. */
class Machine {
  readonly ramFd = memfdCreate('test-ram', pages * 4096);
  readonly mapFd = memfdCreate('test-pages', pageMapFileBytes(pages));
  readonly goFd = memfdCreate('test-go', 4096);
  readonly ram = mmap(this.ramFd, pages * 4096);
  readonly map = mmap(this.mapFd, pageMapFileBytes(pages));
  readonly #go = mmap(this.goFd, 4096);
  readonly #store;
  constructor() {
    formatPageMap(this.map, cpus, pages);
    this.#store = view(PageMap, new Memory(this.map)).store.at(0);
  }
  get store(): { saving: number; lost: number; base: number; next: number } {
    return this.#store;
  }
  /** Lets the writers go, or those that come later wait. */
  set go(on: boolean) {
    Atomics.store(new Int32Array(this.#go), 0, on ? 1 : 0);
    if (on) futexWake(this.#go, 0, 100);
  }
  /** Pages at some moment. */
  get content(): Buffer {
    return Buffer.from(Buffer.from(this.ram));
  }
  /** As the vCPU process does it (services/vcpu/src/saved_ram.cc). */
  begin(): void {
    const { store } = this;
    const first = (store.next + limit) % (2 * limit);
    const once = Math.min(limit, 2 * limit - first);
    fallocate(this.mapFd, 'punchHole', slotsAt + first * 4096, once * 4096);
    if (once < limit) fallocate(this.mapFd, 'punchHole', slotsAt, (limit - once) * 4096);
    store.lost = 0;
    store.base = store.next;
    store.saving = 1;
  }
  /** RAM with what was saved in the place of what is there: by the description in wire.ts, not by the code under test. */
  back(): { memory: Buffer; saved: number } {
    const entries = new BigUint64Array(this.map, pageMapBytes(pages), pages);
    const base = BigInt(this.store.base);
    const memory = this.content;
    let saved = 0;
    for (let page = 0; page < pages; page++) {
      const slot = entries[page]!;
      if (slot < base) continue;
      saved++;
      const at = slotsAt + 4096 * Number(slot % BigInt(2 * limit));
      Buffer.from(this.map, at, 4096).copy(memory, page * 4096);
    }
    return { memory, saved };
  }
  close(): void {
    for (const b of [this.ram, this.map, this.#go]) munmap(b);
    for (const fd of [this.ramFd, this.mapFd, this.goFd]) close(fd);
  }
}

/** Writes at random places of random lengths, and says so first. */
const writer = `
const m = { exports: {} };
process.dlopen(m, ${JSON.stringify(addon)});
const { mmap, createPageSaver, futexWait } = m.exports;
const ram = mmap(3, ${pages * 4096});
const saver = createPageSaver(4, ram);
const go = mmap(5, 4096);
const word = new Int32Array(go);
const bytes = new Uint8Array(ram);
let seed = Number(process.argv[1]);
const random = (n) => (seed = (seed * 48271) % 0x7fffffff) % n;
process.stdout.write('ready');
while (Atomics.load(word, 0) === 0) futexWait(go, 0, 0, 1e9);
for (;;) {
  const at = random(bytes.length);
  const length = Math.min(1 + random(random(8) === 0 ? 12000 : 64), bytes.length - at);
  saver.save(at, length);
  bytes.fill(random(256), at, at + length);
}`;

const start = async (m: Machine, seed: number): Promise<ChildProcess> => {
  const child = spawn(process.execPath, ['-e', writer, String(seed)], {
    stdio: ['ignore', 'pipe', 'inherit', m.ramFd, m.mapFd, m.goFd],
  });
  await once(child.stdout!, 'data');
  return child;
};
const kill = async (child: ChildProcess): Promise<void> => {
  const gone = once(child, 'exit');
  child.kill('SIGKILL');
  await gone;
};

test('whatever is killed when, memory can become what it was at each checkpoint', async () => {
  const m = new Machine();
  const next = random(Number(process.env.NYX_SEED ?? 1) + 7);
  const seed = (): number => 1 + Math.floor(next() * 1e6);
  const words = new Uint32Array(m.ram);
  // Every third page has nothing in it.
  for (let i = 0; i < words.length; i++) if (((i >> 10) + 1) % 3 !== 0) words[i] = seed();
  let children = await Promise.all([start(m, seed()), start(m, seed()), start(m, seed())]);
  const rounds = 6;
  let leaked = 0;
  let killed = 0;
  for (let round = 0; round < rounds; round++) {
    const before = m.content;
    m.begin();
    m.go = true;
    // All write the same pages at once; one dies in the midst, and another comes.
    await sleep(next() * 4);
    await kill(children[0]!);
    killed++;
    children[0] = await start(m, seed());
    while (m.store.next - m.store.base < 50) await sleep(1);
    await sleep(next() * 10);
    await Promise.all(children.map(kill));
    killed += children.length;
    m.go = false;
    const { memory, saved } = m.back();
    expect(m.store.lost).toBe(0);
    expect(saved).toBeGreaterThan(40);
    expect(m.content.equals(before)).toBe(false);
    expect(memory.equals(before)).toBe(true);
    leaked += m.store.next - m.store.base - saved;
    // Every other time it goes back, and what comes then is the same checkpoint's again.
    if (round % 2 === 1) memory.copy(Buffer.from(m.ram));
    children = await Promise.all([start(m, seed()), start(m, seed()), start(m, seed())]);
  }
  await Promise.all(children.map(kill));
  console.log(`${killed} writers killed in ${rounds} checkpoints; ${leaked} slots were lost with them`);
  m.close();
}, 60_000);

test('a page of zeros takes no memory, and no page is saved twice', () => {
  const m = new Machine();
  const bytes = new Uint8Array(m.ram);
  bytes[5 * 4096] = 1;
  const saved = new SavedPages(m.mapFd, m.map, m.ram);
  expect(saved.saving).toBe(false);
  saved.save(0, pages * 4096);
  expect(m.store.next).toBe(1);
  m.begin();
  expect([saved.saving, saved.saved]).toEqual([true, 0]);
  saved.save(4096 * 5 + 4095, 1);
  saved.save(4096 * 4, 4097);
  saved.save(0, 0);
  expect(saved.saved).toBe(2);
  expect(new Uint8Array(m.map, slotsAt + 4096)[0]).toBe(1);
  expect(m.back().memory.equals(m.content)).toBe(true);
  m.close();
});

test('a store that is full, or spoiled, loses the checkpoint and nothing else', () => {
  const m = new Machine();
  const saver = createPageSaver(m.mapFd, m.ram);
  for (const next of [m.store.base + limit, 2 ** 50, 0]) {
    m.begin();
    m.store.next = next;
    saver.save(0, 8192);
    expect([next, m.store.lost, m.store.saving]).toEqual([next, 1, 0]);
    m.store.next = 2 * limit;
  }
  // Entries of the future.
  m.begin();
  new BigUint64Array(m.map, pageMapBytes(pages), pages).fill(0xffff_ffff_ffff_ffffn);
  saver.save(0, pages * 4096);
  expect([m.store.lost, m.store.saving]).toEqual([0, 1]);
  for (const [at, length] of [
    [-1, 1],
    [0, pages * 4096 + 1],
    [Number.NaN, 1],
  ] as const)
    expect(() => saver.save(at, length)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  const small = memfdCreate('small', 1 << 20);
  expect(() => createPageSaver(small, m.ram)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  close(small);
  m.close();
});

test('slots go round: many checkpoints, each with all pages', () => {
  const m = new Machine();
  const saver = createPageSaver(m.mapFd, m.ram);
  const bytes = new Uint8Array(m.ram);
  for (let round = 1; round < 6; round++) {
    const before = m.content;
    m.begin();
    saver.save(0, bytes.length);
    bytes.fill(round);
    expect(m.back().memory.equals(before)).toBe(true);
  }
  m.close();
});
