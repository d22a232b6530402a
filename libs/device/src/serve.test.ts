import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { monotonicNs } from '@nyx/native';
import { BlockHeader, ExitKind, Status } from '@nyx/ring';
import { afterEach, describe, expect, it } from 'vitest';
import { Served } from './served.ts';

const main = fileURLToPath(new URL('../template/main.ts', import.meta.url));
const command = [process.execPath, '--import', 'tsx', main];
const open: Served[] = [];
const make = (irqs = 1): Served => {
  const served = new Served(command, [
    { name: 'bell0', kind: 'doorbell', irqs },
    { name: 'bell1', kind: 'doorbell', irqs },
  ]);
  open.push(served);
  return served;
};
afterEach(async () => {
  for (const s of open.splice(0))
    if (s.child.exitCode === null && s.child.signalCode === null) await s.kill();
});

const SECOND = 1_000_000_000;
/** [reply, status] of a synchronous exit. */
const sync = (
  s: Served,
  kind: number,
  device: number,
  offset: number,
  width: number,
  value = 0,
  region = 0,
): [number, number] => {
  const ns = s.cpu.sync(kind, device, region, offset, width, value, 0, 1, SECOND);
  if (ns < 0) throw new Error(`no answer: ${s.stderr}`);
  return [s.cpu.result[0]!, s.cpu.result[2]!];
};
const read = (s: Served, device: number, offset: number, width = 4): number =>
  sync(s, ExitKind.read, device, offset, width)[0];
const write = (s: Served, device: number, offset: number, value: number, width = 4): number =>
  sync(s, ExitKind.write, device, offset, width, value)[1];

describe('a served process', () => {
  it('answers for several devices, posted and synchronous in order, and raises lines', async () => {
    const s = make();
    const serving = await s.start();
    expect(serving).toMatchObject({ process: 'served', epoch: 1, republished: 0, repaired: [] });
    expect(read(s, 0, 0)).toBe(0x4c4c4542);
    write(s, 0, 4, 0xdead);
    write(s, 1, 4, 0xbeef);
    expect([read(s, 0, 4), read(s, 1, 4), read(s, 1, 4, 1)]).toEqual([0xdead, 0xbeef, 0xef]);
    for (let i = 0; i < 30; i++) s.cpu.publish(ExitKind.write, 0, 0, 8, 4, 1, 0, 1, 1);
    expect(read(s, 0, 0x10)).toBe(30);
    expect([s.word(0), s.word(1)]).toEqual([3, 0]);
    write(s, 0, 0x0c, 1);
    read(s, 0, 0);
    expect(s.word(0)).toBe(2);
  });

  it('answers bad slots as unclaimed', async () => {
    const s = make();
    await s.start();
    const ones = [0xffffffff, Status.unclaimed];
    expect(sync(s, ExitKind.read, 7, 0, 4)).toEqual(ones);
    expect(sync(s, ExitKind.read, 0, 0, 4, 0, 3)).toEqual(ones);
    expect(sync(s, ExitKind.read, 0, 0x20, 4)).toEqual(ones);
    expect(sync(s, ExitKind.configRead, 0, 0, 4)).toEqual(ones);
    expect(sync(s, ExitKind.intAck, 0, 0, 4)).toEqual(ones);
    expect(sync(s, 200, 0, 0, 4)[1] & 0xff).toBe(Status.unclaimed);
    expect(sync(s, ExitKind.write, 0, 0x1f, 4, 5)[1]).toBe(Status.ok);
    expect(read(s, 0, 0)).toBe(0x4c4c4542);
  });

  it('bursts without a method of their own are single accesses', async () => {
    const s = make();
    await s.start();
    new DataView(s.rings.burst(0).buffer, s.rings.burst(0).byteOffset).setUint32(0, 5, true);
    new DataView(s.rings.burst(0).buffer, s.rings.burst(0).byteOffset).setUint32(4, 6, true);
    expect(s.cpu.sync(ExitKind.writeBurst, 0, 0, 8, 4, 0, 0, 2, SECOND)).toBeGreaterThan(0);
    expect(read(s, 0, 0x10)).toBe(11);
    write(s, 0, 8, 9);
    s.cpu.sync(ExitKind.readBurst, 0, 0, 0x10, 4, 0, 0, 3, SECOND);
    expect([...new Uint32Array(s.rings.burst(0).buffer, s.rings.burst(0).byteOffset, 3)]).toEqual([9, 0, 0]);
  });

  it('timers run on guest time, also over a restart', async () => {
    const s = make();
    await s.start();
    const at = monotonicNs() - s.vm.clockOffset + 150_000_000;
    s.cpu.sync(ExitKind.write, 0, 0, 0x18, 8, at >>> 0, Math.floor(at / 2 ** 32), 1, SECOND);
    expect(read(s, 0, 0x0c)).toBe(0);
    await s.kill();
    await s.start();
    await sleep(200);
    expect([read(s, 0, 0x0c), s.word(0)]).toEqual([2, 3]);
  });

  it('killed under load, its successor goes on: every write counts once', async () => {
    const s = make();
    await s.start();
    let rung = 0;
    for (let round = 0; round < 4; round++) {
      for (let i = 0; i < 40; i++) {
        if (s.cpu.publish(ExitKind.write, 0, 0, 8, 4, 1, 0, 1, 1)) rung++;
      }
      await s.kill();
      const serving = await s.start();
      expect(serving.epoch).toBe(round + 2);
    }
    expect(rung).toBeGreaterThan(60);
    expect(read(s, 0, 0x10)).toBe(rung);
    expect(write(s, 0, 4, 1)).toBe(Status.ok);
  });

  it('a reset gives power-on state, and edges go on being counted', async () => {
    const s = make();
    await s.start();
    write(s, 0, 4, 77);
    write(s, 0, 8, 1);
    sync(s, ExitKind.reset, 0, 0, 0);
    expect([read(s, 0, 4), read(s, 0, 0x0c), read(s, 0, 0), s.word(0)]).toEqual([0, 0, 0x4c4c4542, 2]);
  });

  it('refuses a role it cannot serve with a code, and state that is not its own', async () => {
    const s = make();
    s.role.devices[0]!.kind = 'teapot';
    await expect(s.start()).rejects.toMatchObject({ code: 'ROLE_KIND' });
    s.role.devices[0]!.kind = 'doorbell';
    await s.start();
    await s.kill();
    s.role.devices[0]!.state = s.role.ram!;
    new Uint32Array(s.ram).fill(0x5a5a5a5a, 0, 64);
    new Uint32Array(s.ram)[BlockHeader.offsetOf('initialized') >> 2] = 1;
    await expect(s.start()).rejects.toMatchObject({ code: 'STATE_FORMAT' });
  });
}, 120_000);
