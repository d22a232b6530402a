#!/usr/bin/env node
// Bundles a service's entry points: `node tools/bundle.mjs src/main.ts=platform`. The addon and packages with binaries stay
// outside. Run by `turbo run build` in each service. An entry becomes three files in dist: NAME.js is the bundle, NAME.cache V8's
// code cache of it, NAME.cjs runs the one from the other, which saves half of the time that loading takes.
import { spawnSync } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const entries = process.argv.slice(2).map((a) => a.split('='));
const cwd = process.cwd();
const dist = join(cwd, 'dist');
await build({
  absWorkingDir: cwd,
  entryPoints: entries.map(([from, out]) => ({ in: resolve(from), out })),
  outdir: dist,
  bundle: true,
  platform: 'node',
  format: 'cjs',
  target: 'node20',
  sourcemap: true,
  legalComments: 'none',
  logLevel: 'warning',
  external: ['zeromq', 'pino', '*.node'],
  // `import.meta.url` in a CommonJS bundle: the file itself.
  define: {
    'import.meta.url': '__import_meta_url',
    // msgpackr looks for a binary, 7 ms of every start, for messages of a few hundred bytes.
    'process.env.MSGPACKR_NATIVE_ACCELERATION_DISABLED': '"true"',
  },
  // A script run by node:vm has no import(); what stays outside is all CommonJS.
  supported: { 'dynamic-import': false },
  // Less to read and compile at each start; names stay, for stack traces.
  minifyWhitespace: true,
  minifySyntax: true,
  // One line, for the source map's sake.
  banner: {
    js: "(function(exports,require,module,__filename,__dirname){const __import_meta_url=require('node:url').pathToFileURL(__filename).href;",
  },
  footer: { js: '})' },
});

/** Runs a bundle. What is wrong with its cache (another version of Node, other flags) costs time, nothing else. */
const stub = (name, sourceBytes) => `'use strict';
const { readFileSync } = require('node:fs');
const { join } = require('node:path');
const vm = require('node:vm');
const filename = join(__dirname, '${name}.js');
let cachedData;
try {
  cachedData = readFileSync(join(__dirname, '${name}.cache'));
} catch {}
const source = readFileSync(filename, 'latin1');
if (source.length !== ${sourceBytes}) throw new Error(\`\${filename} is not of this build: npm run build\`);
const run = new vm.Script(source, { filename, cachedData }).runInThisContext();
run(exports, require, module, __filename, __dirname);
`;

/** Arguments with which a command loads its code and ends. */
const warm = { nyx: ['--version'], nyxd: ['--early'] };
for (const [, name] of entries) {
  const [bundle, cache] = [join(dist, `${name}.js`), join(dist, `${name}.cache`)];
  const source = readFileSync(bundle);
  // Latin 1 takes half of the memory and is read without decoding.
  if (source.some((b) => b > 0x7f)) throw new Error(`${bundle}: only ASCII`);
  writeFileSync(join(dist, `${name}.cjs`), stub(name, source.length));
  rmSync(cache, { force: true });
  const isDevice = name === basename(cwd);
  // As services/supervisor/src/spares.ts starts them.
  const flags = isDevice ? ['--max-semi-space-size=2'] : [];
  const maker = fileURLToPath(new URL('code-cache.mjs', import.meta.url));
  spawnSync(process.execPath, [...flags, maker, bundle, cache, ...(warm[name] ?? [])], {
    stdio: ['ignore', 'ignore', 'ignore', 'ignore', 'ignore'],
    timeout: 20_000,
    // nyxd begins a log where machines have their places; there is no such place.
    env: { ...process.env, XDG_RUNTIME_DIR: '/nonexistent' },
  });
}
