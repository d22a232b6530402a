/** What a device host has of fault injection: the engine, and the interrupts that are held back. */
import type { FaultRule } from '@nyx/protocol';
import type { HostedDevice } from '../context.ts';
import { type EngineHost, FaultEngine } from './engine.ts';

export interface InjectorHost extends EngineHost {
  /** Interrupt words were published outside of an event: tells the vCPU process, and the controllers of this one. */
  published(): void;
}

/** Longest time that an interrupt waits for another one to overtake it. */
const reorderMs = 10;

interface Source {
  /** The word that was let through or decided upon last. */
  word: number;
  /** That word is not published; 'next': until another interrupt of the device is. */
  held: 'no' | 'dropped' | 'delayed' | 'next';
  /** Does what was held back. */
  publish: () => void;
}

export class Injector {
  readonly engine: FaultEngine;
  readonly #host: InjectorHost;
  /** By device and source. */
  readonly #sources = new Map<number, Source>();

  /** @throws coded error FAULT_PAGE */
  constructor(page: ArrayBuffer, host: InjectorHost) {
    this.engine = new FaultEngine(page, host);
    this.#host = host;
  }

  setRules(rules: readonly FaultRule[], devices: readonly HostedDevice[]): void {
    this.engine.setRules(
      rules,
      devices.map((d) => d.name),
    );
    for (const d of devices)
      d.memory.inject = this.engine.has('dma')
        ? (address, length, at) => this.engine.dma(d.index, d.memory.view, address, length, at)
        : undefined;
  }

  /** Whether the line's word is not to be published now; `publish` does it later. An interrupt is a rising edge. */
  holdsLine(d: HostedDevice, source: number, word: number, publish: () => void): boolean {
    const entry = d.role.irqBase + source;
    this.#know(d, source, d.routed(source) ? word : d.irqPage.word(entry) - 2 * this.engine.shift(entry));
    // A dropped edge is only not published: the next word counts it.
    return this.#holds(d, source, word, (word & 1) === 1, publish, (n) => {
      if (n > 0) this.engine.addShift(entry, n);
    });
  }

  /** Whether the message count is not to be published now; drop and duplicate shift it for good. */
  holdsMessage(d: HostedDevice, source: number, count: number, publish: () => void): boolean {
    const entry = d.role.irqBase + source;
    this.#know(d, source, d.irqPage.word(entry) - this.engine.shift(entry));
    return this.#holds(d, source, count, true, publish, (n) => this.engine.addShift(entry, n));
  }

  /** What was published when a source is first seen: the same again is not new. Of lines in this process nobody knows. */
  #know(d: HostedDevice, source: number, word: number): void {
    const key = d.index * 4096 + source;
    if (!this.#sources.has(key)) this.#sources.set(key, { word: word >>> 0, held: 'no', publish: () => {} });
  }

  #holds(
    d: HostedDevice,
    source: number,
    word: number,
    isInterrupt: boolean,
    publish: () => void,
    shift: (n: number) => void,
  ): boolean {
    const key = d.index * 4096 + source;
    const s = this.#sources.get(key)!;
    if (s.word === word) return s.held !== 'no';
    s.word = word;
    s.held = 'no';
    s.publish = publish;
    if (!isInterrupt) return false;
    const r = this.engine.interrupt(d.index, source);
    if (r === undefined) {
      this.#release(d);
      return false;
    }
    if (r.verb === 'duplicate') shift(1);
    else if (r.verb === 'drop') {
      shift(-1);
      s.held = 'dropped';
    } else {
      s.held = r.verb === 'delay' ? 'delayed' : 'next';
      const ms = r.verb === 'delay' ? r.delayNs / 1e6 : reorderMs;
      setTimeout(() => {
        if (s.word !== word || s.held === 'no' || s.held === 'dropped') return;
        s.held = 'no';
        publish();
        this.#host.published();
      }, ms);
    }
    return s.held !== 'no';
  }

  /** Another interrupt of the device goes out: those that waited to be overtaken follow it. */
  #release(d: HostedDevice): void {
    for (const [key, s] of this.#sources)
      if (s.held === 'next' && Math.floor(key / 4096) === d.index) {
        s.held = 'no';
        const { publish } = s;
        setImmediate(() => {
          publish();
          this.#host.published();
        });
      }
  }
}
