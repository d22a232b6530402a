/**
 * Fuzz targets of vhost-user: `tsx libs/vhost-user/fuzz/run.ts [session|chains] [seconds] [seed]`. What it found is told as
 * the seed that finds it again.
 */
import { chainTarget, FuzzBackend, sessionTarget } from '../src/testing/fuzz.ts';

const [target = 'session', seconds = '60', first = String(Date.now() % 2 ** 31)] = process.argv.slice(2);
const run = target === 'chains' ? chainTarget : sessionTarget;
const backend = new FuzzBackend();
const end = Date.now() + Number(seconds) * 1000;
let seed = Number(first);
let count = 0;
try {
  for (; Date.now() < end; seed++, count++) {
    backend.warnings.length = 0;
    await run(backend, seed);
    if (count % 20 === 0) await backend.good();
  }
  await backend.good();
  console.log(`${target}: ${count} inputs, ${JSON.stringify(backend.backend.counters)}`);
} catch (e) {
  console.error(`${target} failed with seed ${seed}: ${(e as Error).stack}`);
  process.exitCode = 1;
} finally {
  backend.close();
}
process.exit();
