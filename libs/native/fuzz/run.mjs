#!/usr/bin/env node
// Builds the fuzz target with clang and runs it: `node libs/native/fuzz/run.mjs [seconds]` (default 60). Needs clang.
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const output = join(here, '../build/fuzz');
mkdirSync(join(output, 'corpus'), { recursive: true });
const run = (command, ...args) => {
  const { status, error } = spawnSync(command, args, { cwd: output, stdio: 'inherit' });
  if (error) console.error(`${command}: ${error.message}`);
  if (status !== 0) process.exit(status ?? 1);
};
run(
  'clang++',
  ...['-std=c++20', '-O1', '-g', '-fsanitize=fuzzer,address,undefined', '-fno-sanitize-recover=all'],
  ...['-I', join(here, '../../../services/vcpu/src/gen'), '-D_GNU_SOURCE'],
  join(here, 'exit_rings_fuzz.cc'),
  join(here, '../src/cc/exit_rings.cc'),
  ...['-o', 'exit_rings_fuzz'],
);
run(
  './exit_rings_fuzz',
  `-max_total_time=${Number(process.argv[2] ?? 60)}`,
  '-max_len=1024',
  '-print_final_stats=1',
  'corpus',
);
