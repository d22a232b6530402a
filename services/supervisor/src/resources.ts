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
  ringsBytes,
  vmPageBytes,
} from '@nyx/ring';

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

export class Resources {
  readonly ram: Shared;
  /** Bytes of RAM at guest address 0; the rest is at 4 GiB. */
  readonly lowBytes: number;
  readonly vmPage: Shared;
  /** The same for device processes, which may only read it. */
  readonly vmPageReader: number;
  readonly pageMap: Shared;
  /** By the names that wiring uses. */
  readonly named = new Map<string, number>();
  readonly #all: number[] = [];

  constructor(
    readonly cpus: number,
    readonly ramBytes: number,
    clock: { wallClock: number; virtual: boolean },
  ) {
    this.lowBytes = Math.min(ramBytes, lowLimit);
    try {
      this.ram = this.#shared('nyx-ram', ramBytes);
    } catch (e) {
      throw new NyxError(
        'MEMORY_TOO_LARGE',
        { expected: `${ramBytes / 2 ** 20} MiB of shared memory`, got: String((e as Error).message) },
        { cause: e },
      );
    }
    this.vmPage = this.#shared('nyx-vm', vmPageBytes);
    formatVmPage(this.vmPage.buffer, { cpus, ...clock });
    this.vmPageReader = this.#keep(openSync(`/proc/self/fd/${this.vmPage.fd}`, 'r'));
    const pages = ramBytes / 4096;
    this.pageMap = this.#shared('nyx-pages', pageMapBytes(pages));
    formatPageMap(this.pageMap.buffer, cpus, pages);
  }

  /** Ring, interrupt page and eventfds of a device process with that many interrupt entries. */
  process(name: string, entries: number): ProcessMemory {
    const ring = this.#shared(`nyx-ring-${name}`, ringsBytes(this.cpus));
    formatRings(ring.buffer, this.cpus);
    const irqPage = this.#shared(`nyx-irq-${name}`, irqPageBytes(entries));
    formatIrqPage(irqPage.buffer, entries);
    const faults = this.#shared(`nyx-faults-${name}`, faultPageBytes);
    return { ring, irqPage, kick: this.event(), irqEvent: this.event(), faults };
  }

  /** A file for the transcript of a process, in a folder that exists. Sparse. @throws NodeJS.ErrnoException */
  transcript(name: string, folder: string): number {
    const fd = openSync(join(folder, `${name}.transcript`), 'w+', 0o600);
    ftruncateSync(fd, transcriptBytes(this.cpus + 1));
    return this.#keep(fd);
  }

  /** The log ring of a device process: a file, so that it can be read when nobody lives any more. */
  logRing(name: string, folder: string): number {
    const fd = openSync(join(folder, `${name}${files.ring}`), 'w+', 0o600);
    ftruncateSync(fd, logRingBytes);
    return this.#keep(fd);
  }

  /** State block of a device: zeroed, the device formats it. */
  block(name: string): number {
    return this.#keep(memfdCreate(`nyx-state-${name}`, defaultBlockBytes));
  }

  /** A console under `name`, with `name.out` and `name.in`. */
  console(name: string): ArrayBuffer {
    const memory = this.#shared(`nyx-${name}`, consoleWire.bytes);
    formatConsole(memory.buffer);
    this.named.set(name, memory.fd);
    this.named.set(`${name}.out`, this.event());
    this.named.set(`${name}.in`, this.event());
    return memory.buffer;
  }

  /** A read-only blob for devices or the machine (firmware, fw_cfg), padded to whole pages. */
  blob(name: string, bytes: Uint8Array): Shared {
    const memory = this.#shared(`nyx-${name}`, Math.max(4096, Math.ceil(bytes.length / 4096) * 4096));
    new Uint8Array(memory.buffer).set(bytes);
    this.named.set(name, memory.fd);
    return memory;
  }

  event(name?: string): number {
    const fd = this.#keep(eventfd());
    if (name) this.named.set(name, fd);
    return fd;
  }

  signal(name: string): void {
    const fd = this.named.get(name);
    if (fd !== undefined) eventfdWrite(fd);
  }

  /** Takes a descriptor over, under a name. */
  adopt(name: string, fd: number): void {
    this.named.set(name, this.#keep(fd));
  }

  close(): void {
    for (const fd of this.#all.splice(0)) close(fd);
  }

  #shared(name: string, bytes: number): Shared {
    const fd = this.#keep(memfdCreate(name, bytes));
    return { fd, buffer: mmap(fd, bytes) };
  }
  #keep(fd: number): number {
    this.#all.push(fd);
    return fd;
  }
}
