#!/usr/bin/env node
// `npm run sweep [-- options]`: the crash sweep (test/sweep/main.ts), after a build.
import { join } from 'node:path';
import { bootstrap } from './bootstrap.mjs';
import { main, root, run } from './lib/steps.mjs';

await main(async () => {
  await bootstrap();
  const args = [join(root, 'test/sweep/main.ts'), ...process.argv.slice(2)];
  await run(join(root, 'node_modules/.bin/tsx'), args, { inherit: true });
});
