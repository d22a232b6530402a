/**
 * A console: the shared memory between a byte-stream device (a UART, the debug port) and the supervisor. Two rings
 * of bytes in one memfd, and an eventfd for each direction. In the role of the device:
 *
 *     fds: { console: <memfd>, consoleOut: <eventfd, device to host>, consoleIn: <eventfd, host to device> }
 *
 * Counters are bytes since power-on modulo 2^32 (a reset of the machine does not move them); byte n is at
 * `n & (size - 1)` of its ring.
 *
 * Output: the positions belong to the device's state. A handler stores bytes beyond the published head, where
 * nobody looks yet; `settle` publishes the committed position, so a process that dies between the two leaves
 * nothing to repeat but the publication. The host never holds up the guest: a full ring is overwritten, and the
 * host sees from the counters how much it lost.
 * Input: the host stores bytes, then `inHead`, then writes `consoleIn`. The device publishes what it has taken.
 * Waking the host: whoever publishes writes `consoleOut` only when the host had read everything before, so the host
 * stores `outTail`, then looks at `outHead` again before it sleeps (`ConsoleHost.take` until it gives nothing).
 */
import { Memory, pad, struct, u32 } from '@nyx/layout';

export const consoleWire = {
  /** 'NYXC' */
  magic: 0x4358594e,
  version: 1,
  outAt: 0x1000,
  outBytes: 0x40000,
  inAt: 0x41000,
  inBytes: 0x1000,
  /** Size of the memfd. */
  bytes: 0x42000,
} as const;

export const ConsoleHeader = struct(
  'ConsoleHeader',
  {
    magic: u32('consoleWire.magic'),
    version: u32(),
    outBytes: u32('size of the output ring, a power of two'),
    inBytes: u32('size of the input ring, a power of two'),
    pad0: pad(48),
    // The device writes this line.
    outHead: u32('bytes sent so far'),
    inTail: u32('bytes taken so far'),
    pad1: pad(56),
    // The host writes this line.
    outTail: u32('bytes read so far'),
    inHead: u32('bytes offered so far'),
    pad2: pad(56),
  },
  { bytes: 192, doc: 'First page of a console memfd.' },
);

const word = (field: Parameters<typeof ConsoleHeader.offsetOf>[0]): number =>
  ConsoleHeader.offsetOf(field) >> 2;
const OUT_HEAD = word('outHead');
const OUT_TAIL = word('outTail');
const IN_HEAD = word('inHead');
const IN_TAIL = word('inTail');
const { outAt, outBytes, inAt, inBytes } = consoleWire;

/** Formats a zeroed buffer of `consoleWire.bytes` as a console without bytes. */
export function formatConsole(buffer: ArrayBuffer): void {
  const w = new Memory(buffer).u32;
  w[word('version')] = consoleWire.version;
  w[word('outBytes')] = outBytes;
  w[word('inBytes')] = inBytes;
  w[word('magic')] = consoleWire.magic;
}

/** @throws Error `CONSOLE_INVALID` when the buffer does not hold a console. */
function wordsOf(buffer: ArrayBuffer): Uint32Array {
  const w =
    buffer.byteLength >= consoleWire.bytes
      ? new Memory(buffer).u32
      : new Uint32Array(ConsoleHeader.bytes / 4);
  const [magic, version, out, input] = [
    w[word('magic')]!,
    w[word('version')]!,
    w[word('outBytes')]!,
    w[word('inBytes')]!,
  ];
  if (magic === consoleWire.magic && version === consoleWire.version && out === outBytes && input === inBytes)
    return w;
  const found = `magic 0x${magic.toString(16)}, version ${version}, rings of ${out} and ${input} bytes in ${buffer.byteLength}`;
  const message = `CONSOLE_INVALID: expected a console of version ${consoleWire.version} in ${consoleWire.bytes} bytes, found ${found}`;
  throw Object.assign(new Error(message), { code: 'CONSOLE_INVALID' });
}

/** The device's end. */
export class ConsolePort {
  readonly #words: Uint32Array;
  readonly #out: Uint8Array;
  readonly #in: Uint8Array;
  /** A successor cannot know whether its predecessor told of its last byte. */
  #mustTell = true;

  /** @throws Error `CONSOLE_INVALID` when the buffer does not hold a console. */
  constructor(buffer: ArrayBuffer) {
    this.#words = wordsOf(buffer);
    this.#out = new Uint8Array(buffer, outAt, outBytes);
    this.#in = new Uint8Array(buffer, inAt, inBytes);
  }

  /** Stores output byte number `position`; it becomes visible with `publish`. */
  put(position: number, byte: number): void {
    this.#out[position & (outBytes - 1)] = byte;
  }

  /**
   * Publishes both positions. True when the host may sleep and must be told: it had read everything, or the input
   * ring was full before.
   */
  publish(outHead: number, inTail: number): boolean {
    const w = this.#words;
    let tell = this.#mustTell;
    this.#mustTell = false;
    const oldHead = w[OUT_HEAD]!;
    if (oldHead !== outHead) {
      Atomics.store(w, OUT_HEAD, outHead);
      // The host stores outTail, then looks at outHead again: one of the two sees the other.
      if (Atomics.load(w, OUT_TAIL) === oldHead) tell = true;
    }
    const oldTail = w[IN_TAIL]!;
    if (oldTail !== inTail) {
      Atomics.store(w, IN_TAIL, inTail);
      if ((Atomics.load(w, IN_HEAD) - oldTail) >>> 0 >= inBytes) tell = true;
    }
    return tell;
  }

  /** Input bytes that wait for a device that has taken `position`; 0 when the host's counter makes no sense. */
  available(position: number): number {
    const n = (Atomics.load(this.#words, IN_HEAD) - position) >>> 0;
    return n > inBytes ? 0 : n;
  }

  /** Input byte number `position`. */
  get(position: number): number {
    return this.#in[position & (inBytes - 1)]!;
  }
}

/** The host's end. It trusts nothing that the device wrote. */
export class ConsoleHost {
  readonly #words: Uint32Array;
  readonly #out: Uint8Array;
  readonly #in: Uint8Array;
  /** Output bytes that were overwritten before they were read. */
  lost = 0;

  /** @throws Error `CONSOLE_INVALID` when the buffer does not hold a console. */
  constructor(buffer: ArrayBuffer) {
    this.#words = wordsOf(buffer);
    this.#out = new Uint8Array(buffer, outAt, outBytes);
    this.#in = new Uint8Array(buffer, inAt, inBytes);
  }

  /**
   * A copy of the output that was not read yet, or undefined when there is none. Call it until then before sleeping.
   * @param use is given the copy before it counts as read: whoever dies in it has not read it
   */
  take(use: (bytes: Uint8Array) => void = () => {}): Uint8Array | undefined {
    const w = this.#words;
    const head = Atomics.load(w, OUT_HEAD);
    const tail = w[OUT_TAIL]!;
    let n = (head - tail) >>> 0;
    if (n === 0) return undefined;
    if (n > outBytes) {
      this.lost += n - outBytes;
      n = outBytes;
    }
    const bytes = new Uint8Array(n);
    const from = (head - n) & (outBytes - 1);
    const first = Math.min(n, outBytes - from);
    bytes.set(this.#out.subarray(from, from + first));
    bytes.set(this.#out.subarray(0, n - first), first);
    use(bytes);
    Atomics.store(w, OUT_TAIL, head);
    return bytes;
  }

  /** Offers input; gives how many bytes fitted. Then write the `consoleIn` eventfd. */
  push(bytes: Uint8Array): number {
    const w = this.#words;
    const head = w[IN_HEAD]!;
    const used = (head - Atomics.load(w, IN_TAIL)) >>> 0;
    const n = used > inBytes ? 0 : Math.min(bytes.length, inBytes - used);
    for (let i = 0; i < n; i++) this.#in[(head + i) & (inBytes - 1)] = bytes[i]!;
    Atomics.store(w, IN_HEAD, (head + n) >>> 0);
    return n;
  }
}
