/**
 * The in-flight region against deaths between any two stores: what `recover` finds must be exactly the chains that were
 * taken and whose used index the driver cannot see.
 */
import { describe, expect, it } from 'vitest';
import { Inflight, inflightBytes } from './inflight.ts';

const SIZE = 16;

class Killed extends Error {}

/** A region whose writer dies at its n-th store. */
function dying(buffer: ArrayBuffer, at: number) {
  let stores = 0;
  const real = DataView.prototype;
  const step = (): void => {
    if (++stores > at) throw new Killed();
  };
  const region = new Inflight(buffer, 0, SIZE);
  const patch = (on: boolean): void => {
    for (const name of ['setUint8', 'setUint16', 'setUint32'] as const) {
      const original = originals[name];
      real[name] = on
        ? function (this: DataView, ...args: [number, number, boolean?]) {
            if (this.buffer === buffer) step();
            return original.apply(this, args as never);
          }
        : original;
    }
  };
  return { region, patch, stores: () => stores };
}
const originals = {
  setUint8: DataView.prototype.setUint8,
  setUint16: DataView.prototype.setUint16,
  setUint32: DataView.prototype.setUint32,
};

describe('in-flight region', () => {
  it('is of the size that the specification gives', () => {
    expect(inflightBytes(128)).toBe(Math.ceil((16 + 128 * 16) / 64) * 64);
  });
  it('a fresh region has nothing in flight, and says version 1 afterwards', () => {
    const buffer = new ArrayBuffer(inflightBytes(SIZE));
    expect(new Inflight(buffer, 0, SIZE).recover(5)).toBeUndefined();
    const v = new DataView(buffer);
    expect([v.getUint16(8, true), v.getUint16(10, true), v.getUint16(14, true)]).toEqual([1, SIZE, 5]);
    expect(new Inflight(buffer, 0, SIZE).recover(5)).toEqual([]);
  });
  it('chains come back in the order in which they were taken', () => {
    const buffer = new ArrayBuffer(inflightBytes(SIZE));
    const region = new Inflight(buffer, 0, SIZE);
    region.recover(0);
    for (const head of [7, 3, 12, 0]) region.take(head);
    region.finish(3);
    region.shown(1);
    expect(new Inflight(buffer, 0, SIZE).recover(1)).toEqual([7, 12, 0]);
  });
  it('death at every store: exactly what was taken and is not shown comes back', () => {
    for (let at = 0; ; at++) {
      const buffer = new ArrayBuffer(inflightBytes(SIZE));
      new Inflight(buffer, 0, SIZE).recover(0xfffe);
      const { region, patch } = dying(buffer, at);
      region.recover(0xfffe);
      /** What the driver sees, and what it may count on. */
      let usedIdx = 0xfffe;
      const taken: number[] = [];
      let taking = -1;
      const shown = new Set<number>();
      let died = false;
      patch(true);
      try {
        const batches = [[5, 2], [9], [2, 14, 5]];
        for (const batch of batches) {
          for (const head of batch) {
            taking = head;
            region.take(head);
            taken.push(head);
            shown.delete(head);
            taking = -1;
          }
          const order = [...batch].reverse();
          for (const head of order) region.finish(head);
          // The one store that the driver sees.
          usedIdx = (usedIdx + batch.length) & 0xffff;
          for (const head of order) shown.add(head);
          region.shown(usedIdx);
        }
      } catch (e) {
        if (!(e instanceof Killed)) throw e;
        died = true;
      } finally {
        patch(false);
      }
      const open = taken.filter((head, i) => !shown.has(head) && taken.lastIndexOf(head) === i);
      const found = new Inflight(buffer, 0, SIZE).recover(usedIdx)!;
      // A chain whose taking was cut short is either there or not; nothing was done for it yet.
      expect(found.filter((h) => h !== taking || open.includes(h))).toEqual(open);
      if (!died) break;
      expect(at).toBeLessThan(500);
    }
  });
  it('a region full of nonsense gives heads that exist, once each', () => {
    const buffer = new ArrayBuffer(inflightBytes(SIZE));
    new Uint8Array(buffer).fill(1);
    const heads = new Inflight(buffer, 0, SIZE).recover(3)!;
    expect(new Set(heads).size).toBe(heads.length);
    expect(heads.every((h) => h < SIZE)).toBe(true);
  });
});
