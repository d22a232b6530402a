import { describe, expect, it } from 'vitest';
import { buffer, eisaId, int, name, path, pkg, scope, uuid } from './aml.ts';

const hex = (data: Uint8Array): string => Buffer.from(data).toString('hex');

describe('AML', () => {
  it('writes integers in their shortest form', () => {
    expect(
      [0, 1, 2, 0xff, 0x100, 0xffff, 0x10000, 0xffff_ffff, 0x80_0000_0000].map((n) => hex(int(n))),
    ).toEqual([
      '00',
      '01',
      '0a02',
      '0aff',
      '0b0001',
      '0bffff',
      '0c00000100',
      '0cffffffff',
      '0e0000000080000000',
    ]);
  });
  it('writes names of one, two and more segments', () => {
    expect(hex(path('\\_SB.PCI0'))).toBe(hex(Buffer.from('\\\x2e_SB_PCI0')));
    expect(hex(path('^A'))).toBe(hex(Buffer.from('^A___')));
    expect(hex(path('A.B.C'))).toBe(hex(Buffer.from('\x2f\x03A___B___C___')));
    expect(hex(path('\\'))).toBe('5c00');
    expect(() => path('TOOLONG')).toThrow(RangeError);
  });
  it('writes package lengths that count themselves (20.2.4)', () => {
    // 1 byte up to 63, 2 up to 4095, 3 beyond.
    const lengthOf = (n: number): string => hex(scope('\\', new Uint8Array(n)).subarray(1, 5));
    expect(lengthOf(60).slice(0, 2)).toBe('3f');
    expect(lengthOf(61).slice(0, 4)).toBe('4104');
    expect(lengthOf(4091).slice(0, 4)).toBe('4fff');
    expect(lengthOf(4092).slice(0, 6)).toBe('810001');
  });
  it('compresses EISA identifiers and stores UUIDs as the specification does', () => {
    expect(hex(eisaId('PNP0A03'))).toBe('0c41d00a03');
    expect(hex(uuid('33db4d5b-1ff7-401c-9657-7441c03dd766'))).toBe(
      '1113' + '0a10' + '5b4ddb33f71f1c4096577441c03dd766',
    );
  });
  it('nests', () => {
    expect(hex(name('_S5', pkg(0, 0, 0, 0)))).toBe('085f53355f' + '12' + '06' + '04' + '00000000');
    expect(hex(buffer([1, 2]))).toBe('11' + '05' + '0a02' + '0102');
  });
});
