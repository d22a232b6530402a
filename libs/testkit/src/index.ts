export { type VmFixtures, vmTest } from './vitest.ts';
export { type Ran, TestVm, type TestVmOptions } from './vm.ts';
