#!/usr/bin/env node
// Makes a fresh clone runnable: npm packages, native code, bundles. Quick when nothing changed.
import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { main, root, run, step, UserError } from './lib/steps.mjs';

const has = async (command, args) => {
  try {
    await run(command, args);
    return true;
  } catch {
    return false;
  }
};

async function packages() {
  const marker = join(root, 'node_modules/.package-lock.json');
  const lock = join(root, 'package-lock.json');
  if (existsSync(marker) && statSync(marker).mtimeMs >= statSync(lock).mtimeMs) return 'up to date';
  // No package of ours needs an install script: prebuilt binaries come inside the packages.
  await run('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund']);
  return '';
}

async function toolchain() {
  if (!existsSync(join(root, 'services/vcpu/build/Release/nyx-vcpu'))) {
    if (
      !(await has('g++', ['--version'])) ||
      !(await has('make', ['--version'])) ||
      !(await has('python3', ['--version']))
    )
      throw new UserError(
        'Nyx compiles two small native programs and found no compiler.\nInstall one: sudo apt-get install g++ make python3',
      );
  }
}

/** Brings the tree up to date; returns when everything that `nyx` needs is built. */
export async function bootstrap() {
  const [major] = process.versions.node.split('.').map(Number);
  if (major < 20) throw new UserError(`Nyx needs Node.js 20 or newer; this is ${process.versions.node}`);
  await step('npm packages', packages);
  await toolchain();
  await step('build (native code, bundles)', async () => {
    const output = await run(
      join(root, 'node_modules/.bin/turbo'),
      ['run', 'build', '--output-logs=errors-only'],
      {
        env: { ...process.env, TURBO_TELEMETRY_DISABLED: '1', DO_NOT_TRACK: '1', TURBO_UI: 'false' },
      },
    );
    const [, cached, total] = /Cached:\s+(\d+) cached, (\d+) total/.exec(output) ?? [];
    return cached === total ? 'up to date' : `${total - cached} of ${total} built`;
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.argv.includes('--help'))
    console.log('npm run build: installs packages, compiles native code, bundles services');
  else await main(bootstrap);
}
