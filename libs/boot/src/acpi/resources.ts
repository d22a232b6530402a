/** Resource descriptors (ACPI specification 6.4, section 6.4) and the template that holds them. */
import { type Aml, buffer, cat, le } from './aml.ts';

/** Buffer of descriptors with its end tag (checksum 0: none). */
export const resources = (...descriptors: Aml[]): Aml => buffer(cat(...descriptors, [0x79, 0x00]));

/** IO(Decode16, base, base, 1, length) */
export const io = (base: number, length: number): Aml =>
  cat([0x47, 1], le(base, 2), le(base, 2), [1, length]);
/** IRQNoFlags: edge, active high. */
export const irq = (n: number): Aml => cat([0x22], le(1 << n, 2));
/** Memory32Fixed(ReadWrite, base, length) */
export const memory32 = (base: number, length: number): Aml =>
  cat([0x86], le(9, 2), [1], le(base, 4), le(length, 4));

const BUS = 2;
const IO = 1;
const MEMORY = 0;
/** General flags: minimum and maximum fixed, positive decode, producer. */
const FIXED = 0x0c;
const WORD = { tag: 0x88, bytes: 2 };
const DWORD = { tag: 0x87, bytes: 4 };
const QWORD = { tag: 0x8a, bytes: 8 };

const window = (size: typeof WORD, type: number, typeFlags: number, first: number, last: number): Aml =>
  cat(
    [size.tag],
    le(3 + 5 * size.bytes, 2),
    [type, FIXED, typeFlags],
    le(0, size.bytes),
    le(first, size.bytes),
    le(last, size.bytes),
    le(0, size.bytes),
    le(last - first + 1, size.bytes),
  );

export const busWindow = (first: number, last: number): Aml => window(WORD, BUS, 0, first, last);
/** Type flags 3: the entire range, ISA and not. */
export const ioWindow = (first: number, last: number): Aml => window(WORD, IO, 3, first, last);
/** Type flags: read-write; bits 2:1 = 1: cacheable. */
export const memoryWindow32 = (first: number, last: number, isCacheable = false): Aml =>
  window(DWORD, MEMORY, isCacheable ? 3 : 1, first, last);
export const memoryWindow64 = (first: number, last: number): Aml => window(QWORD, MEMORY, 3, first, last);
