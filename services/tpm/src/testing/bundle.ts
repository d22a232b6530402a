/** The program of this service as tests run it: one file, in a folder of its own below dist. */
import { mkdirSync, mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { buildSync } from 'esbuild';

/** @returns the folder and the file; whoever asked removes the folder */
export function bundle(): { folder: string; file: string } {
  const dist = join(import.meta.dirname, '../../dist');
  mkdirSync(dist, { recursive: true });
  const folder = mkdtempSync(join(dist, 'test-'));
  const file = join(folder, 'tpm.cjs');
  buildSync({
    entryPoints: [join(import.meta.dirname, '../main.ts')],
    outfile: file,
    bundle: true,
    platform: 'node',
    format: 'cjs',
    target: 'node20',
    external: ['*.node'],
    define: { 'import.meta.url': '__import_meta_url' },
    banner: { js: "const __import_meta_url = require('node:url').pathToFileURL(__filename).href;" },
  });
  return { folder, file };
}
