import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  check,
  configMessage,
  decode,
  encode,
  Flag,
  inflightMessage,
  Limit,
  memRegion,
  memTable,
  ProtocolFeature,
  pack,
  packConfig,
  packInflight,
  packMemRegion,
  packMemTable,
  packVringAddr,
  Request,
  type RequestName,
  shapes,
  u64,
  vringAddr,
  vringEvent,
} from './protocol.ts';

const every = Object.values(ProtocolFeature).reduce((bits: number, b) => bits | (1 << b), 0);
const message = (name: RequestName, payload: Uint8Array, fds: number[] = []) =>
  decode(encode(Request[name], 0, payload), fds);
const coded = (code: string) => expect.objectContaining({ code });

describe('frames', () => {
  it('the header is 12 bytes: request, flags with version 1, size', () => {
    const bytes = encode(Request.setVringNum, Flag.needReply, pack([3, 4], [128, 4]));
    expect([...bytes]).toEqual([8, 0, 0, 0, 9, 0, 0, 0, 8, 0, 0, 0, 3, 0, 0, 0, 128, 0, 0, 0]);
    expect(decode(bytes, [])).toMatchObject({ request: 8, flags: 9 });
  });
  it("another version, or a size that is not the payload's, is refused", () => {
    const bytes = encode(1, 0);
    bytes[4] = 2;
    expect(() => decode(bytes, [])).toThrow(coded('VHOST_MESSAGE'));
    const long = encode(1, 0);
    long[8] = 1;
    expect(() => decode(long, [])).toThrow(coded('VHOST_MESSAGE'));
    expect(() => decode(new Uint8Array(11), [])).toThrow(coded('VHOST_MESSAGE'));
  });
});

describe('shapes', () => {
  it('every request needs its size, its descriptors and its feature', () => {
    for (const [name, shape] of Object.entries(shapes) as [RequestName, (typeof shapes)[RequestName]][]) {
      const size = typeof shape.size === 'number' ? shape.size : name === 'setMemTable' ? 8 : 12;
      const fds = Array.from({ length: shape.fds[0] }, () => 1);
      expect(check(message(name, new Uint8Array(size), fds), every)).toBe(name);
      if (size > 0)
        expect(() => check(message(name, new Uint8Array(size - 1), fds), every)).toThrow(
          coded('VHOST_MESSAGE'),
        );
      const many = Array.from({ length: shape.fds[1] + 1 }, () => 1);
      expect(() => check(message(name, new Uint8Array(size), many), every)).toThrow(coded('VHOST_MESSAGE'));
      if (shape.needs !== undefined)
        expect(() => check(message(name, new Uint8Array(size), fds), every & ~(1 << shape.needs!))).toThrow(
          coded('VHOST_UNSUPPORTED'),
        );
    }
  });
  it('a request that does not exist is unsupported', () => {
    for (const n of [0, 28, 1000, 0xffffffff])
      expect(() => check(decode(encode(n, 0), []), every)).toThrow(coded('VHOST_UNSUPPORTED'));
  });
  it('sizes that a payload tells itself are held against what came', () => {
    const table = pack([3, 4], [0, 4]);
    expect(() => check(message('setMemTable', table), every)).toThrow(coded('VHOST_MESSAGE'));
    const config = packConfig({ offset: 0, flags: 0, bytes: new Uint8Array(4) });
    new DataView(config.buffer).setUint32(4, 0xfffffff0, true);
    expect(() => check(message('getConfig', config), every)).toThrow(coded('VHOST_MESSAGE'));
  });
});

describe('payloads', () => {
  const number = fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER });
  const view = (b: Uint8Array): DataView => new DataView(b.buffer, b.byteOffset, b.byteLength);
  it('are read back as they were written', () => {
    fc.assert(
      fc.property(number, number, number, number, (guest, bytes, user, offset) => {
        const r = { guest, bytes, user, offset };
        expect(memRegion(view(packMemRegion(r)))).toEqual(r);
        expect(memTable(view(packMemTable([r, r])), 2)).toEqual([r, r]);
        const a = { index: 1, flags: 1, descriptor: guest, used: bytes, available: user, log: offset };
        expect(vringAddr(view(packVringAddr(a)))).toEqual(a);
        const i = { bytes: guest, offset: bytes, queues: 3, queueSize: 256 };
        expect(inflightMessage(view(packInflight(i)), true)).toEqual(i);
      }),
    );
  });
  it('64 bits that a number cannot hold are refused', () => {
    expect(() => u64(view(Uint8Array.from([0, 0, 0, 0, 0, 0, 0x20, 0x80])), 0)).toThrow(coded('VHOST_VALUE'));
    expect(u64(view(Uint8Array.from([255, 255, 255, 255, 255, 255, 31, 0])), 0)).toBe(
      Number.MAX_SAFE_INTEGER,
    );
  });
  it('a table has as many regions as descriptors, at most 8', () => {
    const r = { guest: 0, bytes: 4096, user: 0, offset: 0 };
    expect(() => memTable(view(packMemTable([r])), 2)).toThrow(coded('VHOST_MESSAGE'));
    expect(() => memTable(view(packMemTable(Array(9).fill(r))), 9)).toThrow(coded('VHOST_MESSAGE'));
  });
  it('configuration ends at 256 bytes', () => {
    expect(() =>
      configMessage(view(packConfig({ offset: 250, flags: 0, bytes: new Uint8Array(7) }))),
    ).toThrow(coded('VHOST_MESSAGE'));
  });
  it('a kick message may come without a descriptor', () => {
    expect(vringEvent(view(pack([0x103, 4], [0, 4])))).toEqual({ index: 3, fd: false });
    expect(vringEvent(view(pack([3, 4], [0, 4])))).toEqual({ index: 3, fd: true });
  });
  it('whatever bytes come: a coded error or a request, never anything else', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: Limit.payloadBytes + 20 }),
        fc.nat(45),
        fc.nat(9),
        (bytes, n, fds) => {
          try {
            check(decode(encode(n, 0, bytes), Array(fds).fill(0)), every);
          } catch (e) {
            expect((e as { code: string }).code).toMatch(/^VHOST_/);
          }
        },
      ),
      { numRuns: 2000 },
    );
  });
});
