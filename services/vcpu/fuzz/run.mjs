#!/usr/bin/env node
// Builds and runs a libFuzzer target of this folder: `run.mjs [seconds] [target]`. Needs clang with libFuzzer.
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const [seconds = '60', target = 'ring_consumer'] = process.argv.slice(2);
const clang = 'clang++';
if (spawnSync(clang, ['--version']).status !== 0) {
  console.log('skipped: fuzzing needs clang++ with libFuzzer, which is not installed');
  process.exit(0);
}
const build = join(here, '../build/fuzz');
const corpus = join(build, `${target}.corpus`);
mkdirSync(corpus, { recursive: true });
// The machine without main.cc, machine.cc and engines.
const skip = new Set(['main.cc', 'machine.cc', 'build.cc', 'no_soft.cc', 'control.cc']);
const sources = readdirSync(join(here, '../src')).filter((name) => name.endsWith('.cc') && !skip.has(name));
const args = [
  '-std=c++20',
  '-g',
  '-O1',
  '-D_GNU_SOURCE',
  '-fsanitize=fuzzer,address,undefined',
  '-fno-sanitize-recover=all',
  '-msse4.2',
];
const program = join(build, target);
const files = sources.map((name) => join(here, '../src', name));
const add = (folder, skipped) => {
  for (const name of readdirSync(join(here, folder)))
    if (name.endsWith('.cc') && name !== skipped) files.push(join(here, folder, name));
};
// The decoder's tables name every handler.
if (target === 'decoder' || target === 'translator') add('../src/soft');
if (target === 'translator') {
  add('../test/differ', 'main.cc');
  // Handlers must end in jumps, as translated code demands: not at -O1. Its guests read and write guest memory, around which
  // nothing is mapped, by host address; the sanitizers watch the engine itself.
  args.push('-O2', `-I${join(here, '../test/differ')}`, `-I${join(here, '../../../libs/native/src/cc')}`);
}
const compiled = spawnSync(
  clang,
  [...args, `-I${join(here, '../src')}`, join(here, `${target}.cc`), ...files, '-o', program, '-lpthread'],
  {
    stdio: 'inherit',
  },
);
if (compiled.status !== 0) process.exit(1);
const run = spawnSync(
  program,
  [
    corpus,
    `-max_total_time=${seconds}`,
    '-max_len=1024',
    '-len_control=0',
    '-timeout=10',
    '-print_final_stats=1',
  ],
  {
    stdio: 'inherit',
    cwd: build,
  },
);
process.exit(run.status ?? 1);
