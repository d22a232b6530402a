/**
 * What a packed ring would save (decision 0014): rings.cc beside, with nothing done for a request, and with 4 KiB copied.
 * Alternating rounds; ROUNDS=n. Needs g++.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { noise, spread } from './noise.ts';

const rounds = Number(process.env.ROUNDS ?? 5);
const folder = mkdtempSync(join(tmpdir(), 'nyx-rings-'));
const program = join(folder, 'rings');
try {
  const source = fileURLToPath(new URL('rings.cc', import.meta.url));
  execFileSync('g++', ['-std=c++20', '-O2', '-pthread', '-o', program, source], { stdio: 'inherit' });
  console.log(`${await noise()}; ns per request, 32 under way, driver and device poll`);
  for (const bytes of [0, 4096]) {
    const split: number[] = [];
    const packed: number[] = [];
    for (let round = 0; round < rounds; round++) {
      const [s, p] = execFileSync(program, [String(bytes)], { encoding: 'utf8' })
        .trim()
        .split(' ')
        .map(Number);
      split.push(s!);
      packed.push(p!);
    }
    const saved = split.map((s, i) => s - packed[i]!);
    console.log(
      `${bytes} bytes copied: split ${spread(split)}, packed ${spread(packed)}, saved by packed ${spread(saved)}`,
    );
  }
} finally {
  rmSync(folder, { recursive: true });
}
