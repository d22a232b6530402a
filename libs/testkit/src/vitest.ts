/**
 * Machines as a fixture of vitest:
 *
 *     const test = vmTest({ image: 'debian' });
 *     test('survives', async ({ vm }) => { await vm.kill('disk0'); expect((await vm.run('true')).status).toBe(0); });
 *
 * Each test that asks for `vm` gets one of its own, which is gone when the test is over, however it ended. `boot` makes more,
 * with the same care.
 */
import type { VmSpecInput } from '@nyx/nyx';
import { type TestAPI, test } from 'vitest';
import { TestVm, type TestVmOptions } from './vm.ts';

export interface VmFixtures {
  vm: TestVm;
  boot: (spec?: VmSpecInput, options?: TestVmOptions) => Promise<TestVm>;
}

/** @param spec what `vm` is; `boot` adds to it */
export const vmTest = (spec: VmSpecInput, options: TestVmOptions = {}): TestAPI<VmFixtures> =>
  test.extend<VmFixtures>({
    // biome-ignore lint/correctness/noEmptyPattern: vitest reads what a fixture needs from this pattern
    boot: async ({}, use) => {
      const mine: TestVm[] = [];
      await use(async (more = {}, o = options) => {
        const vm = await TestVm.boot({ ...spec, ...more }, o);
        mine.push(vm);
        return vm;
      });
      await Promise.all(mine.map((vm) => vm.close()));
    },
    vm: async ({ boot }, use) => {
      await use(await boot());
    },
  });
