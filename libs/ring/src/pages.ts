/** The small shared pages: interrupts, VM (guest clock, counters) and page map. Formatted by the supervisor. */
import { Memory, type View, view } from '@nyx/layout';
import { createPageSaver, eventfdWrite, monotonicNs, type PageSaver } from '@nyx/native';
import { RingError } from './error.ts';
import { Attention, IrqEntry, IrqHeader, PageMap, VmPage, wire } from './wire.ts';

const pageUp = (n: number): number => Math.ceil(n / 4096) * 4096;
const mustHold = (buffer: ArrayBuffer, bytes: number, what: string): void => {
  if (buffer.byteLength < bytes)
    throw new RingError('PAGE_FORMAT', `${what} needs ${bytes} bytes, got ${buffer.byteLength}`);
};

export const irqPageBytes = (entries: number): number =>
  wire.irqEntriesAt + pageUp(Math.max(1, entries) * IrqEntry.bytes);

export function formatIrqPage(buffer: ArrayBuffer, entries: number): void {
  mustHold(buffer, irqPageBytes(entries), `an interrupt page of ${entries} entries`);
  const header = view(IrqHeader, new Memory(buffer));
  header.entries = entries;
  header.magic = wire.irqMagic;
}

const ENTRY_WORDS = IrqEntry.bytes >> 2;

/** Interrupt entries of a device process. `set*` store words; `kick` tells the vCPU process when any changed. */
export class IrqPage {
  readonly entries: number;
  readonly #u32: Uint32Array;
  #changed = false;

  /** @param event eventfd that the fabric thread of the vCPU process waits on */
  constructor(
    buffer: ArrayBuffer,
    readonly event: number,
  ) {
    mustHold(buffer, irqPageBytes(0), 'an interrupt page');
    const header = view(IrqHeader, new Memory(buffer));
    this.entries = header.entries;
    if (header.magic !== wire.irqMagic) throw new RingError('PAGE_FORMAT', 'not an interrupt page');
    mustHold(buffer, irqPageBytes(this.entries), `an interrupt page of ${this.entries} entries`);
    this.#u32 = new Uint32Array(buffer);
  }

  #at(entry: number): number {
    if (!(entry >= 0 && entry < this.entries))
      throw new RangeError(`interrupt entry ${entry} outside 0..${this.entries - 1}`);
    return (wire.irqEntriesAt >> 2) + entry * ENTRY_WORDS;
  }

  word(entry: number): number {
    return this.#u32[this.#at(entry)]!;
  }

  /** A line: rising edges << 1 | level. */
  setLine(entry: number, word: number): void {
    const at = this.#at(entry);
    if (this.#u32[at] === word >>> 0) return;
    Atomics.store(this.#u32, at, word >>> 0);
    this.#changed = true;
  }

  /** A message: `count` were sent so far. */
  setMessage(entry: number, addressLo: number, addressHi: number, data: number, count: number): void {
    const at = this.#at(entry);
    if (this.#u32[at] === count >>> 0) return;
    this.#u32[at + 1] = data;
    this.#u32[at + 2] = addressLo;
    this.#u32[at + 3] = addressHi;
    Atomics.store(this.#u32, at, count >>> 0);
    this.#changed = true;
  }

  /** Makes the next `kick` tell, whether or not a word changes: a successor cannot know whether the last was told. */
  mustKick(): void {
    this.#changed = true;
  }

  /** One eventfd write when a word changed since the last. */
  kick(): void {
    if (!this.#changed) return;
    this.#changed = false;
    this.#u32[IrqHeader.offsetOf('kicks') >> 2]!++;
    eventfdWrite(this.event);
  }
}

export const vmPageBytes = pageUp(VmPage.bytes);

export interface VmPageOptions {
  cpus: number;
  /** UTC seconds at guest ns 0. */
  wallClock: number;
  /** Guest time is virtual (deterministic mode). */
  virtual?: boolean;
}

/** The clock stands still at 0 until the vCPU process starts it. */
export function formatVmPage(buffer: ArrayBuffer, options: VmPageOptions): void {
  mustHold(buffer, VmPage.bytes, 'the VM page');
  const page = view(VmPage, new Memory(buffer));
  page.version = wire.version;
  page.cpus = options.cpus;
  page.paused = 1;
  page.wallClock = options.wallClock;
  page.virtualTime = options.virtual ? 1 : 0;
  page.magic = wire.vmMagic;
}

export interface Clock {
  /** Guest nanoseconds. */
  now(): number;
  /** CLOCK_MONOTONIC at a guest time; Infinity while the VM is paused. */
  hostTime(guestNs: number): number;
}

/** Guest time from the VM page. */
export class GuestClock implements Clock {
  readonly page: View<typeof VmPage>;
  readonly #host: () => number;

  constructor(buffer: ArrayBuffer, host: () => number = monotonicNs) {
    mustHold(buffer, VmPage.bytes, 'the VM page');
    this.page = view(VmPage, new Memory(buffer));
    if (this.page.magic !== wire.vmMagic) throw new RingError('PAGE_FORMAT', 'not a VM page');
    this.#host = host;
  }

  /** Guest time moves by `time` exits alone: nobody may wait for it. */
  get virtual(): boolean {
    return this.page.virtualTime !== 0;
  }

  get paused(): boolean {
    return this.page.paused !== 0;
  }

  now(): number {
    const p = this.page;
    return p.paused !== 0 ? p.pausedAt : Math.max(0, this.#host() - p.clockOffset);
  }

  hostTime(guestNs: number): number {
    return this.page.paused !== 0 ? Number.POSITIVE_INFINITY : guestNs + this.page.clockOffset;
  }
}

const bitmapBytes = (pages: number): number => Math.ceil(pages / 4096 / 8) * 4096;

/** Header and bitmaps. `pages`: 4 KiB pages of guest RAM. */
export const pageMapBytes = (pages: number): number => pageUp(PageMap.bytes) + 2 * bitmapBytes(pages);

/** Of the memfd, with the page store behind them: as PageStore::Bytes in libs/native/src/cc/page_store.h. Sparse. */
export const pageMapFileBytes = (pages: number): number => {
  const slots = 2 * (pages + wire.spareSlots);
  return pageMapBytes(pages) + pageUp(8 * pages) + pageUp(4 * slots) + 4096 * slots;
};

const codeAt = pageUp(PageMap.bytes);

export function formatPageMap(buffer: ArrayBuffer, cpus: number, pages: number): void {
  mustHold(buffer, pageMapBytes(pages), `a page map of ${pages} pages`);
  const map = view(PageMap, new Memory(buffer));
  map.cpus = cpus;
  map.pages = pages;
  map.codeAt = codeAt;
  map.dirtyAt = codeAt + bitmapBytes(pages);
  map.storeAt = pageMapBytes(pages);
  map.store.at(0).base = 1;
  map.store.at(0).next = 1;
  map.magic = wire.pageMapMagic;
}

/** What the header of a page store says. */
export class PageStoreWords {
  readonly #at = PageMap.offsetOf('store') >> 2;

  /** @param words of the header of a page map */
  constructor(private readonly words: Uint32Array) {}

  /** Pages are to be saved before they are written. */
  get saving(): boolean {
    return this.words[this.#at] !== 0;
  }
  /** The checkpoint is not whole. */
  get lost(): boolean {
    return this.words[this.#at + 1] !== 0;
  }
  /** Pages that were saved since the checkpoint. */
  get saved(): number {
    const at = this.#at;
    const number = (i: number): number => this.words[at + i + 1]! * 2 ** 32 + this.words[at + i]!;
    return this.saving ? Math.max(0, number(16) - number(2)) : 0;
  }
}

/** Saves pages for the checkpoint, if there is one, before this process writes to them. */
export class SavedPages extends PageStoreWords {
  readonly #saver: PageSaver;

  /** @param pageMap memfd, and its mapping; `ram`: all of guest RAM, mapped. @throws errno of mmap, EINVAL: it is too small */
  constructor(pageMap: number, buffer: ArrayBuffer, ram: ArrayBuffer) {
    super(new Uint32Array(buffer, 0, PageMap.bytes >> 2));
    this.#saver = createPageSaver(pageMap, ram);
  }

  /** `length` bytes at offset `at` of RAM are about to be written. */
  save(at: number, length: number): void {
    this.#saver.save(at, length);
  }
}

/**
 * The parts of a page map that GuestMemory.attachPageMap takes. Its header is not looked at: every device process can
 * write to it, and one that was taken over must not hinder the others' successors.
 * @throws RingError PAGE_FORMAT when the buffer is too small for that many pages
 */
export function openPageMap(
  buffer: ArrayBuffer,
  cpus: number,
  pages: number,
): {
  code: Uint8Array;
  dirty: Uint8Array;
  attend: () => void;
} {
  mustHold(buffer, pageMapBytes(pages), `a page map of ${pages} pages`);
  const bytes = Math.ceil(pages / 8);
  const words = new Uint32Array(buffer);
  const first = PageMap.offsetOf('attention') >> 2;
  return {
    code: new Uint8Array(buffer, codeAt, bytes),
    dirty: new Uint8Array(buffer, codeAt + bitmapBytes(pages), bytes),
    attend: () => {
      for (let cpu = 0; cpu < cpus; cpu++) Atomics.or(words, first + cpu * 16, Attention.dma);
    },
  };
}
