/**
 * The process dies, the power fails, or the host gives an error, at every step of the same work, for images of any format.
 * A process that died costs nothing: what was acknowledged is there, the image has no error and no leak. A power failure
 * may cost what was not flushed, and leaks, but no error.
 */
import { describe, expect, it } from 'vitest';
import { type BlockDriver, BlockOp, type BlockRequest, type Completed } from '../block.ts';
import { Died, FakeHost } from './fakehost.ts';
import { Rig, random } from './rig.ts';

/** Room for some hundred records. */
const JOURNAL = 32768;
/** Descriptors of the image, and of what is under it. */
export const TOP = 3;
export const BACKING = 4;

export interface Variant {
  /** Bytes of the disk, and those that a file may have. */
  size: number;
  room: number;
  /** Of work; default 10. */
  rounds?: number;
  /** Value of each byte that was never written: of what is under it. */
  below?: number;
  /** Makes the files. */
  create(host: FakeHost): void;
  open(host: FakeHost, journal: ArrayBuffer, memory: ArrayBuffer, completed: Completed): BlockDriver;
  /** A snapshot that shares all the data. */
  snapshot?(host: FakeHost): void;
  /** @throws when there is an error. @returns leaks */
  check(host: FakeHost): number;
}

class World {
  readonly host: FakeHost;
  journal = new ArrayBuffer(JOURNAL);
  rig = new Rig(512 << 10);
  /** Values that each sector may have: the last is the newest. After a flush or an acknowledged write it is one. */
  readonly may: number[][];
  /** Values since the last flush: what a power failure may bring back. */
  readonly sinceFlush: number[][];
  readonly sectors: number;
  frozen = new ArrayBuffer(JOURNAL);
  readonly #rand: (n: number) => number;

  constructor(
    readonly v: Variant,
    seed: number,
  ) {
    this.#rand = random(seed);
    this.sectors = v.size / 512;
    this.may = Array.from({ length: this.sectors }, () => [v.below ?? 0]);
    this.sinceFlush = Array.from({ length: this.sectors }, () => [v.below ?? 0]);
    this.host = new FakeHost(random(seed + 1), v.room);
    v.create(this.host);
    this.host.onDeath = () => {
      this.frozen = this.journal.slice(0);
      // Nothing of the dead process runs any more.
      if (this.rig.disk) this.rig.disk.poll = () => {};
    };
    this.open();
    if (v.snapshot) {
      this.fill();
      this.rig.disk.close();
      v.snapshot(this.host);
      this.open();
    }
    this.host.steps = 0;
  }

  fill(): void {
    for (let s = 0; s < this.sectors; s += 24) this.write(s, 24, 9);
    this.rig.run(this.rig.request(BlockOp.flush, 0, 0, 0));
    this.flushed();
  }

  open(): void {
    this.rig = new Rig(512 << 10);
    this.rig.open((memory, completed) => this.v.open(this.host, this.journal, memory, completed));
  }

  write(sector: number, n: number, value: number): void {
    this.rig.bytes.fill(value, 0, n * 512);
    this.rig.run(this.rig.request(BlockOp.write, sector * 512, n * 512, 0));
    for (let s = sector; s < sector + n; s++) {
      this.may[s] = [value];
      this.sinceFlush[s]!.push(value);
    }
  }

  flushed(): void {
    for (let s = 0; s < this.sectors; s++) this.sinceFlush[s] = [this.may[s]!.at(-1)!];
  }

  /** The same work for the same seed, up to a death. True when it came to its end. */
  work(rounds: number): boolean {
    const rand = this.#rand;
    try {
      for (let round = 0; round < rounds; round++) {
        const list: BlockRequest[] = [];
        const effects: [first: number, n: number, value: number][] = [];
        const busy = new Set<number>();
        for (let i = 0; i < 1 + rand(5); i++) {
          const n = 1 + rand(rand(3) === 0 ? 40 : 6);
          const first = rand(this.sectors - n);
          const value = 1 + rand(255);
          const op = [BlockOp.write, BlockOp.write, BlockOp.write, BlockOp.writeZeroes, BlockOp.read][
            rand(5)
          ]!;
          const unmap = rand(2) === 0;
          if (Array.from({ length: n }, (_, k) => first + k).some((s) => busy.has(s))) continue;
          for (let s = first; s < first + n; s++) busy.add(s);
          this.rig.bytes.fill(value, i * 65536, i * 65536 + n * 512);
          const r = this.rig.request(op, first * 512, n * 512, i * 65536);
          r.unmap = unmap;
          list.push(r);
          if (op === BlockOp.read) continue;
          effects.push([first, n, op === BlockOp.write ? value : 0]);
        }
        for (const [first, n, value] of effects)
          for (let s = first; s < first + n; s++) {
            this.may[s]!.push(value);
            this.sinceFlush[s]!.push(value);
          }
        const results = this.rig.run(...list);
        // A request that failed may have been done in part.
        if (results.every((x) => x === 0))
          for (const [first, n] of effects)
            for (let s = first; s < first + n; s++) this.may[s] = [this.may[s]!.at(-1)!];
        if (rand(3) === 0) {
          const [result] = this.rig.run(this.rig.request(BlockOp.flush, 0, 0, 0));
          if (result === 0) this.flushed();
        }
      }
      this.rig.disk.close();
      this.flushed();
      return true;
    } catch (e) {
      if (!(e instanceof Died)) throw e;
      this.journal = this.frozen;
      return false;
    }
  }

  /** What the disk holds, against what it may hold. */
  verify(may: number[][]): void {
    const content = this.rig.all();
    for (let s = 0; s < this.sectors; s++) {
      const value = content[s * 512]!;
      const whole = content.subarray(s * 512, s * 512 + 512).every((x) => x === value);
      if (!whole || !may[s]!.includes(value))
        throw new Error(`sector ${s} holds ${whole ? value : 'a mixture'}, expected ${may[s]!.join(' or ')}`);
    }
  }

  checked(): number {
    return this.v.check(this.host);
  }
}

/** @param stride every so many steps of a work of more than 200 */
export function deathAtEveryStep(format: string, variants: [string, Variant][], stride = 3): void {
  describe(`${format}: death at every step`, () => {
    it.each(variants)('process: %s', { timeout: 60_000 }, (_name, v) => {
      const whole = new World(v, 5);
      expect(whole.work(v.rounds ?? 10)).toBe(true);
      const { steps } = whole.host;
      expect(steps).toBeGreaterThan(50);
      expect(whole.checked()).toBe(0);
      for (let n = 1; n <= steps; n += steps > 200 || stride > 3 ? stride : 1) {
        const w = new World(v, 5);
        w.host.dieAt = n;
        try {
          if (w.work(v.rounds ?? 10)) continue;
          w.host.revive();
          w.open();
          w.verify(w.may);
          // And it can go on.
          w.write(n % 100, 20, 77);
          w.rig.disk.close();
          expect(w.checked()).toBe(0);
        } catch (e) {
          throw new Error(`death at step ${n} of ${steps}: ${(e as Error).message}`, { cause: e });
        }
      }
    });
    it.each(variants)('process, and its successor while it recovers: %s', { timeout: 60_000 }, (_name, v) => {
      for (let seed = 20; seed < 35; seed++) {
        const w = new World(v, seed);
        const rand = random(seed);
        w.host.dieAt = 20 + rand(150);
        if (w.work(v.rounds ?? 10)) continue;
        for (let tries = 0; ; tries++) {
          w.host.revive();
          w.host.dieAt = tries > 20 ? 0 : w.host.steps + 1 + rand(8);
          try {
            w.open();
            w.verify(w.may);
            w.rig.disk.close();
            break;
          } catch (e) {
            if (!(e instanceof Died)) throw new Error(`seed ${seed}: ${(e as Error).message}`, { cause: e });
            // The journal as it was then.
            w.journal = w.frozen;
          }
        }
        expect(w.checked(), `seed ${seed}`).toBe(0);
      }
    });
    it.each(variants)('power: %s', { timeout: 60_000 }, (_name, v) => {
      // Every third: each is a world of its own.
      const whole = new World(v, 6);
      whole.work(v.rounds ?? 10);
      const { steps } = whole.host;
      for (let n = 1; n <= steps; n += stride) {
        const w = new World(v, 6);
        w.host.dieAt = n;
        try {
          if (w.work(v.rounds ?? 10)) continue;
          w.host.powerLoss();
          w.journal = new ArrayBuffer(JOURNAL);
          w.checked();
          w.open();
          w.verify(w.sinceFlush);
          w.rig.disk.close();
          w.checked();
        } catch (e) {
          throw new Error(`power lost at step ${n} of ${steps}: ${(e as Error).message}`, { cause: e });
        }
      }
    });
    it.each(variants)('an error of the host: %s', { timeout: 60_000 }, (_name, v) => {
      const whole = new World(v, 7);
      whole.work(v.rounds ?? 10);
      const { steps } = whole.host;
      for (let n = 1; n <= steps; n += stride) {
        const w = new World(v, 7);
        w.host.failAt = n;
        try {
          w.work(v.rounds ?? 10);
          w.checked();
          w.journal = new ArrayBuffer(JOURNAL);
          w.open();
          w.rig.disk.close();
        } catch (e) {
          throw new Error(`error at step ${n} of ${steps}: ${(e as Error).message}`, { cause: e });
        }
      }
    });
  });
}
