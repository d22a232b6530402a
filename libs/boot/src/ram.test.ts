import { closeSync, ftruncateSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { bytesFile } from './file.ts';
import { GuestRam } from './ram.ts';

const MiB = 1 << 20;

test('pieces of a file go through the descriptor, whole; zeros are left out of fresh memory alone', () => {
  const folder = mkdtempSync(join(tmpdir(), 'nyx-ram-'));
  const path = join(folder, 'ram');
  const fd = openSync(path, 'w+');
  try {
    ftruncateSync(fd, 2 * MiB);
    // Stands for what another guest left: only loading tells whether it was overwritten.
    writeSync(fd, Buffer.alloc(2 * MiB, 0xee));
    const ram = new GuestRam(new ArrayBuffer(2 * MiB), 2 * MiB, fd);
    const content = Buffer.alloc(700_001);
    for (let i = 600_000; i < content.length; i++) content[i] = 1 + (i % 255);
    const load = (): Buffer => {
      ram.load(0x1_0000, bytesFile(content), 1, content.length - 1);
      return readFileSync(path);
    };
    const whole = content.subarray(1);
    const at = (memory: Buffer): Buffer => memory.subarray(0x1_0000, 0x1_0000 + whole.length);

    ram.isFresh = true;
    const fresh = load();
    expect(at(fresh).subarray(600_000).equals(whole.subarray(600_000))).toBe(true);
    expect(fresh[0x1_0000]).toBe(0xee);

    ram.isFresh = false;
    const again = load();
    expect(at(again).equals(whole)).toBe(true);
    expect(again[0xffff]).toBe(0xee);
    expect(again[0x1_0000 + whole.length]).toBe(0xee);
  } finally {
    closeSync(fd);
    rmSync(folder, { recursive: true });
  }
});
