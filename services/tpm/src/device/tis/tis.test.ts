import { conformance } from '@nyx/device/conformance';
import { Rig } from '@nyx/device/testing';
import { describe, expect, test } from 'vitest';
import { Op } from '../engine.ts';
import { bulkBytes } from '../requests.ts';
import { EchoEngine } from '../testing.ts';
import { tpmTis } from './device.ts';
import { Access, Interrupt, Status } from './regs.ts';

const engines: EchoEngine[] = [];
const kind = tpmTis<{ locality4?: boolean }>((ctx) => {
  const e = new EchoEngine(ctx);
  engines.push(e);
  return e;
});
const options = (locality4 = false) => ({
  config: { locality4 },
  prepare: (ctx: { bulks: Map<string, ArrayBuffer> }) => {
    ctx.bulks.set('buffer', new ArrayBuffer(bulkBytes));
  },
});
const varies = ['access_4'];
conformance(kind, { ...options(), resetVaries: varies, runs: 60 });
describe('locality 4 open', () =>
  conformance(kind, { ...options(true), runs: 20, resetVaries: [0, 1, 2, 3, 4].map((l) => `access_${l}`) }));

const at = (l: number, register: number): number => l * 0x1000 + register;
class Driver {
  readonly rig: Rig<(typeof kind)['state'], { locality4?: boolean }>;
  constructor(locality4 = false) {
    this.rig = new Rig(kind, options(locality4));
    this.rig.advance(0);
  }
  get engine(): EchoEngine {
    return engines.at(-1)!;
  }
  access(l: number): number {
    return this.rig.read(0, at(l, 0));
  }
  request(l: number, bits: number = Access.requestUse): void {
    this.rig.write(0, at(l, 0), bits);
  }
  sts(l: number): number {
    return this.rig.read(0, at(l, 0x18));
  }
  write(l: number, bits: number): void {
    this.rig.write(0, at(l, 0x18), bits);
  }
  burst(l: number): number {
    return (this.rig.read(0, at(l, 0x18), 4) >>> 8) & 0xffff;
  }
  send(l: number, bytes: readonly number[]): void {
    for (const b of bytes) this.rig.write(0, at(l, 0x24), b);
  }
  receive(l: number): number[] {
    const out: number[] = [];
    while (this.sts(l) & Status.dataAvail) out.push(this.rig.read(0, at(l, 0x24)));
    return out;
  }
}
const command = [0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x44, 7, 9];
const answer = (l: number): number[] => [0x80, 1, 0, 0, 0, 13, 0, 0, 0, 0, l, 9, 7];

test('what it says it is', () => {
  const { rig } = new Driver();
  expect(rig.read(0, 0xf00, 4)).toBe(0x0001_1014);
  expect(rig.read(0, 0x30, 4) & 0xf).toBe(0);
  expect((rig.read(0, 0x14, 4) >>> 28) & 7).toBe(3);
  expect(rig.read(0, 0x3000 + 0xf04)).toBe(1);
  expect(rig.read(0, 0x40, 4)).toBe(0xffffffff);
});

test('nothing is answered before the TPM is initialized', () => {
  const rig = new Rig(kind, options());
  expect(rig.read(0, 0)).toBe(Access.establishment);
  rig.write(0, 0, Access.requestUse);
  expect(rig.read(0, 0)).toBe(Access.establishment);
  rig.advance(0);
  expect(rig.read(0, 0)).toBe(Access.establishment | Access.valid);
});

test.each([[1], [2], [4], [8]])('a command and its response, in accesses of %i bytes', (width) => {
  const d = new Driver();
  d.request(0);
  expect(d.access(0)).toBe(0xa1);
  expect(d.sts(0)).toBe(Status.valid | Status.selfTestDone);
  d.write(0, Status.commandReady);
  expect(d.sts(0)).toBe(Status.valid | Status.selfTestDone | Status.commandReady);
  expect(d.burst(0)).toBe(255);
  const register = width === 8 ? 0x80 : 0x24;
  for (let i = 0; i < command.length; i += width) {
    let low = 0;
    let high = 0;
    for (let k = 0; k < width; k++)
      if (k < 4) low |= (command[i + k] ?? 0) << (8 * k);
      else high |= (command[i + k] ?? 0) << (8 * (k - 4));
    d.rig.write(0, register, low >>> 0, width, high >>> 0);
    const expects = (d.sts(0) & Status.expect) !== 0;
    expect(expects).toBe(i + width < command.length);
  }
  d.write(0, Status.go);
  expect(d.sts(0)).toBe(Status.valid | Status.selfTestDone);
  expect(d.burst(0)).toBe(0);
  d.rig.advance(0);
  expect(d.sts(0)).toBe(Status.valid | Status.selfTestDone | Status.dataAvail);
  expect(d.burst(0)).toBe(13);
  expect(d.receive(0)).toEqual(answer(0));
  expect(d.rig.read(0, 0x24)).toBe(0xff);
  d.write(0, Status.responseRetry);
  expect(d.receive(0)).toEqual(answer(0));
  d.write(0, Status.commandReady);
  expect(d.sts(0) & Status.commandReady).not.toBe(0);
});

test('go is nothing before the last byte, and data are nothing outside of reception', () => {
  const d = new Driver();
  d.request(0);
  d.send(0, command);
  d.write(0, Status.commandReady);
  d.send(0, command.slice(0, 11));
  d.write(0, Status.go);
  expect(d.sts(0) & Status.expect).not.toBe(0);
  d.send(0, [...command.slice(11), 1, 2, 3]);
  d.write(0, Status.go);
  d.send(0, [1, 2, 3]);
  d.rig.advance(0);
  expect(d.engine.seen.filter((r) => r.op === Op.command).map((r) => [...r.data])).toEqual([command]);
  // Both at once is forbidden.
  d.write(0, Status.commandReady | Status.go);
  expect(d.sts(0) & Status.dataAvail).not.toBe(0);
});

test('localities ask, wait, seize', () => {
  const d = new Driver();
  d.request(1);
  d.request(0);
  d.request(2);
  expect([0, 1, 2].map((l) => d.access(l))).toEqual([0x87, 0xa5, 0x87]);
  expect(d.sts(0)).toBe(0xff);
  expect(d.rig.read(0, at(0, 0x18), 4)).toBe(0xffffffff);
  // The highest of those that wait.
  d.request(1, Access.active);
  expect([0, 1, 2].map((l) => d.access(l))).toEqual([0x83, 0x85, 0xa5]);
  // Not from above.
  d.request(1, Access.seize);
  expect(d.access(2) & Access.active).not.toBe(0);
  d.request(3, Access.seize);
  expect([2, 3].map((l) => d.access(l) & 0x30)).toEqual([Access.beenSeized, Access.active]);
  d.request(2, Access.beenSeized);
  expect(d.access(2) & 0x30).toBe(0);
  // A request can be taken back.
  d.request(0, Access.active);
  d.request(3, Access.active);
  expect([0, 1, 2, 3].map((l) => d.access(l) & 0x22)).toEqual([0, 0, 0, 0]);
  // Software does not get locality 4.
  d.request(4);
  expect(d.access(4)).toBe(0xff);
  expect([0, 1, 2, 3].map((l) => d.access(l) & 0x24)).toEqual([0, 0, 0, 0]);
});

test('a command is aborted by commandReady, by its locality leaving, by a seizure', () => {
  for (const how of ['ready', 'leave', 'seize']) {
    const d = new Driver();
    d.request(0);
    d.write(0, Status.commandReady);
    d.send(0, command);
    d.write(0, Status.go);
    if (how === 'ready') d.write(0, Status.commandReady);
    else if (how === 'leave') d.request(0, Access.active);
    else d.request(2, Access.seize);
    expect(d.engine.cancels).toBe(1);
    expect(d.access(0) & Access.active, how).toBe(Access.active);
    expect(d.sts(0) & (Status.commandReady | Status.dataAvail)).toBe(0);
    d.rig.advance(0);
    expect(d.rig.ctx.state.op).toBe(0);
    if (how === 'ready') expect(d.sts(0) & Status.commandReady).not.toBe(0);
    else expect(d.access(0) & Access.active).toBe(0);
    if (how === 'seize') {
      expect(d.access(2) & Access.active).not.toBe(0);
      d.write(2, Status.commandReady);
      d.send(2, command);
      d.write(2, Status.go);
      d.rig.advance(0);
      expect(d.receive(2)).toEqual(answer(2));
    }
  }
});

test('interrupts: of the active locality, while globally enabled, until acknowledged', () => {
  const d = new Driver();
  const { rig } = d;
  rig.write(0, 0x08, 0xffffffff, 4);
  expect(rig.read(0, 0x08, 4)).toBe(Interrupt.levelLow);
  d.request(0);
  rig.write(0, 0x0c, 10);
  rig.write(0, 0x08, 0xffffffff, 4);
  expect(rig.read(0, 0x08, 4)).toBe(0x8000_009f);
  d.write(0, Status.commandReady);
  expect(rig.read(0, 0x10, 4)).toBe(Interrupt.commandReady);
  expect(rig.ctx.lines.map((w) => w & 1)).toEqual(Array.from({ length: 16 }, (_, i) => (i === 10 ? 1 : 0)));
  rig.write(0, 0x10, Interrupt.commandReady, 4);
  expect(rig.ctx.lines[10]! & 1).toBe(0);
  d.send(0, command);
  d.write(0, Status.go);
  rig.write(0, 0x10, 0xff, 4);
  rig.advance(0);
  expect(rig.read(0, 0x10, 4)).toBe(Interrupt.stsValid | Interrupt.dataAvail);
  rig.write(0, 0x08, Interrupt.all, 4);
  expect(rig.ctx.lines[10]! & 1).toBe(0);
});

test('a command larger than the buffer is handed over as far as it fits', () => {
  const d = new Driver();
  d.request(0);
  d.write(0, Status.commandReady);
  d.send(0, [0x80, 1, 0xff, 0xff, 0xff, 0xff, ...new Array<number>(5000).fill(7)]);
  expect(d.sts(0) & Status.expect).toBe(0);
  d.write(0, Status.go);
  expect(d.engine.waiting!.request.data.length).toBe(4096);
});

test('a dynamic launch is measured from locality 4', () => {
  const d = new Driver(true);
  d.request(0);
  const w = (register: number, v: number, width = 1) => d.rig.write(0, at(4, register), v, width);
  w(0x28, 1);
  expect([d.access(0) & 0x31, d.access(4) & 0x31]).toEqual([Access.beenSeized, Access.active]);
  w(0x24, 0x04030201, 4);
  w(0x24, 5);
  w(0x20, 1);
  expect(d.engine.waiting!.request).toMatchObject({
    op: Op.drtm,
    locality: 4,
    data: Uint8Array.of(1, 2, 3, 4, 5),
  });
  d.rig.advance(0);
  // Only localities 3 and 4 forget that it happened.
  d.request(4, Access.active);
  d.request(2);
  d.rig.write(0, at(2, 0x1b), 2);
  expect(d.access(2) & Access.establishment).toBe(0);
  d.request(2, Access.active);
  d.request(3);
  d.rig.write(0, at(3, 0x1b), 2);
  expect(d.access(2) & Access.establishment).toBe(1);
  // It cannot be had where software is kept out.
  const closed = new Driver();
  closed.rig.write(0, at(4, 0x28), 1);
  closed.rig.write(0, at(4, 0x20), 1);
  expect(closed.engine.waiting).toBeUndefined();
  expect(closed.access(0)).toBe(0x81);
});
