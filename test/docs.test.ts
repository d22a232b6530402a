import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));
const docs = [
  'README.md',
  'ARCHITECTURE.md',
  'CONTRIBUTING.md',
  ...readdirSync(join(root, 'docs')).map((n) => `docs/${n}`),
].filter((n) => n.endsWith('.md'));

interface Fence {
  file: string;
  info: string;
  text: string;
}
const fences: Fence[] = docs.flatMap((file) =>
  [...readFileSync(join(root, file), 'utf8').matchAll(/^```([^\n]*)\n([\s\S]*?)^```$/gm)].map((m) => ({
    file,
    info: m[1]!.trim(),
    text: m[2]!,
  })),
);

describe('documentation', () => {
  // ```ts path: the lines stand in that file, in this order.
  for (const { file, info, text } of fences) {
    const [, path] = /^\w+ (\S+\/\S+)$/.exec(info) ?? [];
    if (path) {
      it(`${file}: the excerpt of ${path} beginning "${text.split('\n')[0]!.trim().slice(0, 40)}" is what stands there`, () => {
        expect(readFileSync(join(root, path), 'utf8')).toContain(text);
      });
    }
  }
  it('has excerpts, so that the test above tests something', () => {
    expect(fences.filter((f) => / /.test(f.info)).length).toBeGreaterThan(4);
  });
});
