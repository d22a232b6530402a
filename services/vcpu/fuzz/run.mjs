#!/usr/bin/env node
// Builds and runs a libFuzzer target of this folder. See --help.
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { build, missing, output, targets } from './build.mjs';

const usage = `usage: run.mjs [SECONDS] [TARGET] [--runs N] [--seed N] [--fresh] [--fork N]
  SECONDS  how long, 60 when not said     TARGET  ${targets.join(', ')}; the first when not said
  --runs   at most so many inputs         --seed  of the random choices; another in each run when not said
  --fresh  without the corpus of the runs before (services/vcpu/build/fuzz/TARGET.corpus)
  --fork   so many processes
Needs clang++ with libFuzzer (Debian: clang, libclang-rt-14-dev). An input that fails is left in services/vcpu/build/fuzz as
crash-HASH; TARGET crash-HASH runs it again.`;

function fail(text) {
  console.error(text);
  process.exit(2);
}

let parsed;
try {
  const flag = { type: 'string' };
  parsed = parseArgs({
    allowPositionals: true,
    options: { runs: flag, seed: flag, fork: flag, fresh: { type: 'boolean' }, help: { type: 'boolean' } },
  });
} catch (error) {
  fail(`${error.message}\n${usage}`);
}
const { values, positionals } = parsed;
if (values.help) {
  console.log(usage);
  process.exit(0);
}
const [seconds = '60', target = targets[0]] = positionals;
for (const [name, value] of [
  ['SECONDS', seconds],
  ...['runs', 'seed', 'fork'].map((k) => [`--${k}`, values[k]]),
])
  if (value !== undefined && !/^\d{1,9}$/.test(value))
    fail(`${name}: a number is wanted, not ${value}\n${usage}`);
if (!targets.includes(target)) fail(`no target ${target}\n${usage}`);
const why = missing();
if (why) fail(`fuzzing is not possible here: ${why}`);

const [program] = await build([target], (line) => console.log(line)).catch((error) => fail(error.message));
const corpus = join(output, `${target}.corpus`);
mkdirSync(corpus, { recursive: true });
const run = spawnSync(
  program,
  [
    ...(values.fresh ? [] : [corpus]),
    `-max_total_time=${seconds}`,
    ...(values.runs ? [`-runs=${values.runs}`] : []),
    ...(values.seed ? [`-seed=${values.seed}`] : []),
    ...(values.fork ? [`-fork=${values.fork}`] : []),
    '-max_len=1024',
    '-len_control=0',
    // A guest of the translator's target may take 30 s on a slow machine before it is a hang (test/differ).
    '-timeout=100',
    '-print_final_stats=1',
  ],
  { stdio: 'inherit', cwd: output },
);
process.exit(run.status ?? 1);
