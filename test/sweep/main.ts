/**
 * `npm run sweep`: the whole crash sweep, or a part of it. Prints a line for each run, and kills and differences at the end;
 * status 1 when there was a difference. With --verify a guest checks its own disk instead (verify.ts).
 */
import { parseArgs } from 'node:util';
import { noise, quantile } from '../bench/noise.ts';
import { type Guest, linux, seabios, seabiosAhci, seabiosTpm } from './guests.ts';
import { compare, killRule, type Place, places, type Run, runGuest } from './sweep.ts';
import { verify } from './verify.ts';

const help = `npm run sweep -- [options]
  --guest seabios|seabios-tpm|linux   one of the guests (all)
  --place PLACE           handler, commit, reply, tail, settle or done (all); several times
  --stride N              exits between two kills of a run (40); N runs are a whole sweep of a place
  --sample N              only N of these runs, drawn by --seed
  --seed N                (1)
  --minutes N             begin no run after that time
  --verify N              instead: N kills of the process of a disk that a guest writes and checks
`;

const { values } = parseArgs({
  options: {
    guest: { type: 'string' },
    place: { type: 'string', multiple: true },
    stride: { type: 'string', default: '40' },
    sample: { type: 'string' },
    seed: { type: 'string', default: '1' },
    minutes: { type: 'string', default: '600' },
    verify: { type: 'string' },
    help: { type: 'boolean' },
  },
});

const draw = (all: number[], n: number, seed: number): number[] => {
  const left = [...all];
  let s = seed >>> 0;
  const drawn: number[] = [];
  while (drawn.length < n && left.length > 0) {
    s = (Math.imul(s, 1_664_525) + 1_013_904_223) >>> 0;
    drawn.push(...left.splice(Math.floor((s / 4294967296) * left.length), 1));
  }
  return drawn;
};

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
  console.log(`${guest.name}: ${base.transcript.exits} exits, ${exact} of them compared access by access`);
  return base;
};

const sweep = async (): Promise<boolean> => {
  const guests = [seabios, seabiosTpm, seabiosAhci, await linux()].filter(
    (g) => values.guest === undefined || g.name === values.guest,
  );
  const chosen = (values.place ?? places) as readonly Place[];
  if (guests.length === 0 || chosen.some((p) => !places.includes(p))) throw new Error(help);
  const stride = Number(values.stride);
  const end = Date.now() + Number(values.minutes) * 60_000;
  let kills = 0;
  let found = 0;
  let failed = 0;
  const skipped: string[] = [];
  for (const guest of guests) {
    const base = await baseline(guest);
    const all = Array.from({ length: stride }, (_, i) => i + 1);
    const firsts = values.sample ? draw(all, Number(values.sample), Number(values.seed)) : all;
    for (const first of firsts)
      for (const place of chosen) {
        if (Date.now() > end) {
          skipped.push(`${guest.name} ${place} ${first}`);
          continue;
        }
        const from = performance.now();
        let differ: string[] = [];
        let text = '';
        try {
          const run = await runGuest(guest, [killRule(place, first, stride)]);
          differ = compare(guest, base, run);
          kills += run.kills;
          found += differ.length;
          text = `${run.kills} kills, ${run.transcript.repeated} exits executed again, ${differ.length} differences`;
        } catch (e) {
          failed++;
          text = `failed: ${(e as Error).message}`;
        }
        const seconds = ((performance.now() - from) / 1000).toFixed(1);
        console.log(`${guest.name} ${place} from ${first}: ${text}, ${seconds} s`);
        for (const d of differ) console.log(`    ${d}`);
      }
  }
  if (skipped.length > 0) console.log(`not run for lack of time: ${skipped.length} runs`);
  console.log(`${kills} kills, ${found} differences, ${failed} runs failed`);
  return found === 0 && failed === 0;
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
