/** Any bytes as a guest, in ten modes of the CPU: interpreted and translated must do the same (test/differ). */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from 'vitest';
// @ts-expect-error plain JavaScript
import { build } from '../build.mjs';

build({ target: 'soft-differ' });
const program = fileURLToPath(new URL('../build/Release/soft-differ', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'nyx-differ-'));
afterAll(() => rmSync(folder, { recursive: true }));

const run = (...args: string[]) => spawnSync(program, args, { encoding: 'utf8', timeout: 240_000 });

describe('random guests', () => {
  test('do the same translated as interpreted', () => {
    const r = run('--runs', '5000', '--seed', process.env.NYX_SEED!);
    expect(r.stdout).toMatch(/^5000 guests, \d+ instructions, \d+ ended by themselves, 0 different, seed/);
    expect(r.status).toBe(0);
  }, 250_000);

  const found = [
    {
      what: 'MOV from a segment register with REX.R',
      // Long mode, CPL 0: REX.WRB MOV R15, DS; a register number of 11 once read behind the segment registers.
      bytes: '06 00 00 00 01 00 00 00 4d 8c df 4c 8c d8 4c 8e d8 f4',
    },
  ];
  test.each(found)(
    '$what',
    ({ bytes }) => {
      const file = join(folder, 'input');
      writeFileSync(file, Buffer.from(bytes.replaceAll(' ', ''), 'hex'));
      const r = run(file);
      expect(r.stdout).toMatch(/^1 guests, \d+ instructions, 1 ended by themselves, 0 different/);
      expect(r.status).toBe(0);
    },
    250_000,
  );
});
