/**
 * Makes the faults that rules ask for, in a device process. It exists only once the process was given a rule: without
 * one, each point costs a test for `undefined`. What must outlive the process is in the fault page (page.ts).
 *
 * An exit that a successor executes again is not a match of its own: it is decided as it was the first time, but is
 * not killed again unless the rule says `again`.
 */
import { fnv1a } from '@nyx/layout';
import { ctl, faultVerb, place } from '@nyx/native';
import { type FaultPlace, type FaultPoint, type FaultRule, faultTypes } from '@nyx/protocol';
import { ExitKind } from '@nyx/ring';
import { Faults, faultWire } from './page.ts';

/** What to do with an exit before its handler runs. */
export const Before = { run: 0, drop: 1, error: 2, twice: 3 } as const;

/** A rule, ready to be compared. */
interface Compiled extends FaultRule {
  /** Bit per ExitKind or BlockOp. */
  kinds: number;
  /** Seed of its decisions. */
  key: number;
  /** Index of its device in the process; -1: every. */
  index: number;
}

const placeOf: Record<FaultPlace, number> = {
  handler: place.nowhere,
  commit: place.commit,
  reply: place.reply,
  tail: place.tail,
  settle: place.settle,
  done: place.done,
};

/** 32 random bits that are a function of both. */
export const mix = (a: number, b: number): number => {
  let h = Math.imul(a ^ Math.imul(b + 1, 0x9e3779b1), 0x85ebca6b);
  h ^= h >>> 13;
  h = Math.imul(h, 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
};

const kindsOf = (r: FaultRule): number => {
  if (r.types === undefined) return -1;
  let bits = 0;
  for (const t of r.types)
    bits |= 1 << (r.point === 'io' ? (faultTypes.io as readonly string[]).indexOf(t) : ExitKind[t as 'read']);
  return bits;
};

/** Key of a rule: two rules of one plan that say different things decide differently. */
export const keyOf = (r: FaultRule): number => {
  const { point, verb, device, types, region, from, to, source } = r;
  return (fnv1a(JSON.stringify([point, verb, device, types, region, from, to, source])) ^ r.seed) >>> 0;
};

/** Whether match k (from 1) is made a fault, `fired` of the earlier ones having been. */
export const decides = (r: FaultRule, key: number, k: number, fired: number): boolean =>
  k > r.after &&
  (k - r.after - 1) % r.every === 0 &&
  (r.count === 0 || fired < r.count) &&
  (r.probability >= 1 || mix(key, k) < r.probability * 4294967296);

export interface EngineHost {
  readonly words: Uint32Array;
  now(): number;
  /** Does what `ctl[faultVerb]` says. */
  strike(): void;
}

export class FaultEngine {
  readonly faults: Faults;
  readonly #host: EngineHost;
  #rules: Record<FaultPoint, Compiled[]> = {
    exit: [],
    reply: [],
    dma: [],
    interrupt: [],
    io: [],
    process: [],
  };
  /** The exit being served was handed over before, to a predecessor that died of it. */
  #again = false;

  /** @throws coded error FAULT_PAGE */
  constructor(page: ArrayBuffer, host: EngineHost) {
    this.faults = new Faults(page);
    this.#host = host;
  }

  /** @param devices names of the process's devices, in order */
  setRules(rules: readonly FaultRule[], devices: readonly string[]): void {
    const sorted: Record<FaultPoint, Compiled[]> = {
      exit: [],
      reply: [],
      dma: [],
      interrupt: [],
      io: [],
      process: [],
    };
    for (const r of rules) {
      const index = r.device === '*' || r.point === 'process' ? -1 : devices.indexOf(r.device);
      if (index < 0 && r.device !== '*' && r.point !== 'process') continue;
      sorted[r.point]?.push({ ...r, index, kinds: kindsOf(r), key: keyOf(r) });
    }
    this.#rules = sorted;
  }

  has(point: FaultPoint): boolean {
    return this.#rules[point].length > 0;
  }

  /** Counts a match; whether it is made a fault. */
  #fires(r: Compiled, device: number, type: number, where: number): boolean {
    const c = this.faults.page.counters.at(r.slot);
    if (this.#again)
      return c.last !== 0 && c.last === c.matches && (r.again || (r.verb !== 'kill' && r.verb !== 'hang'));
    const k = ++c.matches;
    if (!decides(r, r.key, k, c.fired)) return false;
    c.fired++;
    c.last = k;
    const record = this.faults.record(this.faults.page.recorded);
    record.slot = r.slot;
    record.match = k;
    record.device = Math.max(0, device);
    record.type = type;
    record.where = where;
    record.seq = this.#host.words[ctl.seqLo]!;
    record.guestNs = this.#host.now();
    this.faults.page.recorded++;
    return true;
  }

  /** kill, hang and delay, at once. */
  #strike(r: FaultRule): void {
    const { words } = this.#host;
    this.#arm(r, place.nowhere);
    words[ctl.faultPlace] = place.nowhere;
    this.#host.strike();
  }

  #arm(r: FaultRule, where: number): void {
    const { words } = this.#host;
    words[ctl.faultVerb] =
      r.verb === 'kill' ? faultVerb.kill : r.verb === 'delay' ? faultVerb.delay : faultVerb.hang;
    words[ctl.faultUs] = Math.min(r.delayNs / 1000, 0xffffffff);
    words[ctl.faultPlace] = where;
  }

  /** Bits to turn over in a value of `width` bytes. */
  #mask(r: Compiled, width: number): number {
    if (r.mask !== 0) return r.mask;
    const k = this.faults.page.counters.at(r.slot).last;
    return 1 << (mix(r.key ^ 0x5bd1e995, k) % (8 * Math.min(width, 4)));
  }

  static #fits(r: Compiled, device: number, kind: number, region: number, offset: number): boolean {
    return (
      (r.index < 0 || r.index === device) &&
      (r.kinds & (1 << kind)) !== 0 &&
      (r.region === undefined || r.region === region) &&
      (r.from === undefined || (offset >= r.from && offset <= (r.to ?? r.from)))
    );
  }

  // ---- exits ----

  /** An exit has come in (`words`). Returns a `Before`; may change the data, may not return. */
  before(): number {
    const { words } = this.#host;
    const { page } = this.faults;
    const ring = words[ctl.ring]!;
    const seq = words[ctl.seqLo]!;
    this.#again = page.lastSeq.get(ring) === seq;
    if (!this.#again) {
      page.lastSeq.set(ring, seq);
      page.exits++;
    }
    words[ctl.faultPlace] = place.nowhere;
    const device = words[ctl.device]!;
    const kind = words[ctl.kind]!;
    const region = words[ctl.region]!;
    const offset = words[ctl.offsetLo]!;
    for (const r of this.#rules.process) {
      if (!this.#fires(r, device, kind, offset)) continue;
      if (r.place === 'handler') this.#strike(r);
      else this.#arm(r, placeOf[r.place]);
    }
    let then: number = Before.run;
    for (const r of this.#rules.exit) {
      if (!FaultEngine.#fits(r, device, kind, region, offset) || !this.#fires(r, device, kind, offset))
        continue;
      if (r.verb === 'drop') then = Before.drop;
      else if (r.verb === 'error') then = Before.error;
      else if (r.verb === 'duplicate') then = Before.twice;
      else if (r.verb === 'corrupt') words[ctl.dataLo]! ^= this.#mask(r, words[ctl.width]!);
      else this.#strike(r);
    }
    return then;
  }

  /**
   * The answer is known (`value`: low half). Returns the one to give; NaN: the address is not claimed.
   * Drop, delay and kill strike between commit and reply, hang before the commit.
   */
  answer(value: number): number {
    const { words } = this.#host;
    const device = words[ctl.device]!;
    const kind = words[ctl.kind]!;
    for (const r of this.#rules.reply) {
      const offset = words[ctl.offsetLo]!;
      if (!FaultEngine.#fits(r, device, kind, words[ctl.region]!, offset)) continue;
      if (!this.#fires(r, device, kind, offset)) continue;
      if (r.verb === 'corrupt') value = (value ^ this.#mask(r, words[ctl.width]!)) >>> 0;
      else if (r.verb === 'error') value = Number.NaN;
      else this.#arm(r, r.verb === 'hang' ? place.commit : place.reply);
    }
    return value;
  }

  /** The exit is over; what follows until the next one belongs to none. */
  over(): void {
    this.#again = false;
  }

  // ---- memory ----

  /** A device looked up `length` bytes at a guest address, which are at `at` of `memory`. Returns the place to use. */
  dma(device: number, memory: DataView, address: number, length: number, at: number): number {
    for (const r of this.#rules.dma) {
      if (r.index >= 0 && r.index !== device) continue;
      if (r.from !== undefined && (address < r.from || address > (r.to ?? r.from))) continue;
      if (!this.#fires(r, device, 0, address)) continue;
      if (r.verb === 'error') return -1;
      if (r.verb === 'corrupt') {
        if (at < 0 || length === 0) continue;
        const byte = at + (mix(r.key, this.faults.page.counters.at(r.slot).last) % length);
        memory.setUint8(byte, memory.getUint8(byte) ^ (this.#mask(r, 1) & 0xff));
      } else this.#strike(r);
    }
    return at;
  }

  // ---- interrupts ----

  /** The rule that makes the new word of a device's source a fault; kill, hang are done here. */
  interrupt(device: number, source: number): FaultRule | undefined {
    for (const r of this.#rules.interrupt) {
      if (r.index >= 0 && r.index !== device) continue;
      if (r.source !== undefined && r.source !== source) continue;
      if (!this.#fires(r, device, 0, source)) continue;
      if (r.verb !== 'kill' && r.verb !== 'hang') return r;
      this.#strike(r);
    }
    return undefined;
  }

  /** What is added to the word of an interrupt entry of the process. */
  shift(entry: number): number {
    return entry < faultWire.sources ? this.faults.page.shift.get(entry) | 0 : 0;
  }
  addShift(entry: number, n: number): void {
    if (entry < faultWire.sources) this.faults.page.shift.set(entry, (this.shift(entry) + n) >>> 0);
  }

  // ---- backend ----

  /** The rule that makes a request to the backend a fault; kill and hang are done here. `op`: index in faultTypes.io */
  io(device: number, op: number, position: number): FaultRule | undefined {
    for (const r of this.#rules.io) {
      if (!FaultEngine.#fits(r, device, op, 0, position) || !this.#fires(r, device, op, position)) continue;
      if (r.verb !== 'kill' && r.verb !== 'hang') return r;
      this.#strike(r);
    }
    return undefined;
  }

  /** Random number of the fault that a rule made last: which byte is damaged. */
  random(r: FaultRule): number {
    return mix(keyOf(r) ^ 0x2545f491, this.faults.page.counters.at(r.slot).last);
  }
}
