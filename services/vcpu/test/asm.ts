/** 16-bit guest programs by hand: bytes of the few instructions that the tests use. */
const w = (n: number): number[] => [n & 0xff, (n >> 8) & 0xff];

export const movAx = (n: number): number[] => [0xb8, ...w(n)];
export const movCx = (n: number): number[] => [0xb9, ...w(n)];
export const movDx = (n: number): number[] => [0xba, ...w(n)];
export const movBx = (n: number): number[] => [0xbb, ...w(n)];
export const movSi = (n: number): number[] => [0xbe, ...w(n)];
export const movDi = (n: number): number[] => [0xbf, ...w(n)];
export const movSp = (n: number): number[] => [0xbc, ...w(n)];
export const outDxAx = [0xef];
export const outDxAl = [0xee];
export const inAxDx = [0xed];
export const inAlDx = [0xec];
export const outDxEax = [0x66, 0xef];
export const inEaxDx = [0x66, 0xed];
export const movEax = (n: number): number[] => [0x66, 0xb8, ...w(n), ...w(n >>> 16)];
export const addBxCx = [0x01, 0xcb];
export const movAxCx = [0x89, 0xc8];
export const movAxBx = [0x89, 0xd8];
export const cmpAxBx = [0x39, 0xd8];
export const xorAxAx = [0x31, 0xc0];
export const movDsAx = [0x8e, 0xd8];
export const movEsAx = [0x8e, 0xc0];
export const movSsAx = [0x8e, 0xd0];
export const repOutsw = [0xf3, 0x6f];
export const repInsw = [0xf3, 0x6d];
export const cld = [0xfc];
export const sti = [0xfb];
export const hlt = [0xf4];
export const jmpSelf = [0xeb, 0xfe];
export const cs = [0x2e];
export const iret = [0xcf];

/** `body`, then `loop` back to its start (cx turns). */
export const loop = (body: number[]): number[] => [...body, 0xe2, -(body.length + 2) & 0xff];
/** Skips `body` when equal. */
export const unlessEqual = (body: number[]): number[] => [0x74, body.length, ...body];
/** mov word [at], value */
export const store = (at: number, value: number): number[] => [0xc7, 0x06, ...w(at), ...w(value)];

export const out16 = (port: number, value: number): number[] => [...movDx(port), ...movAx(value), ...outDxAx];
export const code = (...parts: number[][]): Uint8Array => Uint8Array.from(parts.flat());
