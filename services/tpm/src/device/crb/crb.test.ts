import { conformance } from '@nyx/device/conformance';
import { Rig } from '@nyx/device/testing';
import { expect, test } from 'vitest';
import { Op } from '../engine.ts';
import { bulkBytes } from '../requests.ts';
import { EchoEngine } from '../testing.ts';
import { tpmCrb } from './device.ts';
import { crbBase, dataBytes, LocControl, LocStatus, Request, Status } from './regs.ts';

const engines: EchoEngine[] = [];
const kind = tpmCrb<{ locality4?: boolean }>((ctx) => {
  const e = new EchoEngine(ctx);
  engines.push(e);
  return e;
});
const options = {
  config: {},
  prepare: (ctx: { bulks: Map<string, ArrayBuffer> }) => {
    ctx.bulks.set('buffer', new ArrayBuffer(bulkBytes));
  },
};
conformance(kind, { ...options, runs: 60 });

class Driver {
  readonly rig = new Rig(kind, options);
  constructor() {
    this.rig.advance(0);
  }
  get engine(): EchoEngine {
    return engines.at(-1)!;
  }
  r(l: number, register: number, width = 4): number {
    return this.rig.read(0, l * 0x1000 + register, width);
  }
  w(l: number, register: number, value: number, width = 4, high = 0): void {
    this.rig.write(0, l * 0x1000 + register, value, width, high);
  }
  send(l: number, bytes: readonly number[]): void {
    bytes.forEach((b, i) => this.w(l, 0x80 + i, b, 1));
  }
  receive(l: number, n: number): number[] {
    return Array.from({ length: n }, (_, i) => this.r(l, 0x80 + i, 1));
  }
}
const command = [0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x44, 7, 9];
const answer = (l: number): number[] => [0x80, 1, 0, 0, 0, 13, 0, 0, 0, 0, l, 9, 7];

test('what it says it is, and where its buffer lies', () => {
  const d = new Driver();
  expect(d.r(0, 0x30) & 0xff).toBe(0x11);
  expect(d.r(0, 0x34)).toBe(0x0001_1014);
  for (const l of [0, 3]) {
    expect(d.r(l, 0x5c)).toBe(crbBase + l * 0x1000 + 0x80);
    expect([d.r(l, 0x60), d.r(l, 0x58), d.r(l, 0x64)]).toEqual([0, dataBytes, dataBytes]);
    const { value, high } = d.rig.run((x) => x.read(0, l * 0x1000 + 0x68, 8));
    expect([value, high]).toEqual([crbBase + l * 0x1000 + 0x80, 0]);
  }
});

test('a command and its response', () => {
  const d = new Driver();
  expect(d.r(0, 0)).toBe(0x81);
  d.w(0, 8, LocControl.request);
  expect([d.r(0, 0), d.r(1, 0), d.r(0, 0xc), d.r(1, 0xc)]).toEqual([0x83, 0x83, LocStatus.granted, 0]);
  // Idle: nothing starts.
  d.w(0, 0x4c, 1);
  expect([d.r(0, 0x4c), d.r(0, 0x44)]).toEqual([0, Status.idle]);
  d.w(0, 0x40, Request.commandReady);
  expect([d.r(0, 0x40), d.r(0, 0x44)]).toEqual([0, 0]);
  d.send(0, command);
  d.w(0, 0x4c, 1);
  expect(d.r(0, 0x4c)).toBe(1);
  // Nothing changes under a command that runs.
  d.send(0, [1, 2, 3]);
  d.w(0, 0x40, Request.goIdle);
  d.w(0, 0x4c, 1);
  expect(d.engine.seen.filter((r) => r.op === Op.command).map((r) => [...r.data])).toEqual([command]);
  expect(d.receive(0, 2)).toEqual([0xff, 0xff]);
  d.rig.advance(0);
  expect([d.r(0, 0x4c), d.r(0, 0x44)]).toEqual([0, 0]);
  expect(d.receive(0, 13)).toEqual(answer(0));
  expect(d.receive(1, 2)).toEqual([0xff, 0xff]);
  const { value, high } = d.rig.run((x) => x.read(0, 0x80, 8));
  expect([value, high]).toEqual([0x0000_0180, 0x0000_0d00]);
  // Out of idle, as SeaBIOS does it.
  d.w(0, 0x40, Request.goIdle);
  d.send(0, command);
  expect(d.r(0, 0x44)).toBe(0);
  d.w(0, 0x4c, 1);
  d.rig.advance(0);
  expect(d.receive(0, 13)).toEqual(answer(0));
  // The next one straight on, without a new commandReady.
  d.send(0, command);
  d.w(0, 0x4c, 1);
  d.rig.advance(0);
  expect(d.receive(0, 13)).toEqual(answer(0));
  d.w(0, 0x40, Request.goIdle);
  expect(d.r(0, 0x44)).toBe(Status.idle);
});

test('localities ask, wait, seize; a seizure aborts', () => {
  const d = new Driver();
  d.w(1, 8, LocControl.request);
  d.w(0, 8, LocControl.request);
  d.w(2, 8, LocControl.request);
  expect(d.r(0, 0)).toBe(0x81 | 2 | (1 << 2));
  d.w(1, 8, LocControl.relinquish);
  expect(d.r(0, 0)).toBe(0x81 | 2 | (2 << 2));
  d.w(1, 8, LocControl.seize);
  expect(d.r(2, 0xc)).toBe(LocStatus.granted);
  d.w(2, 0x40, Request.commandReady);
  d.send(2, command);
  d.w(2, 0x4c, 1);
  d.w(3, 8, LocControl.seize);
  expect([d.r(2, 0xc), d.engine.cancels]).toEqual([LocStatus.granted, 1]);
  d.rig.advance(0);
  expect([d.r(2, 0xc), d.r(3, 0xc)]).toEqual([LocStatus.beenSeized, LocStatus.granted]);
  expect([d.r(3, 0x4c), d.r(3, 0x44)]).toEqual([0, Status.idle]);
  d.w(2, 8, LocControl.request);
  expect(d.r(2, 0xc)).toBe(0);
  d.w(3, 8, LocControl.relinquish);
  d.w(2, 8, LocControl.relinquish);
  d.w(0, 8, LocControl.relinquish);
  expect(d.r(0, 0)).toBe(0x81);
  // Software does not get locality 4.
  d.w(4, 8, LocControl.request);
  expect([d.r(0, 0), d.r(4, 0)]).toEqual([0x81, 0xffffffff]);
});

test('a command can be cancelled', () => {
  const d = new Driver();
  d.w(0, 8, LocControl.request);
  d.w(0, 0x40, Request.commandReady);
  d.w(0, 0x48, 1);
  expect(d.engine.cancels).toBe(0);
  d.w(0, 0x48, 0);
  d.send(0, command);
  d.w(0, 0x4c, 1);
  d.w(0, 0x48, 1);
  expect([d.engine.cancels, d.r(0, 0x48), d.r(0, 0x4c)]).toEqual([1, 1, 1]);
  d.rig.advance(0);
  expect(d.r(0, 0x4c)).toBe(0);
});

test('a size that cannot be is handed over as far as the buffer reaches', () => {
  for (const [size, handed] of [
    [0, 10],
    [5, 10],
    [0xffffffff, dataBytes],
  ] as const) {
    const d = new Driver();
    d.w(0, 8, LocControl.request);
    d.w(0, 0x40, Request.commandReady);
    d.send(0, [0x80, 1, size >>> 24, (size >>> 16) & 255, (size >>> 8) & 255, size & 255]);
    d.w(0, 0x4c, 1);
    expect(d.engine.waiting!.request.data.length).toBe(handed);
  }
});
