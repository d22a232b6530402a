import { createHash } from 'node:crypto';
import { expect, test } from 'vitest';
import { hashes } from '../spec/algorithms.ts';
import { finishHash, startHash, updateHash } from './sha.ts';

test.each(hashes)('$name: any length, cut anywhere, as node:crypto says', ({ alg, name }) => {
  for (let n = 0; n < 300; n += n < 140 ? 1 : 7) {
    const data = Buffer.from(Array.from({ length: n }, (_, i) => (i * 31 + n) & 255));
    const s = startHash(alg);
    for (let at = 0, step = 1; at < n; at += step, step = step * 2 + 1)
      updateHash(s, data.subarray(at, at + step));
    expect(finishHash(s).equals(createHash(name).update(data).digest()), `${n} octets`).toBe(true);
  }
});
