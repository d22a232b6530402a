/** Runs the C++ unit tests of test/cc, each as a test of its own. */
import { execFileSync, spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
// @ts-expect-error plain JavaScript
import { build } from '../build.mjs';

build({ tests: true });
const program = fileURLToPath(new URL('../build/Release/vcpu-tests', import.meta.url));
const names = execFileSync(program, ['--list'], { encoding: 'utf8' }).trim().split('\n');

describe('vcpu, C++', () => {
  test.each(names)('%s', (name) => {
    const r = spawnSync(program, [name], { encoding: 'utf8', timeout: 20_000 });
    expect(`${r.stderr}${r.signal ?? ''}`).toBe('');
    expect(r.status).toBe(0);
  });
});
