/** Guests that run on the soft CPU alone (soft_run.cc), without a machine around it. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from 'vitest';
// @ts-expect-error plain JavaScript
import { build } from '../build.mjs';

build({ target: 'soft-run' });
const program = fileURLToPath(new URL('../build/Release/soft-run', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'nyx-soft-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** Assembles `guests/NAME.s` to an ELF file at 1 MiB. The assembler comes with the compiler that built the program. */
function assemble(name: string): string {
  const source = fileURLToPath(new URL(`guests/${name}.s`, import.meta.url));
  const object = join(folder, `${name}.o`);
  const image = join(folder, `${name}.elf`);
  for (const [command, args] of [
    ['as', ['--32', source, '-o', object]],
    ['ld', ['-m', 'elf_i386', '-N', '-Ttext', '0x100000', '-e', '_start', object, '-o', image]],
  ] as const) {
    const r = spawnSync(command, args, { encoding: 'utf8' });
    if (r.status !== 0) throw new Error(`${command}: ${r.error?.message ?? r.stderr}`);
  }
  return image;
}

const guests = [
  { name: 'crossmod', cpus: '2', what: 'code that one vCPU changes is what the other one runs' },
  { name: 'crossmod64', cpus: '2', what: 'the same in 64-bit mode, in translated code' },
  { name: 'selfmod', cpus: '1', what: 'code that a vCPU changes is what it runs next' },
];

test.each(guests)(
  '$what',
  ({ name, cpus }) => {
    const r = spawnSync(program, ['--elf', '--cpus', cpus, '--seconds', '50', assemble(name)], {
      encoding: 'utf8',
      timeout: 60_000,
    });
    expect({ status: r.status, text: r.status === 0x21 ? '' : r.stderr }).toEqual({ status: 0x21, text: '' });
  },
  90_000,
);
