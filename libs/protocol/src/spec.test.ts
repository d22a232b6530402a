import { describe, expect, test } from 'vitest';
import type { NyxError } from './errors.ts';
import { nearest, parseSize, parseSpec } from './spec.ts';
import { parseSpecText } from './spec-file.ts';

const error = (f: () => unknown): NyxError => {
  try {
    f();
  } catch (e) {
    return e as NyxError;
  }
  throw new Error('no error was thrown');
};

describe('the machine file', () => {
  test('defaults', () => {
    const s = parseSpecText(
      'kernel: /boot/vmlinuz\ndisks:\n  - a.img\n  - { path: b.img, readonly: true }\nmemory: 1.5G\n',
      'vm.yaml',
    );
    expect(s).toMatchObject({ kernel: '/boot/vmlinuz', memory: 1536 * 2 ** 20, cpus: 1, accel: 'auto' });
    expect(s.disks).toEqual([
      { path: 'a.img', readonly: false, bus: 'virtio' },
      { path: 'b.img', readonly: true, bus: 'virtio' },
    ]);
    expect(s.recovery.budget).toBe(20);
  });

  test.each([
    ['kernel: a\nmemroy: 1G', 'memroy', 'memory'],
    ['kernel: a\ndisk: [x]', 'disk', 'disks'],
    ['kernel: a\ncmdline: x\n', 'cmdline', undefined],
    ['kernel: a\nrecovery: { buget: 1 }', 'recovery.buget', 'budget'],
    ['kernel: a\ndisks: [{ path: a, readOnly: true }]', 'disks[0].readOnly', 'readonly'],
  ])('an unknown key is named with the nearest one: %j', (text, key, near) => {
    const e = error(() => parseSpecText(text, 'vm.yaml'));
    expect(e.code).toBe('SPEC_UNKNOWN_KEY');
    expect(e.got).toContain(`'${key}'`);
    if (near) expect(e.hint).toContain(`'${near}'`);
  });

  test.each([
    ['kernel: a\nmemory: lots', 'memory', 'size'],
    ['kernel: a\nmemory: 1000000000', 'memory', 'MiB'],
    ['kernel: a\ncpus: 0', 'cpus', '1'],
    ['kernel: a\ncpus: many', 'cpus', 'number'],
    ['kernel: a\naccel: hvf', 'accel', 'kvm'],
    ['kernel: a\nname: ../x', 'name', 'letters'],
    ['cpus: 1', 'none of them', 'boot'],
    ['image: debian\nkernel: a', 'both', 'either'],
    ['bios: seabios\ninitrd: a', 'initrd', 'kernel'],
    ['- 1', 'whole', 'object'],
    ['', 'whole', 'object'],
  ])('a value that is not legal: %j', (text, got, expected) => {
    const e = error(() => parseSpecText(text, 'vm.yaml'));
    expect(e.code).toBe('SPEC_INVALID');
    expect(`${e.got}`).toContain(got);
    expect(`${e.expected}`).toContain(expected);
  });

  test('not YAML: the line is told', () => {
    const e = error(() => parseSpecText('kernel: [a\ncpus: }', 'vm.yaml'));
    expect(e.code).toBe('SPEC_SYNTAX');
    expect(e.got).toMatch(/vm\.yaml: .*line \d/);
  });

  test('what comes out goes in again', () => {
    const s = parseSpec({ kernel: 'k', disks: ['a'], memory: '64M' });
    expect(parseSpec(JSON.parse(JSON.stringify(s)))).toEqual(s);
  });
});

test('sizes', () => {
  expect(['512M', '4GiB', '4gb', '1.5 G', '4096', 4096, '2T'].map(parseSize)).toEqual([
    2 ** 29,
    2 ** 32,
    2 ** 32,
    1.5 * 2 ** 30,
    4096,
    4096,
    2 ** 41,
  ]);
  expect(['', 'M', '-1', '1.0001', '1e3', '4X', '0x10'].map(parseSize)).toEqual(Array(7).fill(undefined));
});

test('nearest', () => expect(nearest('memroy', ['name', 'memory', 'kernel'])).toBe('memory'));

test('a TPM: by a word, in full, on the command line', async () => {
  const { parseTpmOption } = await import('./tpm-spec.ts');
  const tpm = (t: unknown) => parseSpec({ image: 'debian', tpm: t }).tpm;
  expect(tpm(true)).toEqual({ model: 'crb', measure: true });
  expect(tpm(false)).toBeUndefined();
  expect(tpm({ model: 'tis', state: 'd' })).toEqual({ model: 'tis', state: 'd', measure: true });
  expect(tpm(parseTpmOption('model=tis,backend=swtpm:/run/s,measure=no'))).toEqual({
    model: 'tis',
    backend: 'swtpm:/run/s',
    measure: false,
  });
  const refusal = (f: () => unknown): string => error(f).pretty();
  expect(refusal(() => tpm({ modle: 'tis' }))).toMatch(/Did you mean 'model'/);
  expect(refusal(() => tpm({ backend: 'simulator' }))).toMatch(/swtpm:SOCKET/);
  expect(refusal(() => parseTpmOption('stat=x'))).toMatch(/Did you mean 'state=\.\.\.'/);
  expect(refusal(() => parseTpmOption('tis'))).toMatch(/USAGE/);
  expect(refusal(() => parseSpec({ image: 'debian', deterministic: true, tpm: true }))).toMatch(
    /deterministic/,
  );
});
