/** Faults made on purpose in a Linux guest, and what the guest makes of them: the examples of docs/fault-injection.md. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ImageStore } from '@nyx/image';
import type { ChaosReport } from '@nyx/nyx/chaos';
import { list } from '@nyx/nyx/rundir';
import { vmTest } from '@nyx/testkit';
import { afterAll, describe, expect } from 'vitest';

process.env.XDG_RUNTIME_DIR = mkdtempSync(join(tmpdir(), 'nyx-faults-'));
const root = fileURLToPath(new URL('..', import.meta.url));
const image = await new ImageStore().build('debian').catch((e: Error) => {
  console.warn(`tests of fault injection are left out, there is no image: ${e.message}`);
  return undefined;
});

const test = vmTest(
  {
    ...(image ? { kernel: image.vmlinux, initrd: image.initrd, append: image.cmdline } : {}),
    memory: '128M',
    accel: 'soft',
  },
  { blankDisks: [4 << 20] },
);

const nyx = (...args: string[]): string => {
  const r = spawnSync(process.execPath, [join(root, 'bin/nyx'), ...args], {
    encoding: 'utf8',
    timeout: 200_000,
  });
  expect([r.stderr, r.status]).toEqual([expect.any(String), 0]);
  return r.stdout;
};

/** Reads one 4 KiB block past the page cache. */
const readBlock = (n: number): string =>
  `dd if=/dev/vda of=/dev/null bs=4k count=1 skip=${n} iflag=direct 2>&1`;

describe.runIf(image)(
  'faults on purpose',
  () => {
    afterAll(() => expect(list()).toEqual([]));

    test('a backend that fails once is seen by the guest once', async ({ vm }) => {
      await vm.inject({ point: 'io', verb: 'error', device: 'disk0', type: 'read', count: 1 });
      const first = await vm.run(readBlock(1));
      expect(first.status).toBe(1);
      expect(first.stdout).toMatch(/I\/O error|Input\/output error/);
      expect((await vm.run(readBlock(1))).status).toBe(0);
      expect(await vm.faults()).toBe(1);
      expect(await vm.heal()).toBe(1);

      // One machine for what follows: booting is what takes time.
      await vm.run(
        'seq 1 200000 | head -c 1048576 >/tmp/blob; dd if=/tmp/blob of=/dev/vda bs=64k conv=fsync 2>/dev/null',
      );
      const want = (await vm.run('sha256sum </tmp/blob')).stdout;
      const read = 'echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda bs=64k count=16 2>/dev/null | sha256sum';

      // The process of the disk dies at every 5th exit, at its worst moment: nothing is lost.
      await vm.inject({ point: 'process', verb: 'kill', device: 'disk0', place: 'reply', every: 5 });
      expect((await vm.run(read)).stdout).toBe(want);
      expect(await vm.restarts()).toBeGreaterThan(0);
      await vm.heal();

      // Completions that overtake each other, requests that take longer or are done twice: a disk may do that.
      await vm.inject({
        seed: 3,
        rules: [
          { point: 'io', verb: 'reorder', device: 'disk0', probability: 0.3 },
          { point: 'io', verb: 'delay', device: 'disk0', delay: 0.02, probability: 0.2 },
          { point: 'io', verb: 'duplicate', device: 'disk0', type: 'write', probability: 0.5 },
          { point: 'interrupt', verb: 'delay', device: 'disk0', delay: 0.005, probability: 0.3 },
        ],
      });
      await vm.run('dd if=/tmp/blob of=/dev/vda bs=64k conv=fsync 2>/dev/null');
      expect((await vm.run(read)).stdout).toBe(want);
      expect(await vm.faults()).toBeGreaterThan(5);
      await vm.heal();

      // A disk that answers with wrong bytes: the guest cannot know, the checksum does.
      await vm.inject({ point: 'io', verb: 'corrupt', device: 'disk0', type: 'read', count: 1 });
      expect((await vm.run(read)).stdout).not.toBe(want);
      await vm.heal();
      expect((await vm.run(read)).stdout).toBe(want);

      // A process that hangs is found and replaced.
      const restarts = await vm.restarts();
      await vm.inject({ point: 'process', verb: 'hang', device: 'disk0', count: 1 });
      expect((await vm.run(readBlock(3))).status).toBe(0);
      expect(await vm.restarts()).toBe(restarts + 1);
      await vm.heal();

      // The same by the command.
      expect(nyx('fault', 'add', 'exit', 'delay', 'device=disk0', 'delay=0.001', '--vm', vm.vm.name)).toMatch(
        /^rule \d+ in force\n$/,
      );
      await vm.run(readBlock(5));
      expect(nyx('fault', 'ls', '--vm', vm.vm.name)).toMatch(
        /exit +delay +disk0 +\d+ +[1-9]\d* +delay=0.001/,
      );
      expect(nyx('fault', 'rm', 'all', '--vm', vm.vm.name)).toBe('1 removed\n');
    });

    test('a campaign: the plan of the documentation, its reports, and the same faults for the same seed', async () => {
      const folder = mkdtempSync(join(tmpdir(), 'nyx-chaos-'));
      const text = /^```yaml chaos\n([\s\S]*?)^```$/m.exec(
        readFileSync(join(root, 'docs/fault-injection.md'), 'utf8'),
      )![1]!;
      const plan = join(folder, 'plan.yaml');
      writeFileSync(plan, text);
      const campaign = (seeds: string): ChaosReport => {
        const [json, junit] = [join(folder, 'report.json'), join(folder, 'report.xml')];
        const out = nyx('chaos', plan, '--seeds', seeds, '--json', json, '--junit', junit);
        expect(out).toMatch(/ 0 failed\n$/);
        expect(readFileSync(junit, 'utf8')).toMatch(/<testsuite name="flaky disk" tests="\d" failures="0"/);
        return JSON.parse(readFileSync(json, 'utf8'));
      };
      const first = campaign('7');
      const second = campaign('7,8');
      // Which of the matches are made faults is the same; how many there are depends on the guest.
      const at = (r: ChaosReport, run: number): number[] => r.runs[run]!.rules[0]!.at;
      const n = Math.min(first.runs[0]!.rules[0]!.matches, second.runs[0]!.rules[0]!.matches);
      const both = (list: number[]): number[] => list.filter((k) => k <= n);
      expect(both(at(first, 0)).length).toBeGreaterThan(2);
      expect(both(at(second, 0))).toEqual(both(at(first, 0)));
      expect(both(at(second, 1))).not.toEqual(both(at(first, 0)));
    });
  },
  240_000,
);
