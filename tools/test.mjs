#!/usr/bin/env node
// `npm test [filter...]`: builds, then runs every test (or those whose path contains a filter).
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { bootstrap } from './bootstrap.mjs';
import { main, root, run, step } from './lib/steps.mjs';

await main(async () => {
  if (process.argv.includes('--help')) {
    console.log('npm test [path filter...]: builds what is missing, runs the checks and the tests');
    return;
  }
  const filters = process.argv.slice(2);
  await bootstrap();
  let failure;
  // A failed check does not keep the tests from telling more.
  if (filters.length === 0)
    await step('checks', () => run(process.execPath, [join(root, 'tools/check.mjs')]).then(() => '')).catch(
      (error) => {
        failure = error;
        console.error(error.message);
      },
    );
  const report = join(root, 'node_modules/.vitest-report.json');
  rmSync(report, { force: true });
  try {
    await run(
      join(root, 'node_modules/.bin/vitest'),
      ['run', '--reporter=default', '--reporter=json', `--outputFile.json=${report}`, ...filters],
      { inherit: true },
    );
  } catch (error) {
    failure = error;
  }
  const result = JSON.parse(readFileSync(report, 'utf8'));
  const skipped = result.numPendingTests + result.numTodoTests;
  console.log(`${result.numPassedTests} passed, ${result.numFailedTests} failed, ${skipped} skipped`);
  if (failure) process.exitCode = 1;
});
