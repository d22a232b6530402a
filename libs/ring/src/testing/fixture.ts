/** Rings and state blocks for tests. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { close, eventfd, memfdCreate, mmap } from '@nyx/native';
import { buildSync } from 'esbuild';
import { defaultBlockBytes } from '../block.ts';
import { formatRings, ringsBytes } from '../rings.ts';

export interface RingFixture {
  fd: number;
  kick: number;
  buffer: ArrayBuffer;
  close(): void;
}

export function makeRings(cpus = 1): RingFixture {
  const fd = memfdCreate('rings', ringsBytes(cpus));
  const buffer = mmap(fd, ringsBytes(cpus));
  formatRings(buffer, cpus);
  const kick = eventfd();
  return {
    fd,
    kick,
    buffer,
    close() {
      close(fd);
      close(kick);
    },
  };
}

export function makeBlock(bytes = defaultBlockBytes): { fd: number; buffer: ArrayBuffer } {
  const fd = memfdCreate('state', bytes);
  return { fd, buffer: mmap(fd, bytes) };
}

/** Bundles `testing/NAME.ts` as services are, and returns the path of the CommonJS file, which calls its `main`. */
export function bundle(name: string): string {
  const folder = fileURLToPath(new URL('../../dist', import.meta.url));
  mkdirSync(folder, { recursive: true });
  const outfile = join(folder, `${name}.${process.pid}.cjs`);
  buildSync({
    stdin: {
      contents: `import { main } from './${name}.ts'; main();`,
      resolveDir: fileURLToPath(new URL('.', import.meta.url)),
    },
    outfile,
    bundle: true,
    platform: 'node',
    format: 'cjs',
    logLevel: 'error',
  });
  return outfile;
}

export const startCounter = (
  path: string,
  rings: RingFixture,
  state: number,
  killAt = 0,
  killPoint = 0,
  jail = false,
): ChildProcess =>
  spawn(process.execPath, [path, String(killAt), String(killPoint), ...(jail ? ['jail'] : [])], {
    stdio: ['ignore', 'inherit', 'inherit', rings.fd, rings.kick, state],
    env: {},
  });
