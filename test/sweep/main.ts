/**
 * `npm run sweep`: the whole crash sweep, or a part of it. Prints a line for each run, and kills and differences at the end;
 * status 1 when there was a difference. With --verify a guest checks its own disk instead (verify.ts).
 */
import { appendFileSync, existsSync, readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { noise, quantile } from '../bench/noise.ts';
import { type Guest, linux, linuxLive, seabios, seabiosAhci, seabiosTpm } from './guests.ts';
import { compare, killRule, type Place, places, type Run, runGuest } from './sweep.ts';
import { verify } from './verify.ts';

const help = `npm run sweep -- [options]
  --guest NAME            one of seabios, seabios-ahci, linux (deterministic), seabios-tpm, linux-live (default: all)
  --place PLACE           handler, commit, reply, tail, settle or done (all); several times
  --stride N              exits between two kills of a run (32); N runs are a whole sweep of a place
  --sample N              only N of these runs, spread evenly
  --minutes N             begin no run that would not end within that time
  --results FILE          append finished runs to a file, and leave out those that are in it: a sweep in pieces
  --summary               only say what is in that file
  --verify N              instead: N kills of the process of a disk that a guest writes and checks
  --seed N                of --verify (1)
`;

const { values } = parseArgs({
  options: {
    guest: { type: 'string' },
    place: { type: 'string', multiple: true },
    stride: { type: 'string', default: '32' },
    sample: { type: 'string' },
    seed: { type: 'string', default: '1' },
    minutes: { type: 'string', default: '600' },
    results: { type: 'string' },
    summary: { type: 'boolean' },
    verify: { type: 'string' },
    help: { type: 'boolean' },
  },
});

/** One run, as a line of the results' file. */
interface Result {
  guest: string;
  place: Place;
  first: number;
  stride: number;
  exits: number;
  kills: number;
  repeated: number;
  differ: string[];
  failed?: string;
}

const keyOf = (r: Pick<Result, 'guest' | 'place' | 'first' | 'stride'>): string =>
  `${r.guest} ${r.place} ${r.first}/${r.stride}`;

const known = (): Result[] => {
  if (values.results === undefined || !existsSync(values.results)) return [];
  const lines = readFileSync(values.results, 'utf8').trim().split('\n');
  return lines.filter((l) => l !== '').map((l) => JSON.parse(l) as Result);
};

/** 1 .. n in an order of which every beginning is spread evenly. */
const spread = (n: number): number[] =>
  Array.from({ length: n }, (_, i) => i)
    .sort((a, b) => reversed(a) - reversed(b))
    .map((i) => i + 1);
const reversed = (i: number): number =>
  Number.parseInt(i.toString(2).padStart(20, '0').split('').reverse().join(''), 2);

/** Runs without faults must not differ either: what does, is missing in the table. */
const baseline = async (guest: Guest): Promise<Run> => {
  const base = await runGuest(guest, []);
  const other = await runGuest(guest, []);
  const differ = compare(guest, base, other);
  if (differ.length > 0)
    throw new Error(
      `${guest.name} differs without any fault; name the register in guests.ts:\n${differ.join('\n')}`,
    );
  for (const r of guest.timely)
    console.log(`  not access by access (${r.compare}): ${r.key.source}: ${r.reason}`);
  const compared = [...base.transcript.streams].filter(([k]) => !guest.timely.some((r) => r.key.test(k)));
  const exact = compared.reduce((n, [, s]) => n + s.length, 0);
  const { instructions } = base.fingerprint ?? {};
  console.log(
    `${guest.name}: ${base.transcript.exits} exits, ${exact} of them compared access by access${instructions ? `, and its memory after ${instructions} instructions` : ''}`,
  );
  return base;
};

const one = async (guest: Guest, base: Run, place: Place, first: number, stride: number): Promise<Result> => {
  const r: Result = {
    ...{ guest: guest.name, place, first, stride, exits: base.transcript.exits },
    ...{ kills: 0, repeated: 0, differ: [] },
  };
  try {
    const run = await runGuest(guest, [killRule(place, first, stride)]);
    return { ...r, kills: run.kills, repeated: run.transcript.repeated, differ: compare(guest, base, run) };
  } catch (e) {
    return { ...r, failed: (e as Error).message };
  }
};

const summary = (all: readonly Result[]): boolean => {
  for (const guest of new Set(all.map((r) => r.guest))) {
    const runs = all.filter((r) => r.guest === guest);
    const exits = runs[0]!.exits;
    const sum = (f: (r: Result) => number): number => runs.reduce((n, r) => n + f(r), 0);
    const whole = exits * places.length;
    const kills = sum((r) => r.kills);
    console.log(
      `${guest}: ${runs.length} runs, ${kills} kills at ${exits} exits x ${places.length} places (${((100 * kills) / whole).toFixed(0)} %), ${sum((r) => r.repeated)} exits executed again, ${sum((r) => r.differ.length)} differences, ${sum((r) => (r.failed === undefined ? 0 : 1))} runs failed`,
    );
  }
  const bad = all.filter((r) => r.differ.length > 0 || r.failed !== undefined);
  for (const r of bad) console.log(`  ${keyOf(r)}: ${r.failed ?? r.differ.join('; ')}`);
  console.log(
    `${all.reduce((n, r) => n + r.kills, 0)} kills, ${all.reduce((n, r) => n + r.differ.length, 0)} differences`,
  );
  return bad.length === 0;
};

const sweep = async (): Promise<boolean> => {
  const done = known();
  if (values.summary) return summary(done);
  const guests = [seabios, seabiosAhci, await linux(), seabiosTpm, await linuxLive()].filter(
    (g) => values.guest === undefined || g.name === values.guest,
  );
  const chosen = (values.place ?? places) as readonly Place[];
  if (guests.length === 0 || chosen.some((p) => !places.includes(p))) throw new Error(help);
  const stride = Number(values.stride);
  const firsts = spread(stride).slice(0, Number(values.sample ?? stride));
  const finished = new Set(done.map(keyOf));
  const end = Date.now() + Number(values.minutes) * 60_000;
  const all: Result[] = [];
  let skipped = 0;
  for (const guest of guests) {
    let base: Run | undefined;
    let longest = 0;
    for (const first of firsts)
      for (const place of chosen) {
        if (finished.has(keyOf({ guest: guest.name, place, first, stride }))) continue;
        if (Date.now() + longest > end) {
          skipped++;
          continue;
        }
        base ??= await baseline(guest);
        const from = performance.now();
        const r = await one(guest, base, place, first, stride);
        const ms = performance.now() - from;
        longest = Math.max(longest, ms);
        all.push(r);
        if (values.results !== undefined) appendFileSync(values.results, `${JSON.stringify(r)}\n`);
        console.log(
          `${keyOf(r)}: ${r.failed === undefined ? `${r.kills} kills, ${r.repeated} exits executed again, ${r.differ.length} differences` : `failed: ${r.failed}`}, ${(ms / 1000).toFixed(1)} s`,
        );
        for (const d of r.differ) console.log(`    ${d}`);
      }
  }
  if (skipped > 0) console.log(`not run for lack of time: ${skipped} runs`);
  return summary([...done, ...all]);
};

const check = async (): Promise<boolean> => {
  const r = await verify(Number(values.verify), Number(values.seed), (line) => console.log(line));
  const ms = (q: number): string => (quantile(r.recoveries, q) / 1e6).toFixed(1);
  for (const line of r.complaints) console.log(`    ${line}`);
  console.log(
    `${r.kills} kills of the disk's process (${r.standbys} times a standby took over), recovery p50 ${ms(0.5)} ms, p99 ${ms(0.99)} ms, longest wait of a vCPU ${(r.longestWait / 1e6).toFixed(0)} ms; ${await noise()}`,
  );
  console.log(
    `${r.rounds} rounds of write, read back and compare in the guest: ${r.wrong} wrong, ${r.complaints.length} complaints of its kernel`,
  );
  return r.wrong === 0 && r.complaints.length === 0 && r.rounds > 0;
};

if (values.help) console.log(help);
else if (values.verify) process.exitCode = (await check()) ? 0 : 1;
else process.exitCode = (await sweep()) ? 0 : 1;
