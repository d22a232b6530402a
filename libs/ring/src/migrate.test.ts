import { array, Memory, struct, u8, u32, u64, view } from '@nyx/layout';
import { expect, test } from 'vitest';
import { type BlockSpec, StateBlock } from './block.ts';
import type { Migration } from './migrate.ts';
import { ExitServer } from './server.ts';
import { makeBlock, makeRings } from './testing/fixture.ts';
import { BlockHeader, HalfHeader, wire } from './wire.ts';

const V1 = struct('Disk', { mode: u8('', { max: 3, reset: 1 }), a: u8(), b: u8(), c: u8(), count: u32() });
const V2 = struct('Disk', {
  total: u64(),
  count: u32(),
  mode: u8('', { max: 3 }),
  pad: array('u8', 3),
  ring: array('u32', 4),
});
const V3 = struct('Disk', { count: u32(), level: u32('', { max: 10, reset: 5 }) });
const first: BlockSpec<typeof V1> = { kind: 'disk', stateVersion: 1, state: V1, ranges: 1 };
const to2: Migration = { version: 1, state: V1, step: (from, to) => to.ring.set(2, from.count + 1) };
const second: BlockSpec<typeof V2> = { ...first, stateVersion: 2, state: V2, migrations: [to2] };
const to3: Migration = { version: 2, state: V2, step: (from, to) => (to.level = from.ring.get(2) % 11) };
const third: BlockSpec<typeof V3> = { ...first, stateVersion: 3, state: V3, migrations: [to2, to3] };
const coded = (code: string) => expect.objectContaining({ code });

/** A block of version 1 in which exit 7 of ring 0 was committed. */
const used = (): ArrayBuffer => {
  const { buffer } = makeBlock();
  const block = new StateBlock(buffer, first);
  const rings = makeRings();
  const server = new ExitServer({ rings: rings.buffer, kick: rings.kick, onExit() {} });
  server.addBlock(block);
  server.attach();
  block.state.count = 41;
  block.state.mode = 3;
  block.ranges[0]!.base = 0xc000;
  server.commitEvent(block);
  server.close();
  rings.close();
  return buffer;
};
const front = (buffer: ArrayBuffer): Buffer => Buffer.from(buffer.slice(0, buffer.byteLength / 2));

test('fields of the same name are carried over, the step does the rest; ranges and the commit record stay', () => {
  const buffer = used();
  const block = new StateBlock(buffer, second);
  block.confirm();
  expect(block.state).toMatchObject({ count: 41, mode: 3, total: 0 });
  expect(block.state.ring.get(2)).toBe(42);
  expect(block.ranges[0]!.base).toBe(0xc000);
  expect(view(HalfHeader, new Memory(buffer), block.halfAt(block.generation & 1)).ring).toBe(0xffffffff);
  expect(new StateBlock(buffer, second)).toMatchObject({ fresh: false, repaired: false });
});

test('several versions are several steps', () => {
  const block = new StateBlock(used(), third);
  expect(block.state).toMatchObject({ count: 41, level: 42 % 11 });
});

test('until it is confirmed whoever attaches finds the old state, to the byte', () => {
  const buffer = used();
  const before = front(buffer);
  new StateBlock(buffer, second);
  expect(Buffer.compare(front(buffer), before)).not.toBe(0);
  const old = new StateBlock(buffer, first);
  expect(old.state).toMatchObject({ count: 41, mode: 3 });
  // A death in the middle of the overwriting is the same: the old image is whole before the first byte of the new one.
  const torn = used();
  new StateBlock(torn, second);
  new Uint8Array(torn).fill(0xa5, 0, wire.halvesAt + 16);
  expect(new StateBlock(torn, first).state.count).toBe(41);
});

test('a try on a copy changes nothing, and tells', () => {
  const buffer = used();
  const before = Buffer.from(buffer.slice(0));
  expect(new StateBlock(buffer, second, true).foresee()).toBe(true);
  expect(new StateBlock(buffer, first, true).foresee()).toBe(false);
  expect(Buffer.compare(Buffer.from(buffer), before)).toBe(0);
});

test('what cannot be migrated is refused with a code, and nothing is changed', () => {
  const buffer = used();
  const before = Buffer.from(buffer.slice(0));
  const attempts: [BlockSpec, string][] = [
    [{ ...second, migrations: [] }, 'STATE_VERSION'],
    [{ ...second, migrations: [{ ...to2, state: V3 }] }, 'STATE_LAYOUT'],
    [{ ...second, migrations: [{ ...to2, step: (_f, to) => (to.mode = 9) }] }, 'STATE_MIGRATION'],
    [
      {
        ...second,
        migrations: [
          {
            ...to2,
            step: () => {
              throw new Error('no');
            },
          },
        ],
      },
      'STATE_MIGRATION',
    ],
  ];
  for (const [spec, code] of attempts) expect(() => new StateBlock(buffer, spec)).toThrow(coded(code));
  expect(Buffer.compare(Buffer.from(buffer), before)).toBe(0);
  const later = new StateBlock(buffer, second);
  later.confirm();
  expect(() => new StateBlock(buffer, first)).toThrow(coded('STATE_VERSION'));
});

test('an intact half is migrated when the active one is damaged', () => {
  const buffer = used();
  const { generation, halfBytes } = view(BlockHeader, new Memory(buffer));
  new Uint8Array(buffer)[wire.halvesAt + (generation & 1) * halfBytes + 70]! ^= 1;
  expect(new StateBlock(buffer, second).state.count).toBe(41);
});

test('neither half intact: STATE_CORRUPT', () => {
  const buffer = used();
  const half = view(BlockHeader, new Memory(buffer)).halfBytes;
  for (const i of [0, 1]) new Uint8Array(buffer)[wire.halvesAt + i * half + 70]! ^= 1;
  expect(() => new StateBlock(buffer, second)).toThrow(coded('STATE_CORRUPT'));
});
