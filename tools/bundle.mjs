#!/usr/bin/env node
// Bundles a service's entry points to CommonJS files: `node tools/bundle.mjs services/platform src/main.ts=platform`.
// The addon and packages with binaries stay outside. Run by `turbo run build` in each service.
import { join, resolve } from 'node:path';
import { build } from 'esbuild';

const entries = process.argv.slice(2).map((a) => a.split('='));
const cwd = process.cwd();
await build({
  absWorkingDir: cwd,
  entryPoints: entries.map(([from, out]) => ({ in: resolve(from), out })),
  outdir: join(cwd, 'dist'),
  outExtension: { '.js': '.cjs' },
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
  // Less to read and compile at each start; names stay, for stack traces.
  minifyWhitespace: true,
  minifySyntax: true,
  banner: { js: "const __import_meta_url = require('node:url').pathToFileURL(__filename).href;" },
});
