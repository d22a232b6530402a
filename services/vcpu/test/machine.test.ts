import { ExitKind, MachineEvent, Space, Status, StatusFlag } from '@nyx/ring';
import { describe, expect, test } from 'vitest';
import * as a from './asm.ts';
import { booter, type Exit, enginesHere, event, Machine, testSpec } from './rig.ts';

const engines = enginesHere();

const done = a.code(a.out16(0x504, 1), a.jmpSelf);

const boot = booter();

/** Port 0x500 adds and tells the total; 0x502 reports a wrong total; 0x504 shuts down. */
const adder = (seen: Exit[] = []) => {
  let total = 0;
  return (x: Exit): number | [number, number] => {
    seen.push(x);
    if (x.offset === 4) return [0, event(MachineEvent.shutdown)];
    if (x.kind === ExitKind.write && x.offset === 0) total = (total + x.data) & 0xffff;
    return total;
  };
};

describe.each(engines)('a guest under %s', (accel) => {
  test('writes and reads a device, each exit once and in order', async () => {
    const turns = 2000;
    const body = [...a.addBxCx, ...a.movDx(0x500), ...a.movAxCx, ...a.outDxAx, ...a.inAxDx, ...a.cmpAxBx];
    const rom = a.code(a.movBx(0), a.movCx(turns), a.loop([...body, ...a.unlessEqual(a.out16(0x502, 1))]), [
      ...done,
    ]);
    const seen: Exit[] = [];
    const m = new Machine({ accel, rom });
    m.serve(adder(seen));
    const v = await boot(m);
    const e = await v.event('machineEvent');
    expect([e.a, e.b]).toEqual([MachineEvent.shutdown, 0]);
    expect(seen.filter((x) => x.offset === 2)).toEqual([]);
    expect(seen.length).toBe(2 * turns + 1);
    expect(m.vmPage.vcpu.at(0).exitsSync).toBe(2 * turns + 1);
    expect(await v.quit()).toBe(0);
  });

  test('string instructions travel as bursts', async () => {
    // es:di = 0:0x1000 gets 100 words from the device; ds:si sends them back.
    const rom = a.code(
      a.cld,
      a.xorAxAx,
      a.movDsAx,
      a.movEsAx,
      a.movDi(0x1000),
      a.movCx(100),
      a.movDx(0x506),
      a.repInsw,
      a.movSi(0x1000),
      a.movCx(100),
      a.repOutsw,
      [...done],
    );
    const written: number[] = [];
    let reads = 0;
    const m = new Machine({ accel, rom });
    m.serve((x, burst) => {
      if (x.offset === 4) return [0, event(MachineEvent.shutdown)];
      if (x.kind === ExitKind.readBurst || x.kind === ExitKind.read) reads++;
      const words = new Uint16Array(burst.buffer, burst.byteOffset, x.count || 1);
      if (x.kind === ExitKind.readBurst)
        words.forEach((_, i) => {
          words[i] = i * 257;
        });
      if (x.kind === ExitKind.writeBurst) written.push(...words);
      // KVM may also hand out single elements.
      if (x.kind === ExitKind.write) written.push(x.data);
      return 0;
    });
    const v = await boot(m);
    await v.event('machineEvent');
    expect(written).toEqual(Array.from({ length: 100 }, (_, i) => i * 257));
    // (KVM hands out `outs` in single elements.)
    expect(reads).toBeLessThan(10);
  });

  test('an address that nobody has reads as ones, a device that does not claim it as well', async () => {
    const report = [...a.movDx(0x502), ...a.outDxAx];
    const rom = a.code(a.movDx(0x700), a.inAxDx, report, a.movDx(0x508), a.inAxDx, report, [...done]);
    const got: number[] = [];
    const m = new Machine({ accel, rom });
    m.serve((x) => {
      if (x.offset === 4) return [0, event(MachineEvent.shutdown)];
      if (x.offset === 2) got.push(x.data);
      return x.offset === 8 ? [0x1234, Status.unclaimed] : 0;
    });
    await (await boot(m)).event('machineEvent');
    expect(got).toEqual([0xffff, 0xffff]);
    expect(m.vmPage.vcpu.at(0).exitsUnclaimed).toBe(1);
  });

  test('configuration space goes to the device that owns the function', async () => {
    const outd = (port: number, n: number) => [...a.movDx(port), ...a.movEax(n), ...a.outDxEax];
    const rom = a.code(
      outd(0xcf8, 0x80001004),
      a.movDx(0xcfe),
      a.inAxDx,
      a.movDx(0x502),
      a.outDxAx, // 00:02.0 register 6
      outd(0xcf8, 0x80001800),
      a.movDx(0xcfc),
      a.inAxDx,
      a.movDx(0x502),
      a.outDxAx, // 00:03.0: nobody
      [...done],
    );
    const seen: Exit[] = [];
    const m = new Machine({
      accel,
      rom,
      description: { functions: [{ bdf: 0x10, device: 'dev', region: 3 }] },
    });
    m.serve((x) => {
      if (x.offset === 4 && x.kind === ExitKind.write) return [0, event(MachineEvent.shutdown)];
      seen.push(x);
      return x.kind === ExitKind.configRead ? 0xbeef : 0;
    });
    await (await boot(m)).event('machineEvent');
    expect(seen.map((x) => [x.kind, x.region, x.offset, x.width, x.data])).toEqual([
      [ExitKind.configRead, 3, 6, 2, 0],
      [ExitKind.write, 0, 2, 2, 0xbeef],
      [ExitKind.write, 0, 2, 2, 0xffff],
    ]);
  });

  test('a shadow register is read from the state block, not asked for', async () => {
    const rom = a.code(a.movDx(0x50a), a.inAxDx, a.movDx(0x502), a.outDxAx, a.movDx(0x50a), a.inAlDx, [
      ...done,
    ]);
    const asked: number[] = [];
    const got: number[] = [];
    const classes = [{ kind: 1, region: 0, width: 2, offset: 10, source: 8, mask: 0x8000 }];
    const m = new Machine({ accel, rom }, { ...testSpec, classes });
    m.serve((x) => {
      if (x.offset === 4) return [0, event(MachineEvent.shutdown)];
      if (x.offset === 10) asked.push(x.width);
      if (x.offset === 2) got.push(x.data);
      return 0;
    });
    m.block.state.shadow = 0x1234;
    m.server!.commitEvent(m.block);
    await (await boot(m)).event('machineEvent');
    expect(got).toEqual([0x9234]);
    // Another width is not in the table.
    expect(asked).toEqual([1]);
    expect(m.vmPage.vcpu.at(0).exitsShadow).toBe(1);
  });

  test('ranges that a device publishes are read anew before the guest goes on', async () => {
    const rom = a.code(
      a.movDx(0x900),
      a.inAxDx,
      a.movDx(0x502),
      a.outDxAx,
      a.out16(0x50c, 1),
      a.movDx(0x900),
      a.inAxDx,
      a.movDx(0x502),
      a.outDxAx,
      [...done],
    );
    const got: number[] = [];
    const m = new Machine({ accel, rom });
    m.serve((x) => {
      if (x.region === 7) return 0x77;
      if (x.offset === 4) return [0, event(MachineEvent.shutdown)];
      if (x.offset === 2) got.push(x.data);
      if (x.offset !== 12) return 0;
      const r = m.block.ranges[0]!;
      r.space = Space.pio;
      r.region = 7;
      r.base = 0x900;
      r.length = 4;
      return [0, StatusFlag.mapChanged];
    });
    await (await boot(m)).event('machineEvent');
    expect(got).toEqual([0xffff, 0x77]);
  });

  test('pause, resume and reset; reset reaches the device and starts the guest anew', async () => {
    const rom = a.code(a.out16(0x500, 1), a.movDx(0x508), a.inAxDx, a.jmpSelf);
    let boots = 0;
    let resets = 0;
    const m = new Machine({ accel, rom });
    m.serve((x) => {
      if (x.kind === ExitKind.reset) resets++;
      else if (x.offset === 0) boots++;
      return 0;
    });
    const v = await boot(m);
    await v.event('started');
    v.send('pause');
    await v.event('paused');
    expect(m.vmPage.paused).toBe(1);
    v.send('resume');
    await v.event('resumed');
    expect(m.vmPage.paused).toBe(0);
    await expect.poll(() => boots, { timeout: 5000 }).toBe(1);
    v.send('reset');
    await v.event('resetDone');
    expect(resets).toBe(1);
    const from = v.events.length;
    v.send('resume');
    await v.event('resumed', from);
    await expect.poll(() => boots, { timeout: 5000 }).toBe(2);
  });

  test('a triple fault stops the machine and is reported', async () => {
    // lidt of six zero bytes, protected mode, then a selector of an empty descriptor: #GP, which has no gate.
    const rom = a.code(
      [0x2e, 0x0f, 0x01, 0x1e, 0x40, 0x00],
      [0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0],
      a.movAx(8),
      a.movDsAx,
      a.jmpSelf,
    );
    const m = new Machine({ accel, rom });
    m.serve(() => 0);
    const v = await boot(m);
    const e = await Promise.race([v.event('tripleFault'), v.event('internalError')]);
    expect(e.name).toBe('tripleFault');
  });
});
