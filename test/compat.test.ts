/** 32-bit programs under a 64-bit kernel, on the software CPU. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { vmTest } from '@nyx/testkit';
import { afterAll, expect } from 'vitest';

const folder = mkdtempSync(join(tmpdir(), 'nyx-compat-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A static program for i386. The assembler comes with the compiler. */
const assemble = (name: string, text: string): Buffer => {
  const at = (end: string): string => join(folder, `${name}${end}`);
  writeFileSync(at('.s'), `.globl _start\n_start:\n${text}\n`);
  for (const [command, args] of [
    ['as', ['--32', at('.s'), '-o', at('.o')]],
    ['ld', ['-m', 'elf_i386', '-s', at('.o'), '-o', at('')]],
  ] as const) {
    const r = spawnSync(command, args, { encoding: 'utf8' });
    if (r.status !== 0) throw new Error(`${command}: ${r.error?.message ?? r.stderr}`);
  }
  return readFileSync(at(''));
};

const exit = 'mov $1, %eax\n mov $7, %ebx\n int $0x80';

const test = vmTest({ image: 'debian', accel: 'soft' }, { bootTimeout: 240 });

// Linux tells an Intel CPU by its vendor, and leaves out the entry point for SYSCALL of 32-bit programs, since it is #UD there: a
// CPU that went there all the same would let any program crash the kernel.
test('SYSCALL of a 32-bit program is an undefined instruction', async ({ boot }) => {
  const vm = await boot({});
  const programs = {
    plain: assemble('plain', exit),
    call: assemble('call', `mov $20, %eax\n syscall\n ${exit}`),
  };
  for (const [name, image] of Object.entries(programs))
    await vm.run(`echo ${image.toString('base64')} | base64 -d > /tmp/${name}; chmod +x /tmp/${name}`);
  const r = await vm.run('/tmp/plain; echo $?; /tmp/call; echo $?');
  expect(r.stdout).toBe(`7\n${128 + 4}\n`);
}, 400_000);
