import { createTestProducer, ctl, futexWait, type TestProducer } from '@nyx/native';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { StateBlock } from './block.ts';
import { RingsView } from './rings.ts';
import { ExitServer } from './server.ts';
import { CounterState, counterSpec } from './testing/counter.ts';
import { makeBlock, makeRings, type RingFixture } from './testing/fixture.ts';
import { ExitKind, ExitSlot, Status, slotPosted, wire } from './wire.ts';

let rings: RingFixture;
let server: ExitServer | undefined;
let producer: TestProducer;

beforeEach(() => {
  rings = makeRings(2);
  producer = createTestProducer(rings.buffer, 0, rings.kick);
});
afterEach(() => {
  server?.close();
  server = undefined;
  rings.close();
});

/** A server that replies with `answer`, and a promise of the moment when it has served `n` exits. */
const serve = (
  n: number,
  answer: (s: ExitServer) => void,
  options: Partial<ConstructorParameters<typeof ExitServer>[0]> = {},
) => {
  let left = n;
  let done: () => void = () => {};
  const finished = new Promise<void>((resolve) => {
    done = resolve;
  });
  const made = new ExitServer({
    rings: rings.buffer,
    kick: rings.kick,
    maxSpinNs: 0,
    ...options,
    onExit() {
      answer(made);
      if (--left === 0) done();
    },
  });
  server = made;
  made.attach();
  return { server: made, finished };
};
const ok = (s: ExitServer): void => s.reply(s.ctl[ctl.dataLo]!, 0, Status.ok);

test('a request reaches the handler as it was published', async () => {
  producer.publish(ExitKind.write, 3, 2, 0x1_0000_0010, 8, 0xdeadbeef, 0x12345678);
  const seen: number[] = [];
  const { server, finished } = serve(1, (s) => {
    seen.push(...s.ctl.subarray(0, 13));
    ok(s);
  });
  server.start();
  await finished;
  expect(seen).toEqual([0, ExitKind.write, 8, 3, 2, 0, 1, 0x10, 1, 0xdeadbeef, 0x12345678, 1, 0]);
});

test('requests are served in order, across the end of the ring', async () => {
  const data: number[] = [];
  const { server, finished } = serve(300, (s) => {
    data.push(s.ctl[ctl.dataLo]!);
    ok(s);
  });
  server.start();
  let i = 0;
  while (i < 300) {
    if (producer.publish(ExitKind.write, 0, 0, 0, 4, i, 0, 1, slotPosted)) i++;
    else await new Promise(setImmediate);
  }
  await finished;
  expect(data).toEqual(Array.from({ length: 300 }, (_, k) => k));
  expect(new RingsView(rings.buffer).header(0).tail).toBe(300);
});

test('the reply, its status and the tail are published', async () => {
  producer.publish(ExitKind.read, 0, 0, 0, 4, 0, 0);
  const { server, finished } = serve(1, (s) => s.reply(1, 2, Status.unclaimed));
  server.start();
  await finished;
  const view = new RingsView(rings.buffer);
  expect(view.slot(0, 1)).toMatchObject({ replySeqLo: 1, replyLo: 1, replyHi: 2, status: Status.unclaimed });
  expect(view.header(0).tail).toBe(1);
});

test('all rings are served, none starves', async () => {
  const other = createTestProducer(rings.buffer, 2, rings.kick);
  for (let i = 0; i < 64; i++) producer.publish(ExitKind.write, 0, 0, 0, 4, i, 0);
  for (let i = 0; i < 3; i++) other.publish(ExitKind.line, 0, 0, 5, 0, i, 0);
  const order: number[] = [];
  const { server, finished } = serve(67, (s) => {
    order.push(s.ctl[ctl.ring]!);
    ok(s);
  });
  server.start();
  await finished;
  expect(order.lastIndexOf(2)).toBeLessThan(8);
  expect(order.filter((r) => r === 0).length).toBe(64);
});

test('a process that sleeps is woken by one kick, and says that it sleeps', async () => {
  const { control } = new RingsView(rings.buffer);
  const first = serve(1, ok);
  producer.publish(ExitKind.read, 0, 0, 0, 4, 1, 0);
  first.server.start();
  await first.finished;
  await new Promise(setImmediate);
  expect(control.consumerAsleep).toBe(1);
  expect(control.attached).toBe(1);
  producer.publish(ExitKind.read, 0, 0, 0, 4, 2, 0);
  expect(control.consumerAsleep).toBe(0); // the producer has swapped it
  while (!producer.await(0)) await new Promise(setImmediate);
});

test('a drain returns to the event loop: timers and completions run while a vCPU keeps it busy', async () => {
  let turns = 0;
  const tick = () => {
    turns++;
    if (server) setImmediate(tick);
  };
  setImmediate(tick);
  let served = 0;
  const { server: s, finished } = serve(
    2000,
    (made) => {
      ok(made);
      served++;
      // The vCPU answers at once with the next request, so that the ring is never empty.
      producer.publish(ExitKind.write, 0, 0, 0, 4, served, 0, 1, slotPosted);
    },
    { maxBusyNs: 1000 },
  );
  producer.publish(ExitKind.write, 0, 0, 0, 4, 0, 0, 1, slotPosted);
  s.start();
  await finished;
  expect(turns).toBeGreaterThan(10);
});

test('a producer that waits on the futex is woken, and its word is cleared', async () => {
  producer.publish(ExitKind.read, 0, 0, 0, 4, 0, 0);
  const header = new RingsView(rings.buffer).header(0);
  header.producerWaiting = 1;
  const { server, finished } = serve(1, ok);
  header.producerWaiting = 1; // attach clears it
  server.start();
  await finished;
  expect(header.producerWaiting).toBe(0);
  expect(futexWait(rings.buffer, wire.ringBase + 12, 1, 1e9)).toBe(1); // the value differs: no sleep
});

test('attach wakes producers, whose wake-up may have died with the predecessor', () => {
  const header = new RingsView(rings.buffer).header(0);
  header.producerWaiting = 1;
  serve(1, ok);
  expect(header.producerWaiting).toBe(0);
});

test('a tail that a predecessor ruined is found again from the replies in the slots', async () => {
  const view = new RingsView(rings.buffer);
  for (let i = 1; i <= 70; i++) {
    producer.publish(ExitKind.write, 0, 0, 0, 4, i, 0);
    if (i > 66) continue;
    view.slot(0, i).replySeqLo = i;
    view.header(0).tail = i;
  }
  view.header(0).tail = 2 ** 40;
  const data: number[] = [];
  const { server, finished } = serve(4, (s) => {
    data.push(s.ctl[ctl.dataLo]!);
    ok(s);
  });
  server.start();
  await finished;
  expect(data).toEqual([67, 68, 69, 70]);
  expect(view.header(0).tail).toBe(70);
});

test('RING_CORRUPT when the head is nonsense', () => {
  const view = new RingsView(rings.buffer);
  for (const [head, tail] of [
    [65, 0],
    [10, 2 ** 40],
    [2 ** 50 + 3, 0],
  ] as const) {
    view.header(1).head = head;
    view.header(1).tail = tail;
    const bad = new ExitServer({ rings: rings.buffer, kick: rings.kick, onExit() {} });
    expect(() => bad.attach()).toThrow(expect.objectContaining({ code: 'RING_CORRUPT' }));
    bad.close();
  }
});

test('sequences go beyond 2^32', async () => {
  const view = new RingsView(rings.buffer);
  const start = 2 ** 32 - 2;
  view.header(0).head = start;
  view.header(0).tail = start;
  for (let i = 0; i < 64; i++) view.slot(0, start - i).seqLo = (start - i) >>> 0;
  for (let i = 0; i < 64; i++) view.slot(0, start - i).replySeqLo = (start - i) >>> 0;
  producer = createTestProducer(rings.buffer, 0, rings.kick);
  const seqs: number[] = [];
  for (let i = 0; i < 5; i++) producer.publish(ExitKind.read, 0, 0, 0, 4, i, 0);
  const { server, finished } = serve(5, (s) => {
    seqs.push(s.ctl[ctl.seqHi]! * 2 ** 32 + s.ctl[ctl.seqLo]!);
    ok(s);
  });
  server.start();
  await finished;
  expect(seqs).toEqual([start + 1, start + 2, start + 3, start + 4, start + 5]);
  expect(view.header(0).tail).toBe(start + 5);
});

test.each([
  ['kind 0', 0, 4, 1, 0],
  ['kind 12', 12, 4, 1, 0],
  ['width 3', ExitKind.read, 3, 1, 0],
  ['width 0', ExitKind.write, 0, 1, 0],
  ['a burst of no elements', ExitKind.readBurst, 1, 0, 0],
  ['a burst beyond its area', ExitKind.writeBurst, 4, 1025, 0],
  ['a burst whose bytes overflow 32 bits', ExitKind.readBurst, 4, 0x4000_0001, 0],
  ['a posted burst', ExitKind.writeBurst, 4, 1, slotPosted],
])(
  'a malformed request (%s) is answered as unclaimed and never reaches the handler',
  async (_name, kind, width, count, flags) => {
    producer.publish(kind, 0, 0, 0, width, 0, 0, count, flags);
    producer.publish(ExitKind.read, 0, 0, 0, 4, 77, 0);
    const seen: number[] = [];
    const { server, finished } = serve(1, (s) => {
      seen.push(s.ctl[ctl.dataLo]!);
      ok(s);
    });
    server.start();
    await finished;
    expect(seen).toEqual([77]);
    expect(server.malformed).toBe(1);
    expect(new RingsView(rings.buffer).slot(0, 1)).toMatchObject({
      replyLo: 0xffffffff,
      replyHi: 0xffffffff,
      status: Status.unclaimed,
    });
  },
);

test('a ring full of garbage neither crashes nor hangs the process', async () => {
  const bytes = new Uint8Array(rings.buffer);
  let state = 99;
  const random = (): number => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return state >>> 16;
  };
  for (let round = 0; round < 30; round++) {
    bytes.fill(0, wire.ringBase);
    for (let at = wire.ringBase + wire.slotsAt; at < wire.ringBase + wire.slotsAt + 4096; at++)
      bytes[at] = random();
    const words = new Uint32Array(rings.buffer);
    // Right sequences for about half of the slots: those are taken.
    for (let n = 1; n <= 64; n++)
      if (random() & 1 || n < 4) {
        const at = wire.ringBase + wire.slotsAt + (n - 1) * ExitSlot.bytes;
        words[at >> 2] = n;
        words[(at + ExitSlot.offsetOf('replySeqLo')) >> 2] = 0;
      }
    let served = 0;
    const made = new ExitServer({
      rings: rings.buffer,
      kick: rings.kick,
      maxSpinNs: 0,
      onExit() {
        served++;
        const words = made.ctl;
        expect(words[ctl.kind]).toBeLessThanOrEqual(ExitKind.time);
        if (words[ctl.kind] === ExitKind.readBurst || words[ctl.kind] === ExitKind.writeBurst)
          expect(words[ctl.count]! * words[ctl.width]!).toBeLessThanOrEqual(4096);
        made.reply(0, 0, 0);
      },
    });
    made.attach();
    made.start();
    await new Promise(setImmediate);
    await new Promise(setImmediate);
    expect(served + made.malformed).toBeGreaterThanOrEqual(3);
    made.close();
  }
});

test('a memfd that is not a ring is refused with a code', () => {
  const make = (buffer: ArrayBuffer) => () =>
    new ExitServer({ rings: buffer, kick: rings.kick, onExit() {} });
  expect(make(new ArrayBuffer(4096))).toThrow(expect.objectContaining({ code: 'RING_FORMAT' }));
  expect(make(new ArrayBuffer(65536))).toThrow(expect.objectContaining({ code: 'RING_FORMAT' }));
  new RingsView(rings.buffer).control.rings = 66;
  expect(make(rings.buffer)).toThrow(expect.objectContaining({ code: 'RING_FORMAT' }));
});

test('an exit that the handler did not answer is an error of the handler, not silence', async () => {
  const errors: unknown[] = [];
  const listeners = process.listeners('uncaughtException');
  process.removeAllListeners('uncaughtException');
  const caught = new Promise<void>((resolve) => {
    process.once('uncaughtException', (error) => {
      errors.push(error);
      resolve();
    });
  });
  producer.publish(ExitKind.read, 0, 0, 0, 4, 0, 0);
  const { server: s } = serve(1, () => {});
  s.start();
  await caught;
  s.close();
  for (const listener of listeners) process.on('uncaughtException', listener);
  expect(errors[0]).toMatchObject({ code: 'EXIT_UNANSWERED' });
});

test('commit records the exit in the half that becomes the truth', async () => {
  const block = new StateBlock(makeBlock().buffer, counterSpec);
  producer.publish(ExitKind.write, 0, 0, 0, 4, 5, 0);
  const made = new ExitServer({
    rings: rings.buffer,
    kick: rings.kick,
    maxSpinNs: 0,
    onExit() {
      block.state.total = 5;
      made.commit(block, 0x11, 0x22, Status.ok);
      resolve();
    },
  });
  let resolve = (): void => {};
  const finished = new Promise<void>((r) => {
    resolve = r;
  });
  server = made;
  made.addBlock(block);
  made.attach();
  made.start();
  await finished;
  const half = block.halfAt(block.generation & 1);
  const words = new Uint32Array(block.buffer, half, 9);
  // HalfHeader: crc, ring, seq, reply, status.
  expect([...words.subarray(1, 7)]).toEqual([0, 1, 0, 0x11, 0x22, Status.ok]);
  expect(block.state.total).toBe(5);
  expect(CounterState.bytes).toBe(24);
});

test('writes posted by one vCPU are done before a request that another publishes later', async () => {
  const other = createTestProducer(rings.buffer, 1, rings.kick);
  const order: number[] = [];
  const { server, finished } = serve(4, (s) => {
    order.push(s.ctl[ctl.dataLo]!);
    ok(s);
  });
  // Ring 0 would come first; its read was published last.
  for (const n of [1, 2, 3]) other.publish(ExitKind.write, 0, 0, 0, 4, n, 0, 1, slotPosted);
  producer.publish(ExitKind.read, 0, 0, 0, 4, 4, 0);
  server.start();
  await finished;
  expect(order).toEqual([1, 2, 3, 4]);
});
