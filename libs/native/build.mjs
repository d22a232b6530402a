#!/usr/bin/env node
// Compiles the addon, nyx-jail and nyx-keeper; does nothing when they are newer than their sources. The Node headers come
// with the running Node, so that nothing is downloaded: from its prefix, or from the configuration it was built with.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, statSync, utimesSync } from 'node:fs';
import { createRequire } from 'node:module';
import { cpus } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const outputs = ['nyx_native.node', 'nyx-jail', 'nyx-keeper'].map((name) =>
  join(here, 'build/Release', name),
);
const header = join(here, '../../services/vcpu/src/gen/wire.h');

const sources = () => [
  header,
  join(here, 'binding.gyp'),
  ...['src/cc', 'src/jail', 'src/keeper'].flatMap((folder) =>
    readdirSync(join(here, folder)).map((name) => join(here, folder, name)),
  ),
];
const upToDate = () => {
  if (!outputs.every(existsSync)) return false;
  const built = Math.min(...outputs.map((path) => statSync(path).mtimeMs));
  return sources().every((path) => statSync(path).mtimeMs <= built);
};

/** The prefix that holds include/node, or undefined when node-gyp must fetch the headers. */
export const nodeDir = () =>
  [dirname(dirname(process.execPath)), process.config.variables.node_prefix, '/usr', '/usr/local'].find(
    (prefix) => typeof prefix === 'string' && existsSync(join(prefix, 'include/node/node_api.h')),
  );

export function build({ force = false } = {}) {
  if (!force && upToDate()) return 'up to date';
  const gyp = createRequire(import.meta.url).resolve('node-gyp/bin/node-gyp.js');
  const prefix = nodeDir();
  const nodedir = prefix === undefined ? [] : [`--nodedir=${prefix}`];
  const run = (...args) =>
    spawnSync(process.execPath, [gyp, ...args, ...nodedir, '--loglevel=error'], {
      cwd: here,
      encoding: 'utf8',
    });
  const fail = (result) => {
    throw new Error(`The native addon did not compile:\n${result.stdout}${result.stderr}`);
  };
  const configured = existsSync(join(here, 'build/Makefile'));
  const stale =
    !configured ||
    statSync(join(here, 'build/Makefile')).mtimeMs < statSync(join(here, 'binding.gyp')).mtimeMs;
  if (force || stale) {
    const result = run('configure');
    if (result.status !== 0) fail(result);
  }
  const result = run('build', `-j${cpus().length}`);
  if (result.status !== 0) fail(result);
  // make leaves alone what did not change; all of them are as new as the sources now.
  for (const path of outputs) utimesSync(path, new Date(), new Date());
  return 'built';
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    console.log(`libs/native: ${build({ force: process.argv.includes('--force') })}`);
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  }
}
