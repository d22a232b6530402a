/** Properties under fast-check draw from the seed of the run (vitest.config.ts). */
import fc from 'fast-check';

fc.configureGlobal({ seed: Number(process.env.NYX_SEED) });
