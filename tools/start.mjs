#!/usr/bin/env node
// `npm start`: build what is missing, then show a Linux guest surviving the death of its devices.
import { join } from 'node:path';
import { bootstrap } from './bootstrap.mjs';
import { main, root, run } from './lib/steps.mjs';

await main(async () => {
  if (process.argv.includes('--help')) {
    console.log(
      'npm start: builds Nyx, prepares a Debian guest, boots it, kills its devices, shows that it goes on',
    );
    return;
  }
  await bootstrap();
  await run(join(root, 'bin/nyx'), ['demo', ...process.argv.slice(2)], { inherit: true });
});
