#!/usr/bin/env node
/**
 * kvm-unit-tests on the software CPU (soft-run: the CPU alone) and on QEMU TCG, as a table. It fetches nothing: it is given
 * trees that were built by `./configure --arch=x86_64` (or i386) and `make`, https://gitlab.com/kvm-unit-tests/kvm-unit-tests.
 */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const usage = `usage: npm run kvm-unit-tests -- TREE... [--only NAME,NAME] [--skip NAME,NAME] [--seconds N] [--jobs N] [--kvm]
  TREE       a built kvm-unit-tests, of 64 or 32 bits
  --only     these tests alone (names of x86/unittests.cfg)    --skip  all but these
  --seconds  how long a test may take, 40 when not said        --jobs  so many at a time, 1 when not said
  --kvm      also the tests that say they need KVM
The exit status is 1 when a test that TCG passes fails here without a reason that is known.`;
const fail = (text) => {
  console.error(text);
  process.exit(2);
};

/** Why a test that TCG passes need not pass here. */
const device = 'wants a device of a PC; soft-run is the CPU alone';
const reasons = {
  syscall: 'our CPU is one of Intel: SYSCALL of 32-bit code is #UD (SDM 2B). TCG is AMD here',
  ioapic: device,
  hpet_read_test: device,
};

let parsed;
try {
  const text = { type: 'string' };
  const flag = { type: 'boolean' };
  const options = { only: text, skip: text, seconds: text, jobs: text, kvm: flag, help: flag };
  parsed = parseArgs({ allowPositionals: true, options });
} catch (error) {
  fail(`${error.message}\n${usage}`);
}
const { values, positionals: trees } = parsed;
if (values.help) {
  console.log(usage);
  process.exit(0);
}
const number = (name, otherwise) => {
  const n = Number(values[name] ?? otherwise);
  if (!Number.isInteger(n) || n < 1 || n > 3600) fail(`--${name}: 1 to 3600, not ${values[name]}\n${usage}`);
  return n;
};
const seconds = number('seconds', 40);
const jobs = number('jobs', 1);
const names = (list) => (list ? new Set(list.split(',')) : undefined);
const [only, skip] = [names(values.only), names(values.skip)];
if (trees.length === 0) fail(`a built tree of kvm-unit-tests is wanted\n${usage}`);

/** The tests of a tree that apply: x86/unittests.cfg has one section for each. */
function testsOf(tree) {
  const read = (name) => {
    const path = join(tree, name);
    return existsSync(path)
      ? readFileSync(path, 'utf8')
      : fail(`${path} is not there: a built tree is wanted\n${usage}`);
  };
  const arch = /^ARCH=(\S+)/m.exec(read('config.mak'))?.[1];
  const tests = [];
  for (const [, name, body] of read('x86/unittests.cfg').matchAll(/^\[([^\]]+)\]\n((?:(?!\[).*\n?)*)/gm)) {
    const entry = Object.fromEntries(
      [...body.matchAll(/^(\w+) *= *(.*)$/gm)].map(([, k, v]) => [
        k,
        v.trim().replace(/^(['"])(.*)\1$/, '$2'),
      ]),
    );
    const file = join(tree, 'x86', entry.file ?? '');
    const qemu = entry.qemu_params ?? entry.extra_params ?? '';
    const wanted = only ? only.has(name) : !entry.groups?.split(' ').includes('nodefault');
    if (!wanted || skip?.has(name) || (entry.arch && entry.arch !== arch) || !existsSync(file)) continue;
    if (!only && entry.accel === 'kvm' && !values.kvm) continue;
    tests.push({
      name,
      bits: arch === 'i386' ? 32 : 64,
      file,
      cpus: entry.smp ?? '1',
      args: entry.test_args ?? '',
      memory: /-m (\d+)/.exec(qemu)?.[1] ?? '256',
      // `host` and models of Intel's CPUs want KVM.
      cpu: /-cpu ((?!host|IvyBridge)\S+)/.exec(qemu)?.[1] ?? 'max',
    });
  }
  return tests;
}

const run = (command, args) =>
  new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let text = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (b) => {
        if (text.length < 1 << 24) text += b.toString('latin1');
      });
    }
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      child.kill('SIGKILL');
    }, seconds * 1000);
    child.on('error', reject);
    child.on('close', (code) => {
      clearTimeout(timer);
      resolve({ text, code, late });
    });
  });

async function runTcg(t) {
  const qemu = (cpu) =>
    run('qemu-system-x86_64', [
      ...['-accel', 'tcg', '-cpu', cpu, '-m', t.memory, '-smp', t.cpus, '-nodefaults', '-display', 'none'],
      ...['-device', 'pc-testdev', '-device', 'isa-debug-exit,iobase=0xf4,iosize=0x4', '-serial', 'stdio'],
      ...['-no-reboot', '-kernel', t.file, '-append', t.args],
    ]);
  const r = await qemu(t.cpu);
  // A model or a property that this QEMU does not have.
  return /^qemu-system-x86_64: (?!warning)/m.test(r.text) ? qemu('max') : r;
}

/** The exit port gives 2 n + 1: 1 is passed, 77 is skipped. */
function judge({ text, code, late }) {
  const count = (word) => [...text.matchAll(new RegExp(`^${word}\\b`, 'gm'))].length;
  const counts = { pass: count('PASS'), fail: count('FAIL'), skip: count('SKIP') };
  const all = counts.pass + counts.fail + counts.skip;
  const summary = /^SUMMARY: /m.test(text);
  const end = late
    ? 'no end'
    : code === 1
      ? all > 0 && counts.pass + counts.fail === 0
        ? 'skip'
        : 'pass'
      : code === 77
        ? 'skip'
        : summary || counts.fail > 0
          ? 'fail'
          : 'ends early';
  return { ...counts, end };
}
const shown = (r) => (r ? `${r.end} | ${r.pass} | ${r.fail} | ${r.skip}` : '- | - | - | -');

const tests = trees.flatMap(testsOf);
if (tests.length === 0) fail('no such test');
const { build } = await import('../services/vcpu/build.mjs');
build({ target: 'soft-run' });
const program = fileURLToPath(new URL('../services/vcpu/build/Release/soft-run', import.meta.url));
const version = spawnSync('qemu-system-x86_64', ['--version'], { encoding: 'utf8' });
if (version.status !== 0) console.log('TCG: skipped: qemu-system-x86_64 is not installed');
const tcg = version.status === 0;

const results = new Array(tests.length);
let at = 0;
async function worker() {
  while (at < tests.length) {
    const k = at++;
    const t = tests[k];
    const ours = judge(
      await run(program, [
        ...['--elf', t.file, '--mem', t.memory, '--cpus', t.cpus, '--append', t.args, '--quiet'],
        ...['--seconds', String(seconds + 5)],
      ]),
    );
    const theirs = tcg ? judge(await runTcg(t)) : undefined;
    results[k] = { ...t, ours, theirs };
    console.error(`[${k + 1}/${tests.length}] ${t.name} ${t.bits}: ${ours.end}, TCG ${theirs?.end ?? '-'}`);
  }
}
await Promise.all(Array.from({ length: jobs }, worker));

console.log(`${version.stdout?.split('\n')[0] ?? ''}; ${seconds} s each\n`);
console.log('| test | bits | Nyx | pass | fail | skip | TCG | pass | fail | skip | |');
console.log('|---|---|---|---|---|---|---|---|---|---|---|');
let worse = 0;
let passed = 0;
let theyPassed = 0;
for (const r of results) {
  const bad = r.theirs?.end === 'pass' && r.ours.end !== 'pass';
  const why = bad ? (reasons[r.name] ?? 'WORSE') : '';
  worse += why === 'WORSE';
  passed += r.ours.end === 'pass';
  theyPassed += r.theirs?.end === 'pass';
  console.log(`| ${r.name} | ${r.bits} | ${shown(r.ours)} | ${shown(r.theirs)} | ${why} |`);
}
console.log(
  `\n${results.length} tests: ${passed} pass here, ${theyPassed} with TCG, ${worse} pass with TCG alone without a reason that is known`,
);
process.exitCode = worse ? 1 : 0;
