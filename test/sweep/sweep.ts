/**
 * The crash sweep: a guest runs again and again, and its device processes die at every exit, at each place of an exit's
 * life; what the guest sees must be what it sees when nothing dies. One run kills at exits first, first + stride,
 * first + 2 * stride ... of each process; runs with first = 1 .. stride are a whole sweep of a place.
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type FaultRuleInput, Vm } from '@nyx/nyx';
import type { Fingerprint } from '@nyx/protocol/control';
import type { Guest, Seen } from './guests.ts';
import { differences, readTranscripts, type Transcript } from './transcript.ts';

/** Before the handler; after it, before the commit; after the commit, before the reply; ... */
export const places = ['handler', 'commit', 'reply', 'tail', 'settle', 'done'] as const;
export type Place = (typeof places)[number];

export interface Run {
  seen: Seen;
  transcript: Transcript;
  /** Kills, as the fault pages counted them. */
  kills: number;
  /** Of a deterministic machine: instructions, guest time, SHA-256 of its memory when the guest had powered off. */
  fingerprint: Fingerprint | undefined;
  /** Nanoseconds from each death that the supervisor saw to its successor's first answer. */
  recoveries: number[];
}

/**
 * Boots the guest with these rules, lets it do its work, and collects what it saw. A guest whose own time limit ran out is
 * booted again, at most three times: on a host that is too busy the comparison would be one of time.
 * @throws when it fails
 */
export const runGuest = async (guest: Guest, rules: readonly FaultRuleInput[]): Promise<Run> => {
  for (let again = 3; ; again--) {
    const run = await bootGuest(guest, rules);
    if (again === 0 || !guest.impatient?.test(run.seen.console)) return run;
    console.warn(`${guest.name}: the guest's own time limit ran out on this busy host; once more`);
  }
};

const bootGuest = async (guest: Guest, rules: readonly FaultRuleInput[]): Promise<Run> => {
  const folder = mkdtempSync(join(tmpdir(), 'nyx-sweep-'));
  const transcript = join(folder, 'transcript');
  mkdirSync(transcript);
  guest.prepare(folder);
  let vm: Vm | undefined;
  try {
    vm = await Vm.start({
      name: `sweep-${process.pid}-${guest.name}`,
      ...guest.spec(folder),
      recovery: {
        budget: 10_000,
        window: 1,
        backoff: 0.001,
        maxBackoff: 0.001,
        hangTimeout: 20,
        startTimeout: 30,
        // Kills come faster than standbys are made; on the host's time some deaths are followed by one.
        spares: 3,
        standby: !guest.spec(folder).deterministic,
      },
      faults: { rules: [...rules], transcript },
    });
    const ended = vm.launched!.ended;
    const failed = new Promise<never>((_, reject) => ended.catch(reject));
    failed.catch(() => {});
    const recoveries: number[] = [];
    const seen = await Promise.race([guest.work(vm, folder), failed]);
    const status = await vm.status();
    const devices: Record<string, string[]> = {};
    for (const p of status.processes) {
      devices[p.name] = p.devices.map((d) => d.name);
      if (p.lastRecovery) recoveries.push(p.lastRecovery.ns);
      if (p.state === 'isolated') throw new Error(`${p.name} was isolated: ${JSON.stringify(p.error)}`);
    }
    const kills = (await vm.faults()).rules.reduce((n, r) => n + r.fired, 0);
    await vm.stop(0);
    const { fingerprint } = await ended;
    if (guest.spec(folder).deterministic && !fingerprint) throw new Error('there is no fingerprint');
    return {
      seen,
      transcript: readTranscripts(transcript, devices, seen.end),
      kills,
      fingerprint,
      recoveries,
    };
  } finally {
    await vm?.stop(0).catch(() => {});
    await vm?.launched?.ended.catch(() => {});
    vm?.close();
    rmSync(folder, { recursive: true, force: true });
  }
};

/** What differs between a run and the one without faults. */
export const compare = (guest: Guest, base: Run, run: Run): string[] => {
  const list = differences(base.transcript, run.transcript, guest.timely);
  for (const key of ['instructions', 'guestNs', 'memory'] as const)
    if (run.fingerprint?.[key] !== base.fingerprint?.[key])
      list.push(`${key}: ${base.fingerprint?.[key]} <> ${run.fingerprint?.[key]}`);
  if (run.seen.disk !== base.seen.disk) list.push(`disk: ${base.seen.disk} <> ${run.seen.disk}`);
  if (run.seen.console !== base.seen.console) {
    const [a, b] = [base.seen.console, run.seen.console];
    let at = 0;
    while (at < a.length && a[at] === b[at]) at++;
    list.push(
      `console: byte ${at}: ${JSON.stringify(a.slice(at, at + 60))} <> ${JSON.stringify(b.slice(at, at + 60))}`,
    );
  }
  return list;
};

export const killRule = (place: Place, first: number, stride: number, count = 0): FaultRuleInput => ({
  point: 'process',
  verb: 'kill',
  place,
  after: first - 1,
  every: stride,
  count,
});

/** Kills at all places in one run: exits first, first + stride ... in turn at each place. */
export const mixedRules = (first: number, stride: number): FaultRuleInput[] =>
  places.map((place, i) => killRule(place, first + i * stride, stride * places.length));
