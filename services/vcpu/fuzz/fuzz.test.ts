/** The fuzz targets build and find nothing in a few seconds; `node services/vcpu/fuzz/run.mjs 600 TARGET` looks longer. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
// @ts-expect-error plain JavaScript
import { build, missing, targets } from './build.mjs';

const why: string | undefined = missing();
if (why) console.warn(`fuzz targets left out: ${why}`);

// How many inputs each takes in some seconds.
const runs: Record<string, number> = { ring_consumer: 300, decoder: 30_000, translator: 1000 };

describe.skipIf(why)('fuzz targets', () => {
  const folder = mkdtempSync(join(tmpdir(), 'nyx-fuzz-'));
  afterAll(() => rmSync(folder, { recursive: true }));
  let programs: string[];
  beforeAll(async () => {
    programs = await build(targets);
  }, 600_000);

  test.each(targets as string[])(
    '%s',
    (target) => {
      const seed = `-seed=${process.env.NYX_SEED}`;
      // A time limit as well: how long a guest of the translator's target runs depends on the machine.
      const limits = [`-runs=${runs[target]}`, '-max_total_time=60', '-timeout=100'];
      const r = spawnSync(
        programs[targets.indexOf(target)]!,
        [seed, ...limits, '-max_len=256', '-len_control=0'],
        { cwd: folder, encoding: 'utf8', timeout: 200_000, maxBuffer: 1 << 26 },
      );
      expect(`${r.error?.message ?? ''}${r.status === 0 ? '' : r.stderr}`).toBe('');
      // Inputs were run, and led to different paths.
      expect(Number(/Done (\d+) runs/.exec(r.stderr)?.[1])).toBeGreaterThan(20);
      expect(Number(/cov: (\d+) ft: \d+ corp: [^\n]*\n(?!.*cov: )/s.exec(r.stderr)?.[1])).toBeGreaterThan(
        150,
      );
    },
    250_000,
  );
});
