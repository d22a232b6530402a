import { describe, expect, test } from 'vitest';
import { type Description, describeMachine } from './describe.ts';

const small: Description = {
  accel: 'soft',
  cpus: 2,
  boot: { bootMode: 1, rip: 0x1_0000_0200, rsi: 0x7000 },
  vmPage: 40,
  pageMap: 41,
  memories: [
    { gpa: 0, size: 0x8000_0000, fd: 50, fdOffset: 0 },
    { gpa: 0x1_0000_0000, size: 0x4000_0000, fd: 50, fdOffset: 0x8000_0000 },
  ],
  processes: [
    { name: 'platform', ring: 60, kick: 61, irqPage: 62, irqEvent: 63 },
    { name: 'disk0', ring: 70, kick: 71, irqPage: 72, irqEvent: 73 },
  ],
  devices: [
    { name: 'pic', process: 'platform', index: 0, state: 80, irqBase: 0, irqCount: 1 },
    { name: 'disk0', process: 'disk0', index: 0, state: 81, irqBase: 0, irqCount: 3 },
  ],
  ranges: [{ device: 'pic', space: 1, region: 0, base: 0x20, length: 2 }],
  routes: [{ device: 'pic', entry: 0, kind: 'extint' }],
  functions: [{ bdf: 0x10, device: 'disk0', region: 0 }],
  pic: 'pic',
};

describe('describeMachine', () => {
  // Offsets counted by hand from the tables of machine.ts, not taken from its views.
  test('bytes are where the contract says', () => {
    const { bytes, fds } = describeMachine(small);
    expect(bytes.length).toBe(128 + 2 * 32 + 2 * 32 + 2 * 32 + 24 + 12 + 8);
    expect(bytes.toString('latin1', 0, 4)).toBe('NYXM');
    expect(bytes.readUInt32LE(8)).toBe(bytes.length);
    expect(bytes.readUInt32LE(12)).toBe(fds.length);
    expect([bytes[16], bytes[17], bytes.readUInt16LE(18)]).toEqual([2, 1, 2]);
    expect(fds).toEqual([40, 41, 50, 60, 61, 62, 63, 70, 71, 72, 73, 80, 81]);
    expect([bytes.readUInt16LE(20), bytes.readUInt16LE(22), bytes.readUInt16LE(24)]).toEqual([0, 0, 0xffff]);
    expect(bytes.readBigUInt64LE(48)).toBe(0x1_0000_0200n);
    const memory1 = 128 + 32;
    expect(bytes.readBigUInt64LE(memory1)).toBe(0x1_0000_0000n);
    expect(bytes.readBigUInt64LE(memory1 + 16)).toBe(0x8000_0000n);
    expect(bytes.readUInt16LE(memory1 + 24)).toBe(2);
    const process1 = 128 + 64 + 32;
    expect([0, 2, 4, 6].map((o) => bytes.readUInt16LE(process1 + o))).toEqual([7, 8, 9, 10]);
    expect(bytes.toString('latin1', process1 + 8, process1 + 14)).toBe('disk0\0');
    const device1 = 128 + 128 + 32;
    expect([0, 2, 4, 6, 8].map((o) => bytes.readUInt16LE(device1 + o))).toEqual([1, 0, 12, 0, 3]);
    const range = 128 + 192;
    expect([bytes[range], bytes[range + 1], bytes.readUInt16LE(range + 2)]).toEqual([1, 0, 0]);
    expect(bytes.readBigUInt64LE(range + 8)).toBe(0x20n);
    expect(bytes[range + 24 + 4]).toBe(3);
    expect(bytes.readUInt16LE(range + 36)).toBe(0x10);
  });

  test('mistakes are told', () => {
    expect(() => describeMachine({ ...small, pic: 'nope' })).toThrow("unknown device 'nope'");
    expect(() => describeMachine({ ...small, cpus: 65 })).toThrow('at most 64');
    const long = { ...small.devices[0]!, name: 'a-name-of-16-byt' };
    expect(() =>
      describeMachine({ ...small, devices: [long], routes: [], ranges: [], functions: [], pic: long.name }),
    ).toThrow('longer than 15');
  });
});
