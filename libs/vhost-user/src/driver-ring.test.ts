/** The driver's side of a ring, against the device's side of the kit and against back-ends that break the rules. */
import { Chain, QueueState, testMemory, Virtqueue } from '@nyx/device';
import { Memory, resetValues, view } from '@nyx/layout';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DriverRing, ringLayout } from './driver-ring.ts';

const SIZE = 16;
const layout = ringLayout(SIZE);
const TABLES = layout.bytes;

function make() {
  const memory = testMemory(0x20000);
  const ring = new DriverRing(memory.buffer, 0, SIZE, 0);
  const state = new Memory(new ArrayBuffer(QueueState.bytes));
  resetValues(QueueState, state, 0);
  const queue = new Virtqueue(0, SIZE, view(QueueState, state), memory);
  queue.state.size = SIZE;
  queue.state.desc = layout.desc;
  queue.state.driver = layout.avail;
  queue.state.device = layout.used;
  if (!queue.map()) throw new Error('not mapped');
  /** A table of `count` descriptors for a slot: the last is writable. */
  const table = (slot: number, count: number): number => {
    const at = TABLES + slot * 0x100;
    for (let i = 0; i < count; i++) {
      memory.view.setUint32(at + 16 * i, 0x10000 + 64 * slot, true);
      memory.view.setUint32(at + 16 * i + 4, 0, true);
      memory.view.setUint32(at + 16 * i + 8, 8 + i, true);
      memory.view.setUint16(at + 16 * i + 12, (i + 1 === count ? 2 : 0) | (i + 1 < count ? 1 : 0), true);
      memory.view.setUint16(at + 16 * i + 14, i + 1 < count ? i + 1 : 0, true);
    }
    return at;
  };
  return { memory, ring, queue, chain: new Chain(memory), table };
}

describe('driver ring', () => {
  it.each([true, false])('chains arrive as they were offered, in order; indirect: %s', (indirect) => {
    const { ring, queue, chain, table } = make();
    for (let turn = 0; turn < 40; turn++) {
      const counts = [2, 4, 1 + (turn % 3)];
      for (const [slot, n] of counts.entries())
        expect(ring.add(slot, table(slot, n), n, indirect)).toBe(true);
      expect(ring.publish(false)).toBe(true);
      for (const n of counts) {
        const head = queue.next();
        expect(chain.read(queue, head, true)).toBe(true);
        expect([chain.count, chain.writableBytes]).toEqual([n, 8 + n - 1]);
        queue.push(head, n);
      }
      expect(queue.next()).toBe(-1);
      queue.settle(false);
      const done: number[][] = [];
      expect(ring.harvest((slot, length) => done.push([slot, length]))).toBe(true);
      expect(done).toEqual(counts.map((n, slot) => [slot, n]));
    }
  });
  it('a ring without room says so, and has room again when chains come back', () => {
    const { ring, queue, chain, table } = make();
    expect([0, 1, 2].map((slot) => ring.add(slot, table(slot, 5), 5, false))).toEqual([true, true, true]);
    expect(ring.add(3, table(3, 2), 2, false)).toBe(false);
    expect(ring.add(3, table(3, 9), 9, true)).toBe(true);
    ring.publish(false);
    const head = queue.next();
    expect(chain.read(queue, head, false)).toBe(true);
    queue.push(head, 0);
    queue.settle(false);
    expect(ring.harvest(() => {})).toBe(true);
    expect(ring.add(4, table(4, 5), 5, false)).toBe(true);
  });
  it('kicks by the event index: only when the back-end asked', () => {
    const { ring, queue, table } = make();
    queue.listen(true);
    ring.add(0, table(0, 1), 1, true);
    expect(ring.publish(true)).toBe(true);
    ring.add(1, table(1, 1), 1, true);
    expect(ring.publish(true)).toBe(false);
    expect([queue.next() >= 0, queue.next() >= 0]).toEqual([true, true]);
    queue.listen(true);
    ring.add(2, table(2, 1), 1, true);
    expect(ring.publish(true)).toBe(true);
  });
  it('used elements that were never offered, or twice, or too many: refused', () => {
    const used = (heads: number[], idx: number) => {
      const { memory, ring, table } = make();
      ring.add(5, table(5, 1), 1, true);
      ring.publish(false);
      heads.forEach((h, i) => {
        memory.view.setUint32(layout.used + 4 + 8 * i, h, true);
      });
      memory.view.setUint16(layout.used + 2, idx, true);
      const slots: number[] = [];
      return [ring.harvest((slot) => slots.push(slot)), slots];
    };
    const { ring, queue, table } = make();
    ring.add(5, table(5, 1), 1, true);
    ring.publish(false);
    const head = queue.next();
    expect(used([head], 1)).toEqual([true, [5]]);
    expect(used([head, head], 2)).toEqual([false, [5]]);
    expect(used([head + 1], 1)).toEqual([false, []]);
    expect(used([0xffffffff], 1)).toEqual([false, []]);
    expect(used([head], 17)[0]).toBe(false);
  });
  it('whatever a back-end writes into the ring: no slot comes back twice, nothing is thrown', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(layout.bytes - 1), fc.nat(255)), { maxLength: 60 }), (writes) => {
        const { memory, ring, table } = make();
        const open = new Set<number>();
        for (let slot = 0; slot < 4; slot++)
          if (ring.add(slot, table(slot, 3), 3, slot % 2 === 0)) open.add(slot);
        ring.publish(true);
        for (const [at, value] of writes) memory.view.setUint8(at, value);
        ring.harvest((slot) => {
          expect(open.delete(slot)).toBe(true);
        });
        for (let slot = 4; slot < 8; slot++) ring.add(slot, table(slot, 2), 2, false);
        ring.publish(false);
      }),
      { numRuns: 500 },
    );
  });
});
