/** Everything shared that a machine consists of: made here, owned here, so that any process can be replaced. */
import { ftruncateSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { consoleWire, faultPageBytes, formatConsole, transcriptBytes } from '@nyx/device';
import { logRingBytes } from '@nyx/log/ring';
import { close, eventfd, eventfdWrite, memfdCreate, mmap } from '@nyx/native';
import { files } from '@nyx/nyx/files';
import { NyxError } from '@nyx/protocol/errors';

import {
  defaultBlockBytes,
  formatIrqPage,
  formatPageMap,
  formatRings,
  formatVmPage,
  irqPageBytes,
  pageMapBytes,
  pageMapFileBytes,
  ringsBytes,
  SavedPages,
  vmPageBytes,
} from '@nyx/ring';
import type { Estate } from './estate.ts';
import { type Keeping, noKeeper } from './keeper.ts';

/** A memfd and its mapping in this process. */
export interface Shared {
  fd: number;
  buffer: ArrayBuffer;
}

const lowLimit = 0x8000_0000;

/** What a device process shares with the vCPU process. */
export interface ProcessMemory {
  ring: Shared;
  irqPage: Shared;
  kick: number;
  irqEvent: number;
  /** Counters of fault rules (libs/device/src/faults/page.ts). */
  faults: Shared;
}

/** Keys of the keeper. */
const prefix = 'fd/';

export class Resources {
  readonly ram: Shared;
  /** Bytes of RAM at guest address 0; the rest is at 4 GiB. */
  readonly lowBytes: number;
  readonly vmPage: Shared;
  /** The same for device processes, which may only read it. */
  readonly vmPageReader: number;
  readonly pageMap: Shared;
  /** For a checkpoint: asked before this process writes to RAM. */
  readonly savedPages: SavedPages;
  /** By the names that wiring uses. */
  readonly named = new Map<string, number>();
  readonly #all: number[] = [];

  /**
   * Makes what every machine has, or, with the estate of another nyxd, takes what that one made: the same here and in all
   * that follows.
   * @throws NyxError MEMORY_TOO_LARGE, ADOPTION_FAILED
   */
  constructor(
    readonly cpus: number,
    readonly ramBytes: number,
    clock: { wallClock: number; virtual: boolean },
    readonly keeper: Keeping = noKeeper,
    readonly estate?: Estate,
  ) {
    this.lowBytes = Math.min(ramBytes, lowLimit);
    try {
      this.ram = this.#shared('nyx-ram', ramBytes);
    } catch (e) {
      if (e instanceof NyxError) throw e;
      throw new NyxError(
        'MEMORY_TOO_LARGE',
        { expected: `${ramBytes / 2 ** 20} MiB of shared memory`, got: String((e as Error).message) },
        { cause: e },
      );
    }
    this.vmPage = this.#shared('nyx-vm', vmPageBytes, (b) => formatVmPage(b, { cpus, ...clock }));
    this.vmPageReader = this.#own(openSync(`/proc/self/fd/${this.vmPage.fd}`, 'r'));
    const pages = ramBytes / 4096;
    const map = { bytes: pageMapBytes(pages), all: pageMapFileBytes(pages) };
    this.pageMap = this.#shared('nyx-pages', map.bytes, (b) => formatPageMap(b, cpus, pages), map.all);
    this.savedPages = new SavedPages(this.pageMap.fd, this.pageMap.buffer, this.ram.buffer);
  }

  /** Ring, interrupt page and eventfds of a device process with that many interrupt entries. */
  process(name: string, entries: number): ProcessMemory {
    return {
      ring: this.#shared(`nyx-ring-${name}`, ringsBytes(this.cpus), (b) => formatRings(b, this.cpus)),
      irqPage: this.#shared(`nyx-irq-${name}`, irqPageBytes(entries), (b) => formatIrqPage(b, entries)),
      faults: this.#shared(`nyx-faults-${name}`, faultPageBytes),
      kick: this.#made(`kick-${name}`, eventfd),
      irqEvent: this.#made(`irq-${name}`, eventfd),
    };
  }

  /** A file for the transcript of a process, in a folder that exists. Sparse. @throws NodeJS.ErrnoException */
  transcript(name: string, folder: string): number {
    return this.#made(`transcript-${name}`, () => {
      const fd = openSync(join(folder, `${name}.transcript`), 'w+', 0o600);
      ftruncateSync(fd, transcriptBytes(this.cpus + 1));
      return fd;
    });
  }

  /** The log ring of a device process: a file, so that it can be read when nobody lives any more. */
  logRing(name: string, folder: string): number {
    return this.#made(`log-${name}`, () => {
      const fd = openSync(join(folder, `${name}${files.ring}`), 'w+', 0o600);
      ftruncateSync(fd, logRingBytes);
      return fd;
    });
  }

  /** State block of a device: zeroed, the device formats it. */
  block(name: string): number {
    return this.#made(`state-${name}`, () => memfdCreate(`nyx-state-${name}`, defaultBlockBytes));
  }

  /** A console under `name`, with `name.out` and `name.in`. */
  console(name: string): ArrayBuffer {
    const memory = this.#shared(`nyx-${name}`, consoleWire.bytes, formatConsole);
    this.named.set(name, memory.fd);
    this.event(`${name}.out`);
    this.event(`${name}.in`);
    return memory.buffer;
  }

  /** A read-only blob for devices or the machine (firmware, fw_cfg), padded to whole pages. */
  blob(name: string, bytes: Uint8Array): Shared {
    const size = Math.max(4096, Math.ceil(bytes.length / 4096) * 4096);
    const memory = this.#shared(`nyx-${name}`, size, (b) => new Uint8Array(b).set(bytes));
    this.named.set(name, memory.fd);
    return memory;
  }

  event(name: string): number {
    const fd = this.#made(`event-${name}`, eventfd);
    this.named.set(name, fd);
    return fd;
  }

  signal(name: string): void {
    const fd = this.named.get(name);
    if (fd !== undefined) eventfdWrite(fd);
  }

  /** Under a name, what `make` gives, unless another nyxd has left it, of at least so many bytes. */
  hold(name: string, make: () => number, bytes = 0): number {
    const fd = this.#made(name, make, bytes);
    this.named.set(name, fd);
    return fd;
  }

  /** Takes a descriptor over, under a name; whoever gives it tells the keeper of it. */
  adopt(name: string, fd: number): void {
    this.named.set(name, this.#own(fd));
  }

  close(): void {
    for (const fd of this.#all.splice(0)) close(fd);
  }

  /** @param all bytes of the memfd, if only its beginning is mapped here */
  #shared(name: string, bytes: number, format?: (buffer: ArrayBuffer) => void, all = bytes): Shared {
    const given = this.estate?.fd(prefix + name, all);
    if (given !== undefined) return { fd: this.#own(given), buffer: mmap(given, bytes) };
    const fd = this.#own(memfdCreate(name, all));
    const buffer = mmap(fd, bytes);
    format?.(buffer);
    this.keeper.put(prefix + name, null, [fd]);
    return { fd, buffer };
  }
  #made(name: string, make: () => number, bytes = 0): number {
    const given = this.estate?.fd(prefix + name, bytes);
    if (given !== undefined) return this.#own(given);
    const fd = this.#own(make());
    this.keeper.put(prefix + name, null, [fd]);
    return fd;
  }
  #own(fd: number): number {
    this.#all.push(fd);
    return fd;
  }
}
