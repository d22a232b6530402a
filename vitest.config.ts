import { defineConfig } from 'vitest/config';

/**
 * Tests that draw random cases draw the same ones each time, so that a run tells about the change that is tested and not about
 * luck. NYX_SEED=NUMBER chooses others, NYX_SEED=random a new set, which is printed.
 */
const seed =
  process.env.NYX_SEED === 'random' ? String(Date.now() % 2 ** 31) : (process.env.NYX_SEED ?? '20261');
if (seed !== '20261' && !process.env.VITEST_WORKER_ID) console.log(`NYX_SEED=${seed}`);

export default defineConfig({
  test: {
    include: ['libs/**/*.test.ts', 'services/**/*.test.ts', 'test/**/*.test.ts'],
    exclude: ['**/node_modules/**', '**/dist/**', '**/build/**'],
    env: { NYX_SEED: seed },
    setupFiles: ['tools/lib/seed.ts'],
    pool: 'forks',
    // Two cores: a VM under test needs them for itself.
    maxWorkers: 2,
    testTimeout: 30_000,
    hookTimeout: 60_000,
  },
});
