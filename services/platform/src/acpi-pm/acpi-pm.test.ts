import { conformance } from '@nyx/device/conformance';
import { Rig } from '@nyx/device/testing';
import { MachineEvent } from '@nyx/ring';
import { describe, expect, it } from 'vitest';
import { acpiPm, type PmConfig } from './device.ts';
import { Control, Pm1, pmTimerHz } from './regs.ts';

conformance(acpiPm, { config: {} as PmConfig, runs: 60 });

const make = (timerBits = 32) => {
  const rig = new Rig(acpiPm, {
    config: { timerBits },
    prepare: (ctx) => void ctx.fds.set('powerButton', 9),
  });
  return { rig, sci: () => rig.ctx.lines[0]! & 1 };
};

describe('PM timer', () => {
  it('is a function of guest time, as the vCPU process computes it', () => {
    const { rig } = make();
    for (const ns of [0, 1e9, 279, 280, 3_600e9, 86_400e9 * 30 + 123_456_789]) {
      rig.ctx.time = ns;
      const exact = (BigInt(ns) * BigInt(pmTimerHz)) / 1_000_000_000n;
      expect(rig.read(0, 8, 4)).toBe(Number(exact & 0xffffffffn));
    }
    const counter = rig.ctx.state.pmTimer.at(0);
    expect([counter.base, counter.hz, counter.bits]).toEqual([0, pmTimerHz, 32]);
    rig.write(0, 8, 0x1234, 4);
    expect(rig.ctx.state.pmTimer.at(0).hz).toBe(pmTimerHz);
  });
  it('sets its status, and interrupts, when the top bit changes', () => {
    const { rig, sci } = make(24);
    const half = Math.ceil((2 ** 23 * 1e9) / pmTimerHz);
    rig.advance(half - 1);
    expect(rig.read(0, 0, 2)).toBe(0);
    rig.advance(1);
    expect([rig.read(0, 0, 2), sci()]).toEqual([Pm1.timer, 0]);
    rig.write(0, 0, Pm1.timer, 2);
    rig.write(0, 2, Pm1.timer, 2);
    rig.advance(half);
    expect([sci(), rig.read(0, 0, 2)]).toEqual([1, Pm1.timer]);
    rig.write(0, 0, Pm1.timer, 2);
    expect(sci()).toBe(0);
  });
});

describe('events', () => {
  it('power button raises SCI when enabled', () => {
    const { rig, sci } = make();
    rig.ctx.watched.get(9)!();
    expect([rig.read(0, 0, 2), sci()]).toEqual([Pm1.powerButton, 0]);
    rig.write(0, 2, Pm1.powerButton, 2);
    expect(sci()).toBe(1);
    rig.write(0, 0, 0xffff, 2);
    expect([sci(), rig.read(0, 0, 4)]).toEqual([0, Pm1.powerButton << 16]);
  });
  it('sleep: S5 and S3, only with SLP_EN; ACPI mode cannot be left', () => {
    const { rig } = make();
    expect(rig.read(0, 4, 2)).toBe(Control.sciEnable);
    expect(rig.write(0, 4, 0x0000, 2).machine).toBe(MachineEvent.none);
    expect(rig.write(0, 4, 0x2001, 2).machine).toBe(MachineEvent.shutdown);
    expect(rig.write(0, 4, 0x2400, 2).machine).toBe(MachineEvent.suspend);
    expect(rig.write(0, 4, 0x2800, 2).machine).toBe(MachineEvent.none);
    // By bytes, as some do: the type first.
    rig.write(0, 5, 0x14);
    expect(rig.write(0, 5, 0x34).machine).toBe(MachineEvent.shutdown);
    expect(rig.read(0, 4, 2)).toBe(0x1401);
  });
  it('firmware without SMM: APMC_EN is set, the APM ports are storage', () => {
    const { rig } = make();
    expect(rig.read(0, 0x30, 4)).toBe(0x20);
    rig.write(1, 1, 0x5a);
    expect([rig.read(1, 1), rig.read(1, 0, 2)]).toEqual([0x5a, 0x5a00]);
  });
});
