/** TPM_FUZZ_SECONDS=600: so long instead of a sample; NYX_SEED=N: another one. */
import { expect, test } from 'vitest';
import { fuzz } from './fuzz.ts';

const seconds = Number(process.env.TPM_FUZZ_SECONDS ?? 0);
const seed = Number(process.env.NYX_SEED ?? 1);

test(
  'random commands, one after the other: always an answer, never failure mode, bounded state',
  async () => {
    const until = performance.now() + 1000 * seconds;
    const r = await fuzz(seed, (n) => (seconds > 0 ? performance.now() < until : n < 3000));
    process.stdout.write(
      `${r.commands} commands, ${r.succeeded} carried out of ${r.kinds.size} kinds, ${r.codes.size} response codes\n`,
    );
    expect(r.kinds.size).toBeGreaterThan(60);
    expect(r.codes.size).toBeGreaterThan(60);
  },
  1000 * (seconds + 400),
);
