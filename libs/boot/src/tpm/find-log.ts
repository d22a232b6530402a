/** Where the event log of a running guest lies: as its tables say, which firmware or our loader has put into its memory. */
import { le } from '../acpi/aml.ts';

/** Octets of guest memory below 4 GiB; fewer where there is no more. */
export type ReadMemory = (address: number, length: number) => Uint8Array;

const most = { table: 1 << 16, log: 1 << 20 } as const;
const RSDP = Uint8Array.from('RSD PTR ', (c) => c.charCodeAt(0));

const isAt = (b: Uint8Array, at: number, what: Uint8Array): boolean => what.every((x, i) => b[at + i] === x);
const number = (b: Uint8Array, at: number, bytes: number): number => {
  let n = 0;
  for (let i = bytes - 1; i >= 0; i--) n = n * 256 + (b[at + i] ?? 0);
  return n;
};

/** The log area, or undefined where no TPM2 table names one. The tables are the guest's: nothing of them is believed. */
export function findLog(read: ReadMemory): { address: number; bytes: number } | undefined {
  const area = read(0xe_0000, 0x2_0000);
  for (let at = 0; at + 36 <= area.length; at += 16) {
    if (!isAt(area, at, RSDP)) continue;
    const [entryBytes, root] =
      area[at + 15]! >= 2 ? [8, number(area, at + 24, 8)] : [4, number(area, at + 16, 4)];
    const length = Math.min(number(read(root, 8), 4, 4), most.table);
    const table = read(root, length);
    for (let e = 36; e + entryBytes <= table.length; e += entryBytes) {
      const address = number(table, e, entryBytes);
      const tpm2 = read(address, 76);
      if (tpm2.length < 76 || !isAt(tpm2, 0, Uint8Array.from(le(0x324d5054, 4)))) continue;
      if (number(tpm2, 4, 4) < 76) continue;
      const log = { address: number(tpm2, 68, 8), bytes: Math.min(number(tpm2, 64, 4), most.log) };
      return log.address > 0 && log.bytes > 0 ? log : undefined;
    }
  }
  return undefined;
}
