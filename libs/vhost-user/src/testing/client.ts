/** A vhost-user client with memory of its own: for tests and benchmarks of back-ends, ours and others'. */
import { VirtioFeature } from '@nyx/device';
import { benchRing, close, connectUnix, eventfd, memfdCreate, mmap } from '@nyx/native';
import { Frontend, version1 } from '../frontend.ts';

/** Where the front-end's memory lies in what it calls its own address space. */
const USER = 0x7f00_0000_0000;
const MEMORY = 64 * 2 ** 20;
/** Ring 0, then headers, then data. */
const place = { desc: 0, avail: 0x8000, used: 0xa000, headers: 0x10000, data: 0x100000 } as const;

export interface Load {
  depth: number;
  count: number;
  bytes: number;
  write: boolean;
  span: number;
  sequential: boolean;
  polling: boolean;
}

export interface Result {
  /** Requests a second. */
  rate: number;
  /** Of one request, ns: median and 99th percentile. */
  median: number;
  p99: number;
}

export class Client {
  readonly fd = memfdCreate('client', MEMORY);
  readonly memory = mmap(this.fd, MEMORY);
  readonly kick = eventfd();
  readonly call = eventfd();
  readonly size: number;
  frontend!: Frontend;
  closed: string | undefined;
  #seed = 1;

  constructor(size = 128) {
    this.size = size;
  }

  /** Connects and starts ring 0. */
  async open(socket: string): Promise<void> {
    this.frontend = new Frontend(connectUnix(socket), {
      closed: (reason) => {
        this.closed = reason;
      },
    });
    const f = this.frontend;
    await f.hello();
    const bits = (1 << VirtioFeature.eventIdx) | 0xffffff;
    await f.setFeatures((f.offered.lo & bits) >>> 0, f.offered.hi & version1);
    await f.setMemory([{ guest: 0, bytes: MEMORY, user: USER, offset: 0, fd: this.fd }]);
    await f.startRing({
      index: 0,
      flags: 0,
      descriptor: USER + place.desc,
      available: USER + place.avail,
      used: USER + place.used,
      log: 0,
      size: this.size,
      base: 0,
      kick: this.kick,
      call: this.call,
    });
  }

  /** Blocks until it is over. @throws EIO */
  run(load: Load): Result {
    const latencies = new Float64Array(load.count);
    const ns = benchRing(
      this.memory,
      {
        ...place,
        size: this.size,
        depth: load.depth,
        count: load.count,
        bytes: load.bytes,
        type: load.write ? 1 : 0,
        span: load.span,
        sequential: load.sequential ? 1 : 0,
        polling: load.polling ? 1 : 0,
        kick: this.kick,
        call: this.call,
        seed: this.#seed++ * 7919,
      },
      latencies,
    );
    latencies.sort();
    const at = (q: number): number => latencies[Math.floor(q * (load.count - 1))]!;
    return { rate: (load.count / ns) * 1e9, median: at(0.5), p99: at(0.99) };
  }

  close(): void {
    this.frontend?.close();
    for (const fd of [this.fd, this.kick, this.call]) close(fd);
  }
}
