/**
 * Hostile front-ends and hostile drivers, made of a seed. Each target runs against a real back-end over a real socket and
 * real descriptors; whatever they do, it must answer or hang up, and serve the next one.
 */
import { rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { VirtioFeature } from '@nyx/device';
import {
  acceptUnix,
  close,
  connectUnix,
  eventfd,
  eventfdWrite,
  listenUnix,
  memfdCreate,
  mmap,
  munmap,
  openFrameSocket,
} from '@nyx/native';
import { Backend } from '../backend.ts';
import { Frontend, version1 } from '../frontend.ts';
import { encode, Flag, Limit, pack, packMemTable, packVringAddr, Request, shapes } from '../protocol.ts';
import type { BackendDevice, BackendTransport } from '../worker.ts';

/** xorshift32. */
export const random = (seed: number) => {
  let x = seed | 1;
  return (n: number): number => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return (x >>> 0) % n;
  };
};
type Random = ReturnType<typeof random>;

/** A device that answers each request at once, or with the next poll. */
class Echo implements BackendDevice {
  readonly queues = 2;
  readonly features = 0xff;
  readonly #later: number[] = [];
  #n = 0;
  constructor(readonly transport: BackendTransport) {}
  configRead(offset: number): number {
    return offset & 0xff;
  }
  configWrite(): void {}
  take(slot: number): void {
    if (this.#n++ % 3 === 0) this.#later.push(slot);
    else this.transport.finish(slot, 1);
  }
  submit(): void {}
  poll(): void {
    for (const slot of this.#later.splice(0)) this.transport.finish(slot, 2);
  }
  quiesce(): boolean {
    this.poll();
    return true;
  }
  reset(): void {}
}

const MEMORY = 2 ** 20;
const turn = (): Promise<void> => new Promise((r) => setImmediate(r));

export class FuzzBackend {
  readonly backend: Backend;
  readonly #listener: number;
  readonly path = join(tmpdir(), `nyx-vhost-fuzz-${process.pid}-${made++}`);
  readonly warnings: string[] = [];

  constructor() {
    this.backend = new Backend({
      make: (t) => new Echo(t),
      slots: 16,
      spinNs: 0,
      log: (_level, message) => {
        this.warnings.push(message);
      },
      fatal: (reason) => {
        throw new Error(reason);
      },
    });
    this.#listener = listenUnix(this.path);
  }

  /** A connection, served. */
  connect(): number {
    const fd = connectUnix(this.path);
    this.backend.serve(acceptUnix(this.#listener), () => {});
    return fd;
  }

  /** Until the last front-end was noticed to be gone. @throws when that takes too long */
  async idle(): Promise<void> {
    for (let n = 0; this.backend.connected; n++) {
      if (n > 10_000) throw new Error('the back-end did not notice that its front-end is gone');
      await turn();
    }
  }

  close(): void {
    close(this.#listener);
    this.backend.memory.close();
    rmSync(this.path, { force: true });
  }

  /** A front-end that behaves: one request goes through. @throws when it does not */
  async good(): Promise<void> {
    const fd = memfdCreate('good', MEMORY);
    const buffer = mmap(fd, MEMORY);
    const [kick, call] = [eventfd(), eventfd()];
    const f = new Frontend(this.connect(), { closed() {} });
    try {
      await f.hello();
      await f.setFeatures((1 << VirtioFeature.indirectDesc) >>> 0, version1);
      await f.setMemory([{ guest: 0, bytes: MEMORY, user: 2 ** 40, offset: 0, fd }]);
      await f.startRing({ ...places(2 ** 40), index: 0, flags: 0, log: 0, size: 16, base: 0, kick, call });
      const v = new DataView(buffer);
      v.setUint32(0, 0x8000, true);
      v.setUint32(8, 64, true);
      v.setUint16(12, 2, true);
      v.setUint16(0x1000 + 2, 1, true);
      eventfdWrite(kick);
      for (let n = 0; v.getUint16(0x2000 + 2, true) !== 1; n++) {
        if (n > 10_000) throw new Error(`a request was not answered: ${this.warnings.slice(-3).join('; ')}`);
        await turn();
      }
      if ((await f.stopRing(0)) !== 1) throw new Error('the ring did not stop at index 1');
    } finally {
      f.close();
      await this.idle();
      munmap(buffer);
      for (const x of [fd, kick, call]) close(x);
    }
  }
}
let made = 0;

const places = (user: number) => ({ descriptor: user, available: user + 0x1000, used: user + 0x2000 });

/** A number that is likely to hurt. */
const nasty = (r: Random): number =>
  [0, 1, 2, 7, 8, 16, 128, 255, 256, 1024, 4096, 65535, MEMORY, 2 ** 31, 2 ** 32 - 1, 2 ** 40, 2 ** 52][
    r(17)
  ]! + (r(8) === 0 ? r(4096) : 0);

/** A payload of the right kind, with values that are right or wrong. */
function payload(r: Random, name: keyof typeof Request): { bytes: Uint8Array; fds: number } {
  const user = 2 ** 40;
  const region = (i: number) =>
    r(4) === 0
      ? { guest: nasty(r), bytes: nasty(r), user: nasty(r), offset: nasty(r) }
      : { guest: i * MEMORY, bytes: MEMORY, user: user + i * MEMORY, offset: 0 };
  switch (name) {
    case 'setMemTable': {
      const n = 1 + r(3);
      return { bytes: packMemTable(Array.from({ length: n }, (_, i) => region(i))), fds: n };
    }
    case 'addMemReg':
    case 'remMemReg': {
      const g = region(r(4));
      return { bytes: pack([0, 8], [g.guest, 8], [g.bytes, 8], [g.user, 8], [g.offset, 8]), fds: 1 };
    }
    case 'setVringAddr': {
      const a = r(4) === 0 ? { descriptor: nasty(r), available: nasty(r), used: nasty(r) } : places(user);
      return { bytes: packVringAddr({ index: r(3), flags: r(2), log: nasty(r), ...a }), fds: 0 };
    }
    case 'setVringKick':
    case 'setVringCall':
    case 'setVringErr':
      return { bytes: pack([r(4) === 0 ? 0x100 + r(3) : r(3), 4], [0, 4]), fds: r(4) === 0 ? 0 : 1 };
    case 'setVringNum':
      return { bytes: pack([r(3), 4], [r(3) === 0 ? nasty(r) : 16, 4]), fds: 0 };
    case 'setFeatures':
      return { bytes: pack([r(2) === 0 ? 0x50000000 : nasty(r), 4], [r(2), 4]), fds: 0 };
    case 'setProtocolFeatures':
      return { bytes: pack([r(4) === 0 ? nasty(r) : 0x1b20b, 4], [0, 4]), fds: 0 };
    case 'getInflightFd':
    case 'setInflightFd':
      return {
        bytes: pack([nasty(r), 8], [r(2) ? 0 : nasty(r), 8], [r(3), 2], [r(2) ? 16 : nasty(r), 2]),
        fds: name === 'setInflightFd' ? 1 : 0,
      };
    case 'getConfig':
    case 'setConfig': {
      const n = r(64);
      return {
        bytes: pack(
          [r(4) ? 0 : nasty(r), 4],
          [r(4) ? n : nasty(r), 4],
          [0, 4],
          ...Array.from({ length: n }, () => [r(256), 2] as const),
        ).subarray(0, 12 + n),
        fds: 0,
      };
    }
    default: {
      const size = shapes[name].size;
      const n = typeof size === 'number' ? size : 8;
      return {
        bytes: Uint8Array.from({ length: n }, () => (r(3) === 0 ? r(256) : 0)),
        fds: shapes[name].fds[0],
      };
    }
  }
}

const names = Object.keys(Request) as (keyof typeof Request)[];

/** Messages in any order, right ones and wrong ones, with any descriptors. */
export async function sessionTarget(f: FuzzBackend, seed: number): Promise<void> {
  const r = random(seed);
  const own: number[] = [];
  const descriptor = (): number => {
    const kind = r(4);
    const fd =
      kind === 0 ? eventfd() : kind === 1 ? memfdCreate('small', 4096) : memfdCreate('fuzz', 4 * MEMORY);
    own.push(fd);
    return fd;
  };
  let open = true;
  const socket = openFrameSocket(f.connect(), {
    headerBytes: Limit.headerBytes,
    lengthAt: 8,
    maxBytes: 4096,
    onMessage(_bytes, fds) {
      for (const fd of fds) close(fd);
    },
    onClose() {
      open = false;
    },
  });
  // Most sessions get through the door.
  const order: (keyof typeof Request)[] =
    r(4) === 0
      ? []
      : [
          'getFeatures',
          'setProtocolFeatures',
          'setFeatures',
          'setMemTable',
          'setVringNum',
          'setVringAddr',
          'setVringKick',
          'setVringEnable',
        ];
  for (let n = r(30); n > 0; n--) order.push(names[r(names.length)]!);
  for (const name of order) {
    if (!open) break;
    const { bytes, fds } = payload(r, name);
    let frame = encode(r(40) === 0 ? nasty(r) : Request[name], r(3) === 0 ? 0 : Flag.needReply, bytes);
    if (r(30) === 0) frame = frame.subarray(0, r(frame.length) + 1);
    if (r(30) === 0) frame[r(frame.length)] = r(256);
    try {
      socket.send(frame, Array.from({ length: r(15) === 0 ? r(9) : fds }, descriptor));
    } catch {
      break;
    }
    if (r(3) === 0) await turn();
  }
  for (let n = 0; n < 20; n++) await turn();
  socket.close();
  await f.idle();
  for (const fd of own) close(fd);
}

/** A ring full of descriptors, indices and flags that are right or wrong. */
export async function chainTarget(f: FuzzBackend, seed: number): Promise<void> {
  const r = random(seed);
  const fd = memfdCreate('chains', MEMORY);
  const buffer = mmap(fd, MEMORY);
  const v = new DataView(buffer);
  const [kick, call] = [eventfd(), eventfd()];
  const frontend = new Frontend(f.connect(), { closed() {} });
  try {
    await frontend.hello();
    await frontend.setFeatures(
      r(2) ? (1 << VirtioFeature.indirectDesc) | (1 << VirtioFeature.eventIdx) : 0,
      version1,
    );
    await frontend.setMemory([{ guest: 0, bytes: MEMORY, user: 2 ** 40, offset: 0, fd }]);
    await frontend.startRing({
      ...places(2 ** 40),
      index: 0,
      flags: 0,
      log: 0,
      size: 16,
      base: 0,
      kick,
      call,
    });
    let idx = 0;
    for (let n = 0; n < 20; n++) {
      for (const table of [0, 0x4000])
        for (let i = 0; i < 16; i++) {
          const at = table + 16 * i;
          const address = r(4) === 0 ? nasty(r) : r(8) === 0 ? 0x4000 : 0x8000 + r(0x8000);
          v.setUint32(at, address >>> 0, true);
          v.setUint32(at + 4, Math.floor(address / 2 ** 32), true);
          v.setUint32(at + 8, r(3) === 0 ? nasty(r) : 16 * (1 + r(8)), true);
          v.setUint16(at + 12, r(8), true);
          v.setUint16(at + 14, r(20), true);
        }
      for (let i = 0; i < 16; i++) v.setUint16(0x1000 + 4 + 2 * i, r(18), true);
      idx += r(6) === 0 ? r(40) : r(4);
      v.setUint16(0x1000 + 2, idx & 0xffff, true);
      eventfdWrite(kick);
      await turn();
    }
    await frontend.stopRing(0);
  } finally {
    frontend.close();
    await f.idle();
    munmap(buffer);
    for (const x of [fd, kick, call]) close(x);
  }
}
