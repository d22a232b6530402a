/** The soft CPU, interpreting and translating, against the host CPU: random instances of every instruction form, and programs (test/oracle). */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
// @ts-expect-error plain JavaScript
import { build } from '../build.mjs';

build({ target: 'soft-oracle' });
const program = fileURLToPath(new URL('../build/Release/soft-oracle', import.meta.url));

const run = (...args: string[]) => {
  const r = spawnSync(program, args, { encoding: 'utf8', timeout: 60_000 });
  return { text: `${r.stdout}${r.stderr}${r.signal ?? ''}`, status: r.status };
};

describe('soft CPU', () => {
  // A handler that calls its successor instead of jumping to it lets a guest exhaust the host's stack.
  test('every handler ends in a jump', () => {
    const archive = fileURLToPath(new URL('../build/Release/soft.a', import.meta.url));
    const r = spawnSync('objdump', ['-dC', '--no-show-raw-insn', archive], {
      encoding: 'utf8',
      maxBuffer: 1 << 28,
    });
    if (r.error) {
      console.log(`not checked: objdump: ${r.error.message}`);
      return;
    }
    const functions = r.stdout.split(/\n(?=[0-9a-f]+ <)/);
    const handlers = functions.filter((f) =>
      /\(nyx::soft::Cpu&, nyx::soft::Insn const\*\)[^\n]*>:\n/.test(f),
    );
    expect(handlers.length).toBeGreaterThan(1000);
    expect(handlers.filter((f) => /call +\*0x20\(/.test(f)).map((f) => f.split('\n')[0])).toEqual([]);
  });

  test('runs programs: links, jump cache, code that changes itself, single step', () => {
    const r = run('--programs');
    expect(r.text).toBe('programs: all as expected\n');
    expect(r.status).toBe(0);
  });

  test('random programs do the same translated as interpreted', () => {
    const r = run('--random', '--seconds', '3', '--seed', process.env.NYX_SEED!);
    expect(r.text).toMatch(/ 0 different/);
    expect(r.status).toBe(0);
  });

  const seed = process.env.NYX_SEED!;
  test.each(['int', 'simd'])('agrees with the host CPU: %s', (set) => {
    const r = run('--set', set, '--seconds', '3', '--seed', seed);
    if (/not tried/.test(r.text)) console.log(r.text);
    expect(r.text).toMatch(/ 0 different/);
    expect(r.status).toBe(0);
  });
});
