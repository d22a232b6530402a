/** Platform configuration registers (part 1, 17): attributes as a PC client platform has them, banks, selections. */

import { hash, hashInto } from '../crypto/hash.ts';
import { digestSize, hashes } from '../spec/algorithms.ts';
import { LIMIT } from '../spec/constants.ts';
import type { PcrSelection } from '../spec/types.ts';

interface PcrAttributes {
  /** Kept by Shutdown(STATE). */
  save: boolean;
  /** Localities, as bits, that may reset and extend. */
  reset: number;
  extend: number;
  /** Changing it does not change the update counter: no policy is about it. */
  noIncrement: boolean;
}
const attributes = (save: boolean, reset: number, extend: number, noIncrement = false) => ({
  save,
  reset,
  extend,
  noIncrement,
});
/** PC Client Platform TPM Profile 1.05, 4.6. */
const dynamic: Record<number, PcrAttributes> = {
  16: attributes(false, 0x0f, 0x1f, true),
  17: attributes(false, 0x10, 0x1c),
  18: attributes(false, 0x10, 0x1c),
  19: attributes(false, 0x10, 0x0c),
  20: attributes(false, 0x14, 0x0e),
  21: attributes(false, 0x14, 0x04, true),
  22: attributes(false, 0x14, 0x04, true),
  23: attributes(false, 0x0f, 0x1f, true),
};
const table: readonly PcrAttributes[] = Array.from(
  { length: LIMIT.pcrs },
  (_, i) => dynamic[i] ?? attributes(true, 0, 0x1f),
);
export const pcrAttributes = (pcr: number): PcrAttributes => table[pcr]!;

const none = () => Buffer.alloc(LIMIT.pcrSelectBytes);
const all = () => Buffer.alloc(LIMIT.pcrSelectBytes, 0xff);
export const selects = (s: PcrSelection, pcr: number): boolean =>
  ((s.pcrSelect[pcr >> 3]! >> (pcr & 7)) & 1) === 1;

export const defaultAllocation = (): PcrSelection[] =>
  hashes.map(({ alg }) => ({ hash: alg, pcrSelect: all() }));

export class PcrBanks {
  /** By algorithm: the values, undefined where the bank has no such PCR. */
  readonly banks = new Map<number, (Buffer | undefined)[]>();
  allocation: PcrSelection[] = [];

  constructor(allocation: PcrSelection[]) {
    this.allocate(allocation);
  }

  allocate(allocation: PcrSelection[]): void {
    this.allocation = allocation;
    this.banks.clear();
    for (const s of allocation) {
      const values = table.map((_, i) => (selects(s, i) ? Buffer.alloc(digestSize(s.hash)) : undefined));
      if (values.some((v) => v)) this.banks.set(s.hash, values);
    }
  }

  /** Takes values that were saved, in the order of the allocation. False: they do not fit it. */
  load(allocation: PcrSelection[], saved: readonly Buffer[]): boolean {
    const next = new PcrBanks(allocation);
    const values = allocation.flatMap((s) => next.banks.get(s.hash)?.filter((v) => v !== undefined) ?? []);
    if (values.length !== saved.length || values.some((v, i) => v.length !== saved[i]!.length)) return false;
    values.forEach((v, i) => void saved[i]!.copy(v));
    this.allocation = allocation;
    this.banks.clear();
    for (const [alg, v] of next.banks) this.banks.set(alg, v);
    return true;
  }

  get(alg: number, pcr: number): Buffer | undefined {
    return this.banks.get(alg)?.[pcr];
  }
  set(pcr: number, fill: number): void {
    for (const values of this.banks.values()) values[pcr]?.fill(fill);
  }
  extend(alg: number, pcr: number, digest: Uint8Array): boolean {
    const value = this.banks.get(alg)?.[pcr];
    if (!value) return false;
    hashInto(value, alg, value, digest);
    return true;
  }

  /** The selection without what is not there (part 3, 22.4). */
  filter(selection: readonly PcrSelection[]): PcrSelection[] {
    return selection.map((s) => {
      const pcrSelect = none();
      for (let i = 0; i < LIMIT.pcrs; i++) {
        if (selects(s, i) && this.get(s.hash, i)) pcrSelect[i >> 3]! |= 1 << (i & 7);
      }
      return { hash: s.hash, pcrSelect };
    });
  }

  /** Values in the order of the selection. */
  *values(selection: readonly PcrSelection[]): Generator<Buffer> {
    for (const s of selection) {
      for (let i = 0; i < LIMIT.pcrs; i++) {
        const v = selects(s, i) ? this.get(s.hash, i) : undefined;
        if (v) yield v;
      }
    }
  }
  digest(alg: number, selection: readonly PcrSelection[]): Buffer {
    return hash(alg, ...this.values(selection));
  }
}
