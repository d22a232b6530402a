import { array, Memory, type Struct, struct, u8, u32, u64, view } from '@nyx/layout';
import { crc32c } from '@nyx/native';
import { expect, test } from 'vitest';
import { type BlockSpec, blockBytes, StateBlock } from './block.ts';
import { ExitServer } from './server.ts';
import { makeBlock, makeRings } from './testing/fixture.ts';
import { BlockHeader, ClassKind, HalfHeader, Range } from './wire.ts';

const State = struct('TestState', {
  mode: u8('', { max: 3, reset: 2 }),
  a: u8(),
  b: u8(),
  c: u8(),
  count: u32('', { reset: 7 }),
  when: u64(),
});
const spec: BlockSpec<typeof State> = { kind: 'test', stateVersion: 3, state: State, ranges: 1 };
const coded = (code: string) => expect.objectContaining({ code });

/** A server whose only use is to commit events. */
const committer = <S extends Struct>(block: StateBlock<S>) => {
  const rings = makeRings();
  const server = new ExitServer({ rings: rings.buffer, kick: rings.kick, onExit() {} });
  server.addBlock(block);
  server.attach();
  return {
    commit: () => server.commitEvent(block),
    revert: () => server.revert(block),
    close() {
      server.close();
      rings.close();
    },
  };
};

const activeHalf = (block: Pick<StateBlock, 'halfAt' | 'generation'>): number =>
  block.halfAt(block.generation & 1);

test('a fresh block has the reset values', () => {
  const block = new StateBlock(makeBlock().buffer, spec);
  expect(block).toMatchObject({ fresh: true, repaired: false, generation: 0 });
  expect(block.state).toMatchObject({ mode: 2, count: 7, when: 0 });
});

test('what was committed is there for a successor, what was not is gone', () => {
  const { buffer } = makeBlock();
  const block = new StateBlock(buffer, spec);
  const server = committer(block);
  block.state.count = 100;
  block.state.when = 0x1_2345_6789;
  block.ranges[0]!.base = 0xc000;
  server.commit();
  expect(block.state.count).toBe(100);
  block.state.count = 101;
  const successor = new StateBlock(buffer, spec);
  expect(successor).toMatchObject({ fresh: false, repaired: false, generation: 1 });
  expect(successor.state).toMatchObject({ count: 100, when: 0x1_2345_6789 });
  expect(successor.ranges[0]!.base).toBe(0xc000);
  server.close();
});

test('revert throws a change away', () => {
  const block = new StateBlock(makeBlock().buffer, spec);
  const server = committer(block);
  block.state.count = 5;
  server.commit();
  block.state.count = 6;
  server.revert();
  expect(block.state.count).toBe(5);
  server.close();
});

test('reset gives power-on state without ranges', () => {
  const block = new StateBlock(makeBlock().buffer, spec);
  block.state.count = 5;
  block.ranges[0]!.space = 2;
  block.reset();
  expect(block.state.count).toBe(7);
  expect(block.ranges[0]!.space).toBe(0);
});

test('any damaged byte of the active half is found, and the other half taken', () => {
  const { buffer } = makeBlock();
  const block = new StateBlock(buffer, spec);
  const server = committer(block);
  block.state.count = 42;
  server.commit();
  const bytes = new Uint8Array(buffer);
  for (let i = 0; i < block.halfBytes; i++) {
    const at = activeHalf(block) + i;
    bytes[at]! ^= 1 << (i & 7);
    const successor = new StateBlock(buffer, spec);
    expect(successor.repaired).toBe(true);
    expect(successor.state.count).toBe(42);
    expect(new StateBlock(buffer, spec).repaired).toBe(false);
  }
  server.close();
});

test('STATE_CORRUPT when neither half is intact; the block is left as it was', () => {
  const { buffer } = makeBlock();
  const block = new StateBlock(buffer, spec);
  const bytes = new Uint8Array(buffer);
  bytes[block.halfAt(0) + 70]! ^= 1;
  bytes[block.halfAt(1) + 70]! ^= 1;
  const before = bytes.slice();
  expect(() => new StateBlock(buffer, spec)).toThrow(coded('STATE_CORRUPT'));
  expect(Buffer.compare(bytes, before)).toBe(0);
});

test('a value outside its declared range is damage, although its CRC is right', () => {
  const { buffer } = makeBlock();
  const block = new StateBlock(buffer, spec);
  const server = committer(block);
  block.state.mode = 9;
  server.commit();
  expect(() => new StateBlock(buffer, spec)).toThrow(/mode = 9, expected 0\.\.3/);
  server.close();
});

test('a block of another device, version or layout is refused with a code', () => {
  const { buffer } = makeBlock();
  new StateBlock(buffer, spec);
  const Other = struct('Other', { x: u32(), y: u32() });
  expect(() => new StateBlock(buffer, { ...spec, kind: 'rtc' })).toThrow(coded('STATE_KIND'));
  expect(() => new StateBlock(buffer, { ...spec, stateVersion: 4 })).toThrow(coded('STATE_VERSION'));
  expect(() => new StateBlock(buffer, { ...spec, state: Other })).toThrow(coded('STATE_LAYOUT'));
  expect(() => new StateBlock(buffer, { ...spec, ranges: 2 })).toThrow(coded('STATE_LAYOUT'));
  expect(() => new StateBlock(new ArrayBuffer(4096), spec)).toThrow(coded('STATE_SIZE'));
  new Uint32Array(buffer)[0] = 1;
  expect(() => new StateBlock(buffer, spec)).toThrow(coded('STATE_FORMAT'));
});

test('sizes in the header are checked, not believed', () => {
  const { buffer } = makeBlock(blockBytes(spec));
  new StateBlock(buffer, spec);
  view(BlockHeader, new Memory(buffer)).halfBytes = 0x7fffffc0;
  expect(() => new StateBlock(buffer, spec)).toThrow(coded('STATE_LAYOUT'));
  const rings = makeRings();
  const server = new ExitServer({ rings: rings.buffer, kick: rings.kick, onExit() {} });
  expect(() => server.addBlock({ buffer } as StateBlock)).toThrow(coded('STATE_FORMAT'));
  server.close();
  rings.close();
});

test('the class table names places in the half', () => {
  const block = new StateBlock(makeBlock().buffer, {
    ...spec,
    classes: [
      { kind: ClassKind.shadow, region: 1, width: 4, offset: 8, source: State.offsetOf('count'), mask: 1 },
    ],
  });
  const header = view(BlockHeader, block.memory);
  expect(header.classes).toBe(1);
  expect(header.classTable.at(0)).toMatchObject({ kind: 1, region: 1, width: 4, offset: 8, mask: 1 });
  const at = block.halfAt(header.generation & 1) + header.classTable.at(0).source;
  expect(block.memory.u32[at >> 2]).toBe(7);
  expect(header.classTable.at(0).source).toBe(HalfHeader.bytes + Range.bytes + State.offsetOf('count'));
});

test('the CRC of a commit is that of CRC-32C, whatever the size of the state', () => {
  let seed = 1;
  for (let bytes = 64; bytes <= 4096; bytes += 64) {
    const Sized = struct(`Sized${bytes}`, { rest: array('u32', bytes / 4 - 8) });
    const { buffer } = makeBlock();
    const block = new StateBlock(buffer, { kind: 'sized', stateVersion: 1, state: Sized, ranges: 0 });
    const server = committer(block);
    const content = block.stateBytes();
    for (let i = 0; i < content.length; i++) {
      seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
      content[i] = seed >>> 24;
    }
    server.commit();
    const half = activeHalf(block);
    const stored = view(HalfHeader, new Memory(buffer), half).crc;
    expect(stored, `${block.halfBytes} bytes`).toBe(crc32c(buffer, half + 4, block.halfBytes - 4));
    server.close();
  }
});
