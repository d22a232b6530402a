import type { NyxError } from '@nyx/protocol/errors';
import { expect, test } from 'vitest';
import { ProductionVMBuilder } from './builder.ts';

const code = (f: () => unknown): string => {
  try {
    f();
  } catch (e) {
    return (e as NyxError).code;
  }
  return 'none';
};

test('builds a specification', () => {
  const { spec } = new ProductionVMBuilder()
    .memory(4 * 1024 ** 3)
    .cpus(4)
    .kernel('vmlinuz')
    .append('console=ttyS0')
    .disk('a.img')
    .disk('b.img', { readonly: true })
    .disk('dev.vhdx')
    .accel('soft')
    .name('web')
    .withLogging('trace')
    .withErrorHandling({ budget: 3 })
    .withMetrics()
    .withTpm({ model: 'tis', state: 'tpm' })
    .build();
  expect(spec).toMatchObject({
    memory: 2 ** 32,
    cpus: 4,
    kernel: 'vmlinuz',
    accel: 'soft',
    name: 'web',
    logLevel: 'trace',
    recovery: { budget: 3, window: 30 },
    tpm: { model: 'tis', state: 'tpm', measure: true },
  });
  expect(spec.disks.map((d) => [d.path, d.readonly, d.format])).toEqual([
    ['a.img', false, undefined],
    ['b.img', true, undefined],
    ['dev.vhdx', false, 'vhdx'],
  ]);
});

test('what cannot be is refused when it is built', () => {
  expect(code(() => new ProductionVMBuilder().build())).toBe('SPEC_INVALID');
  expect(code(() => new ProductionVMBuilder().image('debian').memory('x').build())).toBe('SPEC_INVALID');
});

test('features that are not there say so at once', () => {
  const b = (): ProductionVMBuilder => new ProductionVMBuilder();
  const all: (() => unknown)[] = [
    () => b().uefi('OVMF.fd'),
    () => b().nic('e1000'),
    () => b().gpu(),
    () => b().withPciHotplug(),
    () => b().withLiveMigration(),
    () => b().withPerformanceTracing(),
    () => b().withDebugSymbols('app.dbg'),
    () => b().withIommu(),
    () => b().passthroughDevice(0x100, 'STRICT'),
    () => b().disk('dev.vmdk'),
  ];
  for (const f of all) expect(code(f)).toBe('NOT_AVAILABLE');
});
