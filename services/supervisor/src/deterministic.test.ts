/** A deterministic machine does the same again, to the last bit: twice translated, and once by the interpreter alone; and in lock-step. */
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ImageStore } from '@nyx/image';
import { Vm } from '@nyx/nyx';
import { list } from '@nyx/nyx/rundir';
import type { Fingerprint } from '@nyx/protocol/control';
import { parseSpec } from '@nyx/protocol/spec';
import { afterAll, describe, expect, test } from 'vitest';

process.env.XDG_RUNTIME_DIR = mkdtempSync(join(tmpdir(), 'nyx-deterministic-'));
const image = await new ImageStore().build('debian').catch((e: Error) => {
  console.warn(`left out, there is no image: ${e.message}`);
  return undefined;
});

afterAll(async () => {
  for (const vm of list()) if (vm.kind === 'alive') await Vm.connect(vm.name).stop(0);
});

// Time, entropy, files on the disk, processes.
const command =
  'date; cat /proc/sys/kernel/random/uuid; seq 1 3000 | shuf | md5sum >/data/sums; sync; cat /data/sums; cat /proc/interrupts';

let kills = 0;
const run = async (
  name: string,
  softCpu: 'translate' | 'interpret' | 'lockstep',
  kill = false,
): Promise<{ output: string; fingerprint: Fingerprint }> => {
  const vm = await Vm.start({ name, image: 'debian', memory: '128M', deterministic: true, softCpu, command });
  const running = vm.exec(command, { timeout: 120 });
  let over = false;
  void running.finally(() => {
    over = true;
  });
  while (kill && !over)
    for (const device of ['com1', 'disk0']) {
      await sleep(150);
      if (over) break;
      // Between two lives there is nobody to kill; at the end, no machine.
      await vm.kill(device).then(
        () => kills++,
        () => {},
      );
    }
  const { stdout, status } = await running;
  expect(status).toBe(0);
  const { fingerprint } = await vm.launched!.ended;
  vm.close();
  return { output: stdout.toString(), fingerprint: fingerprint! };
};

describe.runIf(image)('deterministic mode', () => {
  let undisturbed: Awaited<ReturnType<typeof run>>;
  test('the same boot again is the same', { timeout: 240_000 }, async () => {
    const first = await run('d1', 'translate');
    expect(first.output).toMatch(/2025/);
    expect(first.fingerprint.instructions).toBeGreaterThan(1e8);
    expect(await run('d2', 'translate')).toEqual(first);
    expect(await run('d3', 'interpret')).toEqual(first);
    undisturbed = first;
  });

  // The guest cannot tell: not an instruction more, not a bit of its memory is different.
  test('device processes that are killed all the time change nothing', { timeout: 240_000 }, async () => {
    expect(await run('d6', 'translate', true)).toEqual(undisturbed);
    expect(kills).toBeGreaterThan(2);
  });

  // nyx-vcpu ends itself at the first block of which interpreter and translator think differently.
  test('interpreter and translator agree about every block of a boot', { timeout: 240_000 }, async () => {
    expect(await run('d4', 'lockstep')).toEqual(undisturbed);
  });
});

test('it has devices of ours alone', () => {
  expect(() =>
    parseSpec({ image: 'debian', deterministic: true, disks: [{ path: 'x', service: '/bin/x' }] }),
  ).toThrow(expect.objectContaining({ expected: expect.stringMatching(/devices of our own/) }));
});

test('it has one vCPU', () => {
  expect(() => parseSpec({ image: 'debian', deterministic: true, cpus: 2 })).toThrow(
    expect.objectContaining({ expected: expect.stringMatching(/one vCPU/) }),
  );
});
