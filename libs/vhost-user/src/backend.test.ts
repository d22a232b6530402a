/** The back-end over real sockets, memory and descriptors. */
import { readdirSync } from 'node:fs';
import { VirtioFeature } from '@nyx/device';
import { close, eventfd, eventfdWrite, memfdCreate, mmap, munmap } from '@nyx/native';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Frontend, version1 } from './frontend.ts';
import { RegionMemory } from './memory.ts';
import { ProtocolFeature, pack, packHalves, type Region, VhostFeature } from './protocol.ts';
import { chainTarget, FuzzBackend, sessionTarget } from './testing/fuzz.ts';

const MEMORY = 2 ** 20;
const USER = 2 ** 40;
const coded = (code: string) => expect.objectContaining({ code });
const turns = async (n = 30): Promise<void> => {
  for (let i = 0; i < n; i++) await new Promise((r) => setImmediate(r));
};

let f: FuzzBackend;
let frontend: Frontend;
let changes: number;
let fds: number[];
let buffer: ArrayBuffer;
let view: DataView;
let memory: number;
beforeEach(async () => {
  f = new FuzzBackend();
  fds = [];
  memory = own(memfdCreate('memory', 4 * MEMORY));
  buffer = mmap(memory, 4 * MEMORY);
  view = new DataView(buffer);
  changes = 0;
  frontend = new Frontend(f.connect(), { closed() {}, configChanged: () => changes++ });
  await frontend.hello();
});
afterEach(async () => {
  frontend.close();
  await f.idle();
  f.close();
  munmap(buffer);
  for (const fd of fds) close(fd);
});
const own = (fd: number): number => {
  fds.push(fd);
  return fd;
};
const region = (guest: number, offset: number): Region & { fd: number } => ({
  guest,
  bytes: MEMORY,
  user: USER + offset,
  offset,
  fd: memory,
});
const events = () => ({ kick: own(eventfd()), call: own(eventfd()) });
const ring = (index: number, o: { base?: number; flags?: number; kick: number; call: number }) => ({
  index,
  flags: o.flags ?? 0,
  log: 0x2000,
  size: 16,
  base: o.base ?? 0,
  descriptor: USER + 0x10000 * index,
  available: USER + 0x10000 * index + 0x1000,
  used: USER + 0x10000 * index + 0x2000,
  kick: o.kick,
  call: o.call,
});
/** Offers chains of one readable and one writable piece, by their head. */
const offer = (heads: readonly number[], from = 0, at = 0): void => {
  for (const [i, head] of heads.entries()) {
    for (const [n, flags, next] of [
      [head, 1, head + 1],
      [head + 1, 2, 0],
    ] as const) {
      view.setUint32(at + 16 * n, 0x8000, true);
      view.setUint32(at + 16 * n + 8, 64, true);
      view.setUint16(at + 16 * n + 12, flags, true);
      view.setUint16(at + 16 * n + 14, next, true);
    }
    view.setUint16(at + 0x1004 + 2 * ((from + i) % 16), head, true);
  }
  view.setUint16(at + 0x1002, from + heads.length, true);
};
const usedIdx = (at = 0): number => view.getUint16(at + 0x2002, true);

describe('vhost-user back-end', () => {
  it('offers what it has, and refuses features that it does not', async () => {
    expect(frontend.offered.hi & 1).toBe(1);
    expect(frontend.queues).toBe(2);
    for (const feature of Object.values(ProtocolFeature))
      if (feature !== ProtocolFeature.logShmfd) expect(frontend.has(feature)).toBe(true);
    await expect(frontend.setFeatures(1 << 20, version1)).rejects.toThrow(coded('VHOST_REFUSED'));
    await frontend.setFeatures(0xff, version1);
  });
  it('tells and takes the configuration, up to 256 bytes', async () => {
    expect([...(await frontend.config(4, 4))]).toEqual([4, 5, 6, 7]);
    expect((await frontend.config(0, 256)).length).toBe(256);
    await frontend.setConfig(0, Uint8Array.from([1]));
    await expect(frontend.config(250, 10)).rejects.toThrow(coded('VHOST_CLOSED'));
  });
  it('a configuration that changes is told of on the channel of the back-end', async () => {
    expect(changes).toBe(0);
    f.backend.configChanged();
    await turns();
    expect(changes).toBe(1);
  });
  it('status, reset, memory slots', async () => {
    await frontend.tell('setStatus', packHalves(15, 0));
    expect((await frontend.ask('getStatus')).payload.getUint32(0, true)).toBe(15);
    await frontend.tell('setStatus', packHalves(0, 0));
    await frontend.tell('resetDevice');
    expect((await frontend.ask('getMaxMemSlots')).payload.getUint32(0, true)).toBe(509);
    await frontend.setMemory([region(0, 0), region(2 ** 32, MEMORY)]);
    // Overlaps, is not pages, is beyond the file.
    for (const bad of [
      { ...region(0, 2 * MEMORY) },
      { ...region(8 * MEMORY, 0), bytes: 100 },
      region(2 ** 33, 8 * MEMORY),
    ])
      await expect(frontend.setMemory([bad])).rejects.toThrow(coded('VHOST_REFUSED'));
    const r = region(2 ** 32, MEMORY);
    const bytes = pack([0, 8], [r.guest, 8], [r.bytes, 8], [r.user, 8], [r.offset, 8]);
    await frontend.tell('remMemReg', bytes);
    await expect(frontend.tell('remMemReg', bytes)).rejects.toThrow(coded('VHOST_REFUSED'));
  });
  it('a request in a second region, at an address above 4 GiB', async () => {
    await frontend.setFeatures(0, version1);
    await frontend.setMemory([region(0, 0), region(2 ** 40, MEMORY)]);
    const e = events();
    await frontend.startRing(ring(0, e));
    offer([0]);
    view.setUint32(16 + 0, 0, true);
    view.setUint32(16 + 4, 2 ** 8, true); // 2^40
    eventfdWrite(e.kick);
    await turns();
    expect([usedIdx(), view.getUint32(0x2008, true)]).toEqual([1, 2]);
    expect(f.backend.rings[0]!.broken).toBe(false);
  });
  it('without event index every kick counts; two rings; a ring that is disabled waits', async () => {
    await frontend.setFeatures(0, version1);
    await frontend.setMemory([region(0, 0)]);
    const [a, b] = [events(), events()];
    await frontend.startRing(ring(0, a));
    await frontend.startRing(ring(1, b));
    await frontend.tell('setVringEnable', pack([1, 4], [0, 4]));
    offer([0, 2]);
    offer([4], 0, 0x10000);
    eventfdWrite(a.kick);
    eventfdWrite(b.kick);
    await turns();
    expect([usedIdx(), usedIdx(0x10000)]).toEqual([2, 0]);
    await frontend.tell('setVringEnable', pack([1, 4], [1, 4]));
    await turns();
    expect(usedIdx(0x10000)).toBe(1);
    expect([await frontend.stopRing(0), await frontend.stopRing(1)]).toEqual([2, 1]);
  });
  it('a back-end that dies: its successor runs what was in flight, each once', async () => {
    const inflight = await frontend.getInflight(1, 16);
    own(inflight.fd);
    await frontend.setInflight(inflight, inflight.fd);
    await frontend.setFeatures(0, version1);
    await frontend.setMemory([region(0, 0)]);
    const e = events();
    // A back-end that took heads 0, 2, 4 and finished 2, of which the driver knows, and died.
    const region0 = new DataView(mmap(inflight.fd, 4096));
    region0.setUint16(8, 1, true);
    region0.setUint16(10, 16, true);
    region0.setUint16(14, 1, true);
    for (const [head, counter] of [
      [4, 1],
      [0, 3],
    ] as const) {
      region0.setUint8(16 + 16 * head, 1);
      region0.setUint32(16 + 16 * head + 8, counter, true);
    }
    offer([0, 2, 4, 6]);
    view.setUint16(0x2002, 1, true);
    await frontend.startRing(ring(0, { ...e, base: 1 }));
    await turns();
    expect(f.backend.counters.recovered).toBe(2);
    expect(usedIdx()).toBe(4);
    const heads = [1, 2, 3].map((i) => view.getUint32(0x2004 + 8 * i, true));
    expect([...heads].sort()).toEqual([0, 4, 6]);
    for (let head = 0; head < 16; head++) expect(region0.getUint8(16 + 16 * head)).toBe(0);
    expect(region0.getUint16(14, true)).toBe(4);
  });
  it('writes are logged, by page of the guest, while a migration asks for it', async () => {
    await frontend.tell(
      'setProtocolFeatures',
      packHalves(frontend.protocol | (1 << ProtocolFeature.logShmfd), 0),
    );
    await frontend.setMemory([region(MEMORY, 0)]);
    const logFd = own(memfdCreate('log', 4096));
    const log = new Uint8Array(mmap(logFd, 4096));
    await frontend.ask('setLogBase', pack([4096, 8], [0, 8]), 8, [logFd]);
    const e = events();
    await frontend.setFeatures(0, version1);
    await frontend.startRing(ring(0, e));
    offer([0]);
    for (const at of [0, 16]) view.setUint32(at, MEMORY + 0x8000, true);
    eventfdWrite(e.kick);
    await turns();
    expect([usedIdx(), log.some((b) => b !== 0)]).toEqual([1, false]);
    await frontend.setFeatures(1 << VhostFeature.logAll, version1);
    offer([2], 1);
    for (const at of [32, 48]) view.setUint32(at, MEMORY + 0x8000, true);
    eventfdWrite(e.kick);
    await turns();
    expect(usedIdx()).toBe(2);
    // The used ring, page 0x102 of the guest.
    expect([...log.keys()].filter((i) => log[i] !== 0).map((i) => [i, log[i]])).toEqual([[0x20, 1 << 2]]);
    // A log that is too short for the guest is not written beyond.
    const { memory: m } = f.backend;
    m.add({ guest: 2 ** 40, bytes: MEMORY, user: USER + 8 * MEMORY, offset: 0 }, memory);
    m.dirty(m.offset(2 ** 40, 8192), 8192);
    m.dirty(m.offset(MEMORY + 0x3ff0, 0x20), 0x20);
    expect([...log.keys()].filter((i) => log[i] !== 0).map((i) => [i, log[i]])).toEqual([
      [0x20, (1 << 2) | (1 << 3) | (1 << 4)],
    ]);
  });
  it('VHOST_F_LOG_ALL is offered', () => {
    expect(frontend.offered.lo & (1 << VhostFeature.logAll)).not.toBe(0);
    expect(frontend.offered.lo & (1 << VirtioFeature.eventIdx)).not.toBe(0);
  });
});

describe('hostile peers', () => {
  const open = (): number => readdirSync('/proc/self/fd').length;
  it.each([
    ['messages', sessionTarget],
    ['chains', chainTarget],
  ] as const)('%s of any kind: the next front-end is served, no descriptor stays', async (_name, target) => {
    frontend.close();
    await f.idle();
    await f.good();
    await turns();
    const before = open();
    for (let seed = 1; seed < 250; seed++) {
      f.warnings.length = 0;
      await target(f, seed * 7919);
    }
    await f.good();
    await turns();
    expect(open()).toBeLessThanOrEqual(before);
  });
});

it('a region of memory need not be whole pages: those of libblkio are as long as its rings', () => {
  const fd = own(memfdCreate('odd', 65536));
  const file = new Uint8Array(mmap(fd, 65536));
  const m = new RegionMemory();
  const region = { guest: 0x7f47_4705_5200, bytes: 15_120, user: 0x7f47_4705_5200, offset: 512 };
  m.add(region, fd);
  m.add({ ...region, guest: 2 ** 20 + 1, user: 2 ** 20 + 1, offset: 20_001 }, fd);
  file.set([1, 2, 3], 512 + 15_117);
  expect([...m.bytes(m.offset(region.guest + 15_117, 3), 3)]).toEqual([1, 2, 3]);
  expect(m.offset(region.guest + 15_117, 4)).toBe(-1);
  file[20_001] = 9;
  expect([...m.bytes(m.offset(2 ** 20 + 1, 1), 1)]).toEqual([9]);
  expect(() => m.add({ ...region, guest: 0, user: 0, bytes: 0 }, fd)).toThrow(coded('VHOST_REGION'));
  expect(() => m.add({ ...region, guest: 0, user: 0, offset: 60_000 }, fd)).toThrow(coded('VHOST_REGION'));
  m.remove(region);
  expect(m.offset(region.guest, 1)).toBe(-1);
  m.close();
});
