/** What a device host has of fault injection: the engine, and the interrupts that are held back. */
import type { FaultRule } from '@nyx/protocol';
import type { HostedDevice } from '../context.ts';
import { type EngineHost, FaultEngine } from './engine.ts';

export interface InjectorHost extends EngineHost {
  /** Lets a device publish its interrupts again, unless an event is being handled (which does the same). */
  settle(d: HostedDevice): void;
}

/** Longest time that an interrupt waits for another one to overtake it. */
const reorderMs = 10;

interface Source {
  /** The word that was let through or decided upon last. */
  word: number;
  /** That word is not published; 'next': until another interrupt of the device is. */
  held: 'no' | 'dropped' | 'delayed' | 'next';
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

  /** Whether the line's word is not to be published now. An interrupt is a rising edge. */
  holdsLine(d: HostedDevice, source: number, word: number): boolean {
    const entry = d.role.irqBase + source;
    // A dropped edge is only not published: the next word counts it.
    return this.#holds(d, source, word, (word & 1) === 1, (n) => n > 0 && this.engine.addShift(entry, n));
  }

  /** Whether the message count is not to be published now; drop and duplicate shift it for good. */
  holdsMessage(d: HostedDevice, source: number, count: number): boolean {
    const entry = d.role.irqBase + source;
    return this.#holds(d, source, count, true, (n) => this.engine.addShift(entry, n));
  }

  #holds(
    d: HostedDevice,
    source: number,
    word: number,
    isInterrupt: boolean,
    shift: (n: number) => void,
  ): boolean {
    const key = d.index * 4096 + source;
    const s = this.#sources.get(key);
    if (s === undefined) {
      // The word at attach, or when the first rule came: told again, not new.
      this.#sources.set(key, { word, held: 'no' });
      return false;
    }
    if (s.word === word) return s.held !== 'no';
    s.word = word;
    s.held = 'no';
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
        if (s.word !== word || s.held === 'dropped') return;
        s.held = 'no';
        this.#host.settle(d);
      }, ms);
    }
    return s.held !== 'no';
  }

  /** Another interrupt of the device goes out: those that waited to be overtaken follow it. */
  #release(d: HostedDevice): void {
    for (const [key, s] of this.#sources)
      if (s.held === 'next' && Math.floor(key / 4096) === d.index) {
        s.held = 'no';
        setImmediate(() => this.#host.settle(d));
      }
  }
}
