/**
 * Interrupt lines that a process delivers to its own interrupt controllers. What each source said last is kept
 * only to spare work: a new process starts from nothing, tells every line again, and the controllers, which keep the
 * words of their pins in their state, find nothing new.
 */
import { merged } from './line.ts';

interface Pin {
  readonly gsi: number;
  readonly words: number[];
  queued: boolean;
}
interface Source {
  readonly pin: Pin;
  readonly index: number;
}

export class LineRouter {
  readonly #pins = new Map<number, Pin>();
  readonly #changed: Pin[] = [];

  /** A source of this GSI. Several may share it: their edges add up, their levels are ORed. */
  source(gsi: number): Source {
    let pin = this.#pins.get(gsi);
    if (pin === undefined) {
      pin = { gsi, words: [], queued: false };
      this.#pins.set(gsi, pin);
    }
    return { pin, index: pin.words.push(-1) - 1 };
  }

  set(source: Source, word: number): void {
    const { pin, index } = source;
    if (pin.words[index] === word) return;
    pin.words[index] = word;
    if (pin.queued) return;
    pin.queued = true;
    this.#changed.push(pin);
  }

  get pending(): boolean {
    return this.#changed.length > 0;
  }

  /** Hands the changed lines over, until none is left: telling one may change another. */
  deliver(tell: (gsi: number, word: number) => void): void {
    for (let pin = this.#changed.pop(); pin !== undefined; pin = this.#changed.pop()) {
      pin.queued = false;
      let word = 0;
      for (const w of pin.words) if (w >= 0) word = merged(word, w);
      tell(pin.gsi, word);
    }
  }
}

export type { Source as LineSource };
