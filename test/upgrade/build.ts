/** Builds of the storage program with a state of another layout, as a next version of Nyx could have it. */
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const here = fileURLToPath(new URL('.', import.meta.url));
const root = fileURLToPath(new URL('../..', import.meta.url));

/** @returns path of the bundle of `NAME.ts` */
export const bundle = async (name: string): Promise<string> => {
  // Below the project, where bundles find the addon.
  const folder = mkdtempSync(join(root, 'libs/native/build/upgrade-'));
  const outfile = join(folder, `${name}.cjs`);
  await build({
    entryPoints: [join(here, `${name}.ts`)],
    outfile,
    bundle: true,
    platform: 'node',
    format: 'cjs',
    target: 'node20',
    logLevel: 'error',
    external: ['*.node'],
    define: { 'import.meta.url': '__import_meta_url' },
    banner: { js: "const __import_meta_url = require('node:url').pathToFileURL(__filename).href;" },
  });
  return outfile;
};
