/** Comparison of octet strings as numbers, for PolicyNV and PolicyCounterTimer (part 2, 6.8). */
import { EO } from '../spec/constants.ts';

function compareSigned(a: Buffer, b: Buffer): number {
  const negative = (x: Buffer) => x.length > 0 && (x[0]! & 0x80) !== 0;
  if (negative(a) !== negative(b)) return negative(a) ? -1 : 1;
  return Buffer.compare(a, b);
}

/** `a` is what the TPM has, `b` the operand, of equal length. */
export function holds(operation: number, a: Buffer, b: Buffer): boolean {
  const unsigned = () => Buffer.compare(a, b);
  const signed = () => compareSigned(a, b);
  switch (operation) {
    case EO.EQ:
      return unsigned() === 0;
    case EO.NEQ:
      return unsigned() !== 0;
    case EO.SIGNED_GT:
      return signed() > 0;
    case EO.UNSIGNED_GT:
      return unsigned() > 0;
    case EO.SIGNED_LT:
      return signed() < 0;
    case EO.UNSIGNED_LT:
      return unsigned() < 0;
    case EO.SIGNED_GE:
      return signed() >= 0;
    case EO.UNSIGNED_GE:
      return unsigned() >= 0;
    case EO.SIGNED_LE:
      return signed() <= 0;
    case EO.UNSIGNED_LE:
      return unsigned() <= 0;
    case EO.BITSET:
      return b.every((v, i) => (a[i]! & v) === v);
    default:
      return b.every((v, i) => (a[i]! & v) === 0);
  }
}
