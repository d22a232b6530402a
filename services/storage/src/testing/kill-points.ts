/** What every controller of disks is put through: its process dies at each step, again and again, and after every event. */
import { expect, it } from 'vitest';
import { random } from '../block/testing/rig.ts';

/** A driver on a bench, which says what is wrong by throwing. */
export interface Killable {
  readonly bench: { readonly rig: { dieAt: number[]; steps: number; deaths: number; amnesia: boolean } };
  /** So many requests, to their end. */
  work(total: number): void;
}

const patience = { timeout: 180_000 };

/**
 * @param make a driver at its start
 * @param share of the deaths at every step that happen at least: some runs are over, or only begin, at their step
 */
export function killPoints(name: string, make: (seed: number) => Killable, share: number): void {
  it(`death at every step: ${name}`, patience, () => {
    const undisturbed = make(1);
    undisturbed.work(10);
    const { steps } = undisturbed.bench.rig;
    expect(steps).toBeGreaterThan(150);
    let deaths = 0;
    for (let n = 1; n <= steps; n++) {
      const driver = make(1);
      driver.bench.rig.dieAt = [n];
      try {
        driver.work(10);
      } catch (e) {
        throw new Error(`death at step ${n} of ${steps}: ${(e as Error).message}`, { cause: e });
      }
      deaths += driver.bench.rig.deaths;
    }
    expect(deaths).toBeGreaterThan(steps * share);
  });
  it(`deaths again and again, other orders: ${name}`, patience, () => {
    for (let seed = 2; seed < 32; seed++) {
      const driver = make(seed);
      const rand = random(seed * 7919);
      let { steps: at } = driver.bench.rig;
      driver.bench.rig.dieAt = Array.from({ length: 40 }, () => {
        at += 1 + rand(60);
        return at;
      });
      try {
        driver.work(24);
      } catch (e) {
        throw new Error(`seed ${seed}: ${(e as Error).message}`, { cause: e });
      }
      expect(driver.bench.rig.deaths).toBeGreaterThan(3);
    }
  });
  it(`amnesia: a new process after every access and every completion: ${name}`, patience, () => {
    const driver = make(3);
    driver.bench.rig.amnesia = true;
    driver.work(60);
    expect(driver.bench.rig.deaths).toBeGreaterThan(60);
  });
}

/** Blocks of 4 KiB that a disk holds must be what was acknowledged. @param model a byte of each; undefined: it may be either */
export function holdsModel(content: Uint8Array, model: readonly (number | undefined)[]): void {
  for (const [i, want] of model.entries())
    if (want !== undefined && !content.subarray(i * 4096, i * 4096 + 4096).every((x) => x === want))
      throw new Error(`block ${i} at the end`);
}
