/**
 * A guest that measures itself: a 32-bit program for the PVH boot protocol (ELF, entry by note), assembled here. It
 * times device accesses with RDTSC into its own memory, which the host reads through the supervisor's descriptor.
 */
import { openSync, readdirSync, readlinkSync, readSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

const base = 0x10_0000;
/** Guest-physical addresses. */
export const layout = {
  base,
  flag: 0x20_0000,
  ticks: 0x20_0004,
  total: 0x20_0010,
  samples: 0x40_0000,
} as const;

const u32 = (n: number): number[] => [n & 0xff, (n >>> 8) & 0xff, (n >>> 16) & 0xff, n >>> 24];
const movEcx = (n: number): number[] => [0xb9, ...u32(n)];
const movEdi = (n: number): number[] => [0xbf, ...u32(n)];
const movEdx = (n: number): number[] => [0xba, ...u32(n)];
const movEax = (n: number): number[] => [0xb8, ...u32(n)];
const rdtsc = [0x0f, 0x31];
/** mov [at], eax */
const storeEax = (at: number): number[] => [0xa3, ...u32(at)];
const movEbxEax = [0x89, 0xc3];
const subEaxEbx = [0x29, 0xd8];
const stosd = [0xab];
const loop = (body: number[]): number[] => {
  const back = -(body.length + 1 + 6);
  // dec ecx; jnz body
  return [...body, 0x49, 0x0f, 0x85, ...u32(back)];
};

/** One access of a device; may use eax and edx. */
export const access = {
  nothing: [] as number[],
  in8: (port: number): number[] => [...movEdx(port), 0xec],
  in32: (port: number): number[] => [...movEdx(port), 0xed],
  out8: (port: number, value: number): number[] => [...movEdx(port), ...movEax(value), 0xee],
  out32: (port: number, value: number): number[] => [...movEdx(port), ...movEax(value), 0xef],
};

export interface Part {
  code: number[];
  /** Accesses that are timed. */
  count: number;
  /** Accesses before that. */
  warm?: number;
  /** Cycles of the guest's TSC between two accesses. */
  pause?: number;
}

/** Spins until eax, esi hold rdtsc >= start + cycles. */
const spin = (cycles: number): number[] => {
  const wait = [0xf3, 0x90, ...rdtsc, 0x29, 0xf0, 0x3d, ...u32(cycles)];
  return [...rdtsc, 0x89, 0xc6, ...wait, 0x72, -(wait.length + 2) & 0xff];
};

const timed = (p: Part): number[] => [
  ...(p.pause ? spin(p.pause) : []),
  ...rdtsc,
  ...movEbxEax,
  ...p.code,
  ...rdtsc,
  ...subEaxEbx,
  ...stosd,
];

/** An ELF32 kernel: the PVH note and one segment. */
export const kernel = (code: readonly number[]): Uint8Array => {
  const note = [...u32(4), ...u32(4), ...u32(18), 0x58, 0x65, 0x6e, 0, ...u32(base)];
  const headers = 52 + 2 * 32;
  const noteAt = headers;
  const codeAt = headers + note.length;
  const segment = (type: number, at: number, address: number, bytes: number): number[] =>
    [type, at, address, address, bytes, bytes, 7, 4].flatMap(u32);
  return Uint8Array.from([
    ...[0x7f, 0x45, 0x4c, 0x46, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ...[
      2,
      0,
      3,
      0,
      ...u32(1),
      ...u32(base),
      ...u32(52),
      ...u32(0),
      ...u32(0),
      52,
      0,
      32,
      0,
      2,
      0,
      0,
      0,
      0,
      0,
      0,
      0,
    ],
    ...segment(1, codeAt, base, code.length),
    ...segment(4, noteAt, 0, note.length),
    ...note,
    ...code,
  ]);
};

const halt = [0xfa, 0xf4, 0xeb, 0xfc];

/** A program that runs the parts one after the other, `rounds` times, tells it in `layout.flag`, and halts. */
export const measuring = (parts: readonly Part[], rounds: number): Uint8Array => {
  const code: number[] = [];
  // The TSC's ticks in 0.1 s by the ACPI PM timer (port 0x608, 3.579545 MHz): eax - ebx >= 357954.
  const in608 = access.in32(0x608);
  const poll = [...in608, ...subEaxEbx, 0x3d, ...u32(357_954)];
  code.push(...in608, ...movEbxEax, ...rdtsc, 0x89, 0xc6, ...poll, 0x72, -(poll.length + 2) & 0xff);
  code.push(...rdtsc, 0x29, 0xf0, ...storeEax(layout.ticks));
  let samples = layout.samples;
  let total = layout.total;
  for (let r = 0; r < rounds; r++)
    for (const p of parts) {
      if (p.warm && r === 0)
        code.push(...movEdi(samples), ...movEcx(p.warm), ...loop(timed({ ...p, pause: 0 })));
      code.push(...rdtsc, ...storeEax(total), ...movEdi(samples), ...movEcx(p.count), ...loop(timed(p)));
      code.push(...rdtsc, ...storeEax(total + 4));
      samples += p.count * 4;
      total += 8;
    }
  code.push(...movEax(1), ...storeEax(layout.flag), ...halt);
  return kernel(code);
};

/** Stores 1 to `layout.flag` and halts: the first instructions of a guest. */
export const first = (): Uint8Array => kernel([...movEax(1), ...storeEax(layout.flag), ...halt]);

/**
 * A program that does these accesses for ever and writes down the duration (TSC ticks) of every one that took longer than
 * `threshold` ticks: how many there were at `layout.flag`, then theirs from `layout.samples`.
 */
export const watching = (
  prepare: readonly number[],
  accesses: readonly number[][],
  threshold: number,
): Uint8Array => {
  const in608 = access.in32(0x608);
  const poll = [...in608, ...subEaxEbx, 0x3d, ...u32(357_954)];
  const code = [...in608, ...movEbxEax, ...rdtsc, 0x89, 0xc6, ...poll, 0x72, -(poll.length + 2) & 0xff];
  code.push(...rdtsc, 0x29, 0xf0, ...storeEax(layout.ticks), ...movEdi(layout.samples), ...prepare);
  const body = accesses.flatMap((a) => {
    // inc dword [flag]
    const note = [...stosd, 0xff, 0x05, ...u32(layout.flag)];
    return [
      ...rdtsc,
      ...movEbxEax,
      ...a,
      ...rdtsc,
      ...subEaxEbx,
      0x3d,
      ...u32(threshold),
      0x72,
      note.length,
      ...note,
    ];
  });
  code.push(...body, 0xe9, ...u32(-(body.length + 5)));
  return kernel(code);
};

/** Guest memory, read from outside: the descriptor of the process that owns it. */
export class GuestWindow {
  readonly #fd: number;

  constructor(nyxd: number) {
    const dir = `/proc/${nyxd}/fd`;
    const found = readdirSync(dir).find((n) => {
      try {
        return readlinkSync(`${dir}/${n}`).startsWith('/memfd:nyx-ram');
      } catch {
        return false;
      }
    });
    if (!found) throw new Error(`process ${nyxd} has no guest memory`);
    this.#fd = openSync(`${dir}/${found}`, 'r');
  }

  words(at: number, count: number): Uint32Array {
    const words = new Uint32Array(count);
    readSync(this.#fd, words, 0, count * 4, at);
    return words;
  }

  /** Until the guest has set its flag. */
  async done(seconds = 120): Promise<void> {
    const end = Date.now() + seconds * 1000;
    while (this.words(layout.flag, 1)[0] !== 1) {
      if (Date.now() > end) throw new Error(`the guest did not finish within ${seconds} s`);
      await sleep(20);
    }
  }
}
