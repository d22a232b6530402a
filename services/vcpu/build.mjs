#!/usr/bin/env node
// Compiles nyx-vcpu (and, with --tests, its unit tests) by node-gyp; does nothing when it is newer than its sources.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { cpus } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { nodeDir } from '@nyx/native/build';
import { ccFiles, hasSoft } from './list-sources.mjs';

const here = dirname(fileURLToPath(import.meta.url));
const folders = ['src', 'src/gen', 'src/kvm', 'src/soft', 'test', 'test/cc', 'test/differ', 'test/oracle'];

const inputs = () =>
  folders
    .filter((folder) => existsSync(join(here, folder)))
    .flatMap((folder) => readdirSync(join(here, folder)).map((name) => join(here, folder, name)))
    .filter((path) => /\.(cc|h|inc)$/.test(path))
    .concat(join(here, 'binding.gyp'), join(here, 'list-sources.mjs'))
    // What both sides of shared memory are compiled from.
    .concat(
      ['crc32c.h', 'page_store.h', 'shared.h'].map((name) => join(here, '../../libs/native/src/cc', name)),
    );

/** What the makefiles were made from: they are made anew when files come or go. */
const sourceList = () => [...ccFiles(here, ...folders), `soft ${hasSoft(here)}`].join('\n');

const sleep = (ms) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);

/** One build at a time: test files that build what they need may run beside each other. */
function locked(run) {
  mkdirSync(join(here, 'build'), { recursive: true });
  const lock = join(here, 'build/lock');
  const alive = (pid) => {
    try {
      return pid > 0 && process.kill(pid, 0);
    } catch {
      return false;
    }
  };
  for (;;) {
    try {
      writeFileSync(lock, String(process.pid), { flag: 'wx' });
      break;
    } catch {
      let owner = 0;
      try {
        owner = Number(readFileSync(lock, 'utf8'));
      } catch {}
      // An owner that is gone left it behind; an empty file is being written.
      if (owner !== 0 && !alive(owner)) rmSync(lock, { force: true });
      else sleep(100);
    }
  }
  try {
    return run();
  } finally {
    rmSync(lock, { force: true });
  }
}

export const build = (options = {}) => locked(() => make(options));

/** target: nyx-vcpu, vcpu-tests, soft-run, soft-oracle or soft-differ. */
function make({ force = false, tests = false, target = tests ? 'vcpu-tests' : 'nyx-vcpu' }) {
  const output = join(here, 'build/Release', target);
  const listed = join(here, 'build/sources.txt');
  const list = sourceList();
  const configured = existsSync(listed) && readFileSync(listed, 'utf8') === list;
  if (!force && configured && existsSync(output)) {
    const built = statSync(output).mtimeMs;
    if (inputs().every((path) => statSync(path).mtimeMs <= built)) return 'up to date';
  }
  const gyp = createRequire(import.meta.url).resolve('node-gyp/bin/node-gyp.js');
  const prefix = nodeDir();
  const nodedir = prefix === undefined ? [] : [`--nodedir=${prefix}`];
  const run = (...args) => {
    const result = spawnSync(process.execPath, [gyp, ...args, ...nodedir, '--loglevel=error'], {
      cwd: here,
      encoding: 'utf8',
    });
    if (result.status !== 0) throw new Error(`nyx-vcpu did not compile:\n${result.stdout}${result.stderr}`);
  };
  const makefile = join(here, 'build/Makefile');
  const stale =
    !existsSync(makefile) || statSync(makefile).mtimeMs < statSync(join(here, 'binding.gyp')).mtimeMs;
  if (force || stale || !configured) {
    // make only adds to archives: an object whose source is gone would stay.
    for (const name of ['machine', 'soft'])
      for (const folder of ['build/Release', 'build/Release/obj.target'])
        rmSync(join(here, folder, `${name}.a`), { force: true });
    run('configure');
    writeFileSync(listed, list);
  }
  run('build', target, `-j${cpus().length}`);
  return 'built';
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    const options = { force: process.argv.includes('--force'), tests: process.argv.includes('--tests') };
    console.log(`services/vcpu: ${build(options)}`);
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  }
}
