import { Memory, view } from '@nyx/layout';
import { eventfd, eventfdRead } from '@nyx/native';
import { expect, test } from 'vitest';
import {
  formatIrqPage,
  formatPageMap,
  formatVmPage,
  GuestClock,
  IrqPage,
  irqPageBytes,
  openPageMap,
  pageMapBytes,
  vmPageBytes,
} from './pages.ts';
import { Attention, IrqEntry, PageMap, VmPage, wire } from './wire.ts';

const coded = (code: string) => expect.objectContaining({ code });

const irqPage = (entries: number) => {
  const buffer = new ArrayBuffer(irqPageBytes(entries));
  formatIrqPage(buffer, entries);
  const event = eventfd();
  const entry = (i: number) => view(IrqEntry, new Memory(buffer), wire.irqEntriesAt + i * IrqEntry.bytes);
  return { page: new IrqPage(buffer, event), event, entry, buffer };
};

test('interrupt words are published, and told once', () => {
  const { page, event, entry } = irqPage(3);
  page.setLine(1, 3);
  page.setMessage(2, 0xfee00000, 1, 0x41, 9);
  page.kick();
  page.kick();
  expect(eventfdRead(event)).toBe(1);
  expect(entry(1).word).toBe(3);
  expect(entry(2)).toMatchObject({ word: 9, data: 0x41, addressLo: 0xfee00000, addressHi: 1 });
});

test('publishing the same words again tells nothing; a successor may insist', () => {
  const { page, event } = irqPage(2);
  page.setLine(0, 2);
  page.kick();
  eventfdRead(event);
  page.setLine(0, 2);
  page.setMessage(1, 1, 1, 1, 0);
  page.kick();
  expect(eventfdRead(event)).toBe(0);
  page.mustKick();
  page.kick();
  expect(eventfdRead(event)).toBe(1);
});

test('a process can name only its own entries', () => {
  const { page, buffer } = irqPage(2);
  expect(() => page.setLine(2, 1)).toThrow(RangeError);
  expect(() => page.setMessage(-1, 0, 0, 0, 1)).toThrow(RangeError);
  new Uint32Array(buffer)[1] = 1_000_000;
  expect(() => new IrqPage(buffer, 0)).toThrow(coded('PAGE_FORMAT'));
  expect(() => new IrqPage(new ArrayBuffer(8192), 0)).toThrow(coded('PAGE_FORMAT'));
});

test('guest time is host time less the offset, and stands still while paused', () => {
  const buffer = new ArrayBuffer(vmPageBytes);
  formatVmPage(buffer, { cpus: 2, wallClock: 1_700_000_000 });
  let host = 5e12;
  const clock = new GuestClock(buffer, () => host);
  expect(clock.now()).toBe(0);
  expect(clock.hostTime(10)).toBe(Number.POSITIVE_INFINITY);
  const page = view(VmPage, new Memory(buffer));
  page.clockOffset = 5e12;
  page.paused = 0;
  host += 1234;
  expect(clock.now()).toBe(1234);
  expect(clock.hostTime(2000)).toBe(5e12 + 2000);
  page.pausedAt = 1234;
  page.paused = 1;
  host += 1e9;
  expect(clock.now()).toBe(1234);
  expect(clock.paused).toBe(true);
});

test('the page map has a bit for each page, and attention for each vCPU', () => {
  const pages = 131_072 + 5;
  const buffer = new ArrayBuffer(pageMapBytes(pages));
  formatPageMap(buffer, 3, pages);
  const { code, dirty, attend } = openPageMap(buffer, 3, pages);
  expect(code.length).toBe(Math.ceil(pages / 8));
  expect(dirty.length).toBe(code.length);
  expect(dirty.byteOffset).toBeGreaterThanOrEqual(code.byteOffset + code.length);
  attend();
  const map = view(PageMap, new Memory(buffer));
  expect([0, 1, 2, 3].map((i) => map.attention.at(i).word)).toEqual([
    Attention.dma,
    Attention.dma,
    Attention.dma,
    0,
  ]);
  expect([code.byteOffset, dirty.byteOffset]).toEqual([map.codeAt, map.dirtyAt]);
  // What another device process wrote over the header changes nothing.
  new Uint8Array(buffer, 0, 64).fill(0xff);
  expect(openPageMap(buffer, 3, pages)).toMatchObject({
    code: { byteOffset: code.byteOffset, length: code.length },
  });
  expect(() => openPageMap(buffer, 3, pages * 2)).toThrow(coded('PAGE_FORMAT'));
});
