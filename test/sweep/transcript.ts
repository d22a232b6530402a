/**
 * What a guest saw, in a form that two runs can be compared by: its exits in streams, one for each register, and what
 * it left behind (console, disk). A run whose devices are killed must give the streams of one whose devices are not.
 *
 * Guest time is the host's, so some of what a guest sees differs between any two runs. Each such register is in
 * `timely` with the reason; all others must be equal access by access, with the value written or answered, the
 * status, and the CRC of a burst. A register that differs between two undisturbed runs and is not in the table is an
 * error of the table, and fails the sweep.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { readTranscript, type TranscriptEntry } from '@nyx/device';
import { ExitKind } from '@nyx/ring';

const kindName = Object.fromEntries(Object.entries(ExitKind).map(([name, n]) => [n, name]));

export interface Transcript {
  /** By register: 'com1 write 0+0', 'lpc configRead 0+4'. */
  streams: Map<string, string[]>;
  exits: number;
  /** By process. */
  exitsOf: Map<string, number>;
  /** Exits whose handler ran more than once: those that a kill interrupted before their commit. */
  repeated: number;
  /** Answers in the ring that were not the handler's, and holes: always wrong. */
  broken: string[];
}

/** Devices of a process, in order, by process. */
export type DeviceNames = Record<string, readonly string[]>;

const text = (e: TranscriptEntry): string =>
  [
    e.data,
    e.dataHi,
    e.reply,
    e.replyHi,
    e.status,
    e.count > 1 || e.burst ? `${e.count}x${e.burst}` : '',
  ].join(' ');

/**
 * Reads the transcripts of all processes.
 * @param end the last debug console byte that counts (exits after it do not): number of bytes
 */
export const readTranscripts = (
  folder: string,
  devices: DeviceNames,
  end = Number.POSITIVE_INFINITY,
): Transcript => {
  const t: Transcript = { streams: new Map(), exits: 0, exitsOf: new Map(), repeated: 0, broken: [] };
  for (const [process, names] of Object.entries(devices)) {
    const bytes = readFileSync(join(folder, `${process}.transcript`));
    let printed = 0;
    let last: TranscriptEntry | undefined;
    for (const e of readTranscript(bytes)) {
      // The vCPU of a deterministic machine asks when a timer is due; how often depends on how long a disk takes.
      if (e.kind === ExitKind.time) continue;
      const device = names[e.device] ?? `device ${e.device}`;
      if (last?.ring !== e.ring) printed = 0;
      last = e;
      if (device === 'debugcon' && printed >= end) continue;
      if (printed >= end) continue;
      t.exits++;
      t.exitsOf.set(process, (t.exitsOf.get(process) ?? 0) + 1);
      if (e.executions > 1) t.repeated++;
      if (e.falsified) t.broken.push(`${process} ring ${e.ring} exit ${e.seq}: the guest got another answer`);
      const ring = e.ring === 0 ? '' : 'fabric ';
      const key = `${device} ${ring}${kindName[e.kind]} ${e.region}+0x${e.offset.toString(16)}`;
      let stream = t.streams.get(key);
      if (stream === undefined) t.streams.set(key, (stream = []));
      stream.push(text(e));
      if (device === 'debugcon' && kindName[e.kind] === 'write') printed++;
      if (device === 'debugcon' && kindName[e.kind] === 'writeBurst') printed += e.count;
    }
  }
  return t;
};

/** Why a register is not compared access by access, and what of it is. */
export interface Timely {
  /** Matches the key of the stream. */
  key: RegExp;
  /**
   * values: the set of distinct accesses is the same (how often and in which order is a matter of time);
   * prefix: one is the beginning of the other, by at most `room` accesses;
   * none: nothing of it is compared.
   */
  compare: 'values' | 'prefix' | 'none';
  room?: number;
  /** Accesses that are left out of `values`: their text begins with the data. */
  ignore?: RegExp;
  reason: string;
}

const distinct = (list: readonly string[], ignore: RegExp | undefined): string[] =>
  [...new Set(list)].filter((x) => !ignore?.test(x)).sort();

/** The streams in which two runs differ, each with the first difference. */
export const differences = (a: Transcript, b: Transcript, timely: readonly Timely[]): string[] => {
  const list = [...b.broken];
  for (const key of new Set([...a.streams.keys(), ...b.streams.keys()])) {
    const rule = timely.find((r) => r.key.test(key));
    if (rule?.compare === 'none') continue;
    let x = a.streams.get(key) ?? [];
    let y = b.streams.get(key) ?? [];
    if (rule?.compare === 'values') {
      x = distinct(x, rule.ignore);
      y = distinct(y, rule.ignore);
    }
    let at = 0;
    while (at < x.length && x[at] === y[at]) at++;
    const ended = at === x.length || at === y.length;
    if (rule?.compare === 'prefix' && ended && Math.abs(x.length - y.length) <= (rule.room ?? 0)) continue;
    if (at < x.length || at < y.length)
      list.push(
        `${key}: access ${at + 1} of ${x.length} and ${y.length}: ${x[at] ?? 'none'} <> ${y[at] ?? 'none'}`,
      );
  }
  return list;
};
