/**
 * The device's end of a console (libs/protocol/src/console.ts): bytes out, never waiting for the host, and bytes
 * in. The positions belong to the device's state. A handler stores output bytes beyond the published head, where
 * nobody looks yet; `settle` publishes the committed position. A process that dies between the two leaves nothing to
 * repeat but the publication.
 */
import { Memory } from '@nyx/layout';
import { ConsoleHeader, consoleWire } from '@nyx/protocol';

const word = (field: Parameters<typeof ConsoleHeader.offsetOf>[0]): number => ConsoleHeader.offsetOf(field) >> 2;
const OUT_HEAD = word('outHead');
const OUT_TAIL = word('outTail');
const IN_HEAD = word('inHead');
const IN_TAIL = word('inTail');

export class ConsolePort {
  readonly #words: Uint32Array;
  readonly #out: Uint8Array;
  readonly #in: Uint8Array;
  /** A successor cannot know whether its predecessor told of its last byte. */
  #mustTell = true;

  /** @throws Error `CONSOLE_INVALID` when the buffer does not hold a console. */
  constructor(buffer: ArrayBuffer) {
    const w = buffer.byteLength >= consoleWire.bytes ? new Memory(buffer).u32 : new Uint32Array(ConsoleHeader.bytes / 4);
    const out = w[word('outBytes')]!;
    const input = w[word('inBytes')]!;
    if (w[word('magic')] !== consoleWire.magic || w[word('version')] !== consoleWire.version || out !== consoleWire.outBytes || input !== consoleWire.inBytes)
      throw Object.assign(
        new Error(
          `CONSOLE_INVALID: expected a console of version ${consoleWire.version}, found magic 0x${w[word('magic')]!.toString(16)}, rings of ${out} and ${input} bytes in ${buffer.byteLength}`,
        ),
        { code: 'CONSOLE_INVALID' },
      );
    this.#words = w;
    this.#out = new Uint8Array(buffer, consoleWire.outAt, out);
    this.#in = new Uint8Array(buffer, consoleWire.inAt, input);
  }

  /** Stores output byte number `position`; it becomes visible with `publish`. */
  put(position: number, byte: number): void {
    this.#out[position & (consoleWire.outBytes - 1)] = byte;
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
      if ((Atomics.load(w, IN_HEAD) - oldTail) >>> 0 >= consoleWire.inBytes) tell = true;
    }
    return tell;
  }

  /** Input bytes that wait for a device that has taken `position`; 0 when the host's counter makes no sense. */
  available(position: number): number {
    const n = (Atomics.load(this.#words, IN_HEAD) - position) >>> 0;
    return n > consoleWire.inBytes ? 0 : n;
  }

  /** Input byte number `position`. */
  get(position: number): number {
    return this.#in[position & (consoleWire.inBytes - 1)]!;
  }
}

/** Formats a zeroed buffer of `consoleWire.bytes` as a console without bytes. */
export function formatConsole(buffer: ArrayBuffer): void {
  const w = new Memory(buffer).u32;
  w[word('version')] = consoleWire.version;
  w[word('outBytes')] = consoleWire.outBytes;
  w[word('inBytes')] = consoleWire.inBytes;
  w[word('magic')] = consoleWire.magic;
}
