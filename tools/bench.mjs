#!/usr/bin/env node
// `npm run bench [-- name...]`: every `bench/*.bench.ts` of the tree, one after the other, each in its own process.
import { readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { bootstrap } from './bootstrap.mjs';
import { main, root, run, UserError } from './lib/steps.mjs';

function* benches(dir) {
  for (const entry of readdirSync(join(root, dir), { withFileTypes: true })) {
    if (entry.name === 'node_modules' || entry.name === 'dist' || entry.name === 'build') continue;
    const path = join(dir, entry.name);
    if (entry.isDirectory()) yield* benches(path);
    else if (entry.name.endsWith('.bench.ts')) yield path;
  }
}

await main(async () => {
  const all = [...benches('libs'), ...benches('services'), ...benches('test')];
  const names = all.map((p) => basename(p, '.bench.ts'));
  const wanted = process.argv.slice(2).filter((a) => !a.startsWith('-'));
  if (process.argv.includes('--help')) {
    console.log(`npm run bench [-- ${names.join('|')}...]`);
    return;
  }
  const unknown = wanted.find((w) => !names.includes(w));
  if (unknown) throw new UserError(`no bench '${unknown}'; there are: ${names.join(', ')}`);
  await bootstrap();
  for (const [i, path] of all.entries()) {
    if (wanted.length && !wanted.includes(names[i])) continue;
    console.log(`\n== ${names[i]}`);
    await run(join(root, 'node_modules/.bin/tsx'), [join(root, path)], { inherit: true });
  }
});
