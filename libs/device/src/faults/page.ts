/**
 * The fault page of a device process: what fault rules must remember beyond the death of the process that they
 * killed. Made by the supervisor, written by the device process, read by both. All zero is a valid fresh page.
 */
import { array, Memory, pad, struct, structs, u8, u16, u32, u64, type View, view } from '@nyx/layout';

export const faultWire = { slots: 64, rings: 65, sources: 256, records: 1024 } as const;

const Counters = struct(
  'FaultCounters',
  {
    matches: u32('events that fitted the rule'),
    fired: u32('of these, made a fault'),
    last: u32(
      'number of the match that was made a fault last: an exit that is executed again is decided the same',
    ),
    pad0: pad(4),
  },
  { bytes: 16 },
);

/** One fault that happened. */
const Record = struct(
  'FaultRecord',
  {
    guestNs: u64(),
    match: u32('number of the match, from 1'),
    slot: u8('rule'),
    pad0: pad(1),
    device: u16('index in the process'),
    /** exit, reply, process: offset; interrupt: source; io: position. */
    where: u64(),
    seq: u32('of the exit, where there is one'),
    type: u8('ExitKind or BlockOp'),
    pad1: pad(3),
  },
  { bytes: 32 },
);

export const FaultPage = struct('FaultPage', {
  /** Exits seen for the first time, by all processes that had this page. */
  exits: u64(),
  /** Records written; record n is at (n - 1) % records. */
  recorded: u32(),
  pad0: pad(4),
  /** Low half of the sequence of the exit that each ring last handed over: seen again, it is executed again. */
  lastSeq: array('u32', faultWire.rings),
  pad1: pad(4),
  counters: structs(Counters, faultWire.slots),
  /** Added to the word of an interrupt source, for messages that were dropped (-1 each) or doubled (+1 each). */
  shift: array('u32', faultWire.sources),
});

const recordsAt = Math.ceil(FaultPage.bytes / 4096) * 4096;
export const faultPageBytes = recordsAt + faultWire.records * Record.bytes;

/** Page and one movable view of its records. @throws coded error FAULT_PAGE when the memory is too small. */
export class Faults {
  readonly page: View<typeof FaultPage>;
  readonly #record: View<typeof Record>;

  constructor(buffer: ArrayBuffer) {
    if (buffer.byteLength < faultPageBytes)
      throw Object.assign(new Error(`a fault page has ${faultPageBytes} bytes, got ${buffer.byteLength}`), {
        code: 'FAULT_PAGE',
      });
    const memory = new Memory(buffer);
    this.page = view(FaultPage, memory);
    this.#record = view(Record, memory);
  }

  /** Record n, from 0. */
  record(n: number): View<typeof Record> {
    this.#record.$root.base = recordsAt + (n % faultWire.records) * Record.bytes;
    return this.#record;
  }

  /** A slot is given to another rule. */
  clear(slot: number): void {
    const c = this.page.counters.at(slot);
    c.matches = 0;
    c.fired = 0;
    c.last = 0;
  }

  count(slot: number): { matches: number; fired: number } {
    const { matches, fired } = this.page.counters.at(slot);
    return { matches, fired };
  }

  /** The newest faults, oldest first; `since`: how many are known already. */
  list(since = 0): FaultRecord[] {
    const { recorded } = this.page;
    const list: FaultRecord[] = [];
    for (let n = Math.max(since, recorded - faultWire.records); n < recorded; n++) {
      const { slot, match, device, type, where, seq, guestNs } = this.record(n);
      list.push({ slot, match, device, type, where, seq, guestNs });
    }
    return list;
  }
}

/** One fault as reports show it. */
export interface FaultRecord {
  slot: number;
  match: number;
  /** Index in the process. */
  device: number;
  /** ExitKind or BlockOp. */
  type: number;
  where: number;
  seq: number;
  guestNs: number;
}
