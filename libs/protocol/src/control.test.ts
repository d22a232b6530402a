import fc from 'fast-check';
import { pack } from 'msgpackr';
import { describe, expect, test } from 'vitest';
import {
  decodeEvent,
  decodeReply,
  decodeRequest,
  decodeResult,
  encodeEvent,
  encodeReply,
  encodeRequest,
} from './control.ts';
import { errorFromWire, errors, NyxError } from './errors.ts';
import { encodeFrame, FrameReader } from './exec-stream.ts';

const code = (f: () => unknown): string => {
  try {
    f();
  } catch (e) {
    expect(e).toBeInstanceOf(NyxError);
    return (e as NyxError).code;
  }
  return 'none';
};

describe('control messages', () => {
  test('round trips', () => {
    expect(decodeRequest(encodeRequest(7, 'stop', { timeout: 3 }))).toEqual({
      id: 7,
      op: 'stop',
      args: { timeout: 3 },
    });
    const reply = decodeReply(encodeReply(7, { result: { forced: true } }));
    expect(decodeResult('stop', reply.result)).toEqual({ forced: true });
    const event = { type: 'death', at: 1, process: 'disk0', pid: 5, reason: 'killed by SIGKILL' } as const;
    expect(decodeEvent(encodeEvent(event))).toEqual(event);
  });

  test('any bytes end in a coded error', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
        expect(code(() => decodeRequest(bytes))).toMatch(/^PROTOCOL_/);
        expect(code(() => decodeEvent(bytes))).toMatch(/^PROTOCOL_/);
        expect(code(() => decodeReply(bytes))).toMatch(/^PROTOCOL_/);
      }),
    );
  });

  test.each([
    [{ v: 2, id: 1, op: 'status', args: {} }, 'PROTOCOL_VERSION'],
    [{ v: 1, id: 1, op: 'format', args: {} }, 'PROTOCOL_INVALID'],
    [{ v: 1, id: 1, op: 'toString', args: {} }, 'PROTOCOL_INVALID'],
    [{ v: 1, id: 1, op: 'stop', args: {} }, 'PROTOCOL_INVALID'],
    [{ v: 1, id: 1, op: 'stop', args: { timeout: -1 } }, 'PROTOCOL_INVALID'],
    [{ v: 1, id: 1, op: 'kill', args: { target: 'x'.repeat(100) } }, 'PROTOCOL_INVALID'],
    [{ v: 1, id: -1, op: 'status', args: {} }, 'PROTOCOL_INVALID'],
    [[1, 2, 3], 'PROTOCOL_INVALID'],
  ])('%j is refused as %s', (message, expected) =>
    expect(code(() => decodeRequest(pack(message)))).toBe(expected),
  );

  test('a refusal carries the id of its request', () => {
    try {
      decodeRequest(pack({ v: 9, id: 44, op: 'status', args: {} }));
      expect.unreachable();
    } catch (e) {
      expect((e as { id: number }).id).toBe(44);
    }
  });

  test('frames come out whole however they are cut', () => {
    const frames = [
      encodeFrame(1, Buffer.from('hello')),
      encodeFrame(2, Buffer.alloc(0)),
      encodeFrame(3, Buffer.from([1, 0, 0, 0])),
    ];
    const all = Buffer.concat(frames);
    for (let cut = 1; cut <= all.length; cut++) {
      const reader = new FrameReader();
      const got = [];
      for (let at = 0; at < all.length; at += cut)
        for (const f of reader.feed(all.subarray(at, at + cut))) got.push(encodeFrame(f.kind, f.payload));
      expect(got).toEqual(frames);
    }
    expect(code(() => [...new FrameReader().feed(Buffer.from([1, 255, 255, 255, 255]))])).toBe(
      'PROTOCOL_INVALID',
    );
  });
});

describe('errors', () => {
  test('survive the wire', () => {
    const e = new NyxError('FILE_MISSING', { expected: 'a disk', got: '/x' });
    const back = errorFromWire(e.toJSON());
    expect([back.code, back.expected, back.got, back.hint, back.exit]).toEqual([
      e.code,
      e.expected,
      e.got,
      e.hint,
      e.exit,
    ]);
  });
  test('every one says what to do', () => {
    for (const [name, e] of Object.entries(errors)) {
      expect(name).toMatch(/^[A-Z_]+$/);
      expect(e.hint.length).toBeGreaterThan(10);
    }
  });
});
