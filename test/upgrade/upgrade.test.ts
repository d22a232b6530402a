/** Device processes are replaced by other builds of their program while a Linux guest writes to its disk. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ImageStore } from '@nyx/image';
import { vmTest } from '@nyx/testkit';
import { afterAll, describe, expect } from 'vitest';
import { bundle } from './build.ts';

process.env.XDG_RUNTIME_DIR = mkdtempSync(join(tmpdir(), 'nyx-upgrade-'));
const image = await new ImageStore().build('debian').catch((e: Error) => {
  console.warn(`tests of live upgrades are left out, there is no image: ${e.message}`);
  return undefined;
});
const own = fileURLToPath(new URL('../../services/storage/dist/storage.cjs', import.meta.url));
const platform = fileURLToPath(new URL('../../services/platform/dist/platform.cjs', import.meta.url));

const test = vmTest(
  {
    ...(image ? { kernel: image.vmlinux, initrd: image.initrd, append: image.cmdline } : {}),
    memory: '128M',
    accel: 'soft',
  },
  { blankDisks: [8 << 20] },
);

/** Writes numbers, reads them back past the page cache, compares; until told to stop. Says how many rounds. */
const load = `n=0; while [ ! -e /tmp/stop ]; do
  seq $((n * 7)) $((n * 7 + 60000)) | head -c 262144 >/tmp/want
  dd if=/tmp/want of=/dev/vda bs=32k seek=$((n % 16 * 8)) conv=fsync,notrunc 2>/dev/null || { echo write failed; break; }
  echo 3 >/proc/sys/vm/drop_caches
  dd if=/dev/vda bs=32k skip=$((n % 16 * 8)) count=8 2>/dev/null | cmp - /tmp/want || { echo differs in round $n; break; }
  n=$((n + 1)); done; echo rounds $n; dmesg | grep -ciE 'i/o error|timed? ?out|hung task|BUG:' || true`;

describe.runIf(image)('live upgrade', () => {
  const made: string[] = [];
  afterAll(() => {
    for (const path of made) rmSync(dirname(path), { recursive: true, force: true });
  });

  test('to the same build, to another layout, onwards, and no further back; the guest writes all the while', async ({
    vm,
  }) => {
    const [second, third, wrong, fragile] = await Promise.all(
      ['second', 'third', 'wrong', 'fragile'].map(bundle),
    );
    made.push(second!, third!, wrong!, fragile!);
    await vm.run(`(${load}) >/tmp/out 2>&1 &`);
    const versions: string[][] = [];
    const upgrade = async (device: string, to: string): Promise<void> => {
      versions.push((await vm.vm.upgrade(device, to)).migrated);
    };
    const refused = async (to: string, got: RegExp): Promise<void> => {
      const before = (await vm.vm.status()).processes.find((p) => p.name === 'disk0')!;
      await expect(vm.vm.upgrade('disk0', to)).rejects.toMatchObject({
        code: 'UPGRADE_REFUSED',
        got: expect.stringMatching(got),
      });
      const after = (await vm.vm.status()).processes.find((p) => p.name === 'disk0')!;
      expect(after.state).toBe('serving');
      // Whoever was refused before it began left the one who serves alone.
      if (to !== fragile) expect(after.pid).toBe(before.pid);
    };
    await upgrade('disk0', own);
    await upgrade('platform', platform);
    await refused(wrong!, /STATE_MIGRATION: .*upgrades = 5000, expected 0\.\.1000/);
    await refused(fragile!, /this build is broken/);
    await upgrade('disk0', second!);
    // Killed, it comes back as what it is now.
    await vm.kill('disk0');
    await refused(own, /STATE_VERSION: state of virtio-blk has version \d+, this program version \d+/);
    await upgrade('disk0', third!);
    expect(versions).toEqual([[], [], ['disk0'], ['disk0']]);
    const { stdout } = await vm.run(
      'touch /tmp/stop; while ! grep -q rounds /tmp/out; do sleep 0.2; done; sleep 1; cat /tmp/out',
    );
    expect(stdout).toMatch(/^rounds [1-9]\d*\n0\n$/);
  }, 240_000);
});
