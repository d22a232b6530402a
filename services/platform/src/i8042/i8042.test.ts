import { conformance } from '@nyx/device/conformance';
import { Rig } from '@nyx/device/testing';
import { MachineEvent } from '@nyx/ring';
import { describe, expect, it } from 'vitest';
import { i8042 } from './device.ts';
import { Mode, Status } from './regs.ts';

conformance(i8042, { config: {}, runs: 60 });

const make = () => {
  const rig = new Rig(i8042, { config: {} });
  const status = () => rig.read(1, 0);
  const drain = () => {
    const bytes: number[] = [];
    while (status() & Status.output) bytes.push(rig.read(0, 0));
    return bytes;
  };
  return {
    rig,
    status,
    drain,
    data: (v: number) => rig.write(0, 0, v),
    command: (v: number) => rig.write(1, 0, v),
    lines: () => rig.ctx.lines.map((w) => w & 1),
  };
};

describe('controller', () => {
  it('self-test, interface tests, command byte', () => {
    const p = make();
    p.command(0xaa);
    expect([p.status() & (Status.output | Status.system | Status.command), p.drain()]).toEqual([
      Status.output | Status.system | Status.command,
      [0x55],
    ]);
    p.command(0xab);
    p.command(0xa9);
    expect(p.drain()).toEqual([0]);
    p.command(0x60);
    p.data(0x47);
    p.command(0x20);
    expect(p.drain()).toEqual([0x47]);
    p.command(0xad);
    p.command(0x20);
    expect(p.drain()).toEqual([0x47 | Mode.keyboardOff]);
  });
  it('what a PC operating system asks to find an auxiliary port', () => {
    const p = make();
    p.command(0xd3);
    p.data(0x5a);
    expect([p.status() & Status.aux, p.drain()]).toEqual([Status.aux, [0x5a]]);
    p.command(0xa7);
    p.command(0x20);
    expect(p.drain()[0]! & Mode.auxOff).toBe(Mode.auxOff);
    p.command(0xa8);
    p.command(0x20);
    expect(p.drain()[0]! & Mode.auxOff).toBe(0);
  });
  it('resets: pulse, output port, port 0x92', () => {
    const p = make();
    expect(p.command(0xfe).machine).toBe(MachineEvent.reset);
    expect(p.command(0xff).machine).toBe(MachineEvent.none);
    p.command(0xd1);
    expect(p.data(0xdf).machine).toBe(MachineEvent.none);
    p.command(0xd1);
    expect(p.data(0xde).machine).toBe(MachineEvent.reset);
    expect(p.rig.write(2, 0, 3).machine).toBe(MachineEvent.reset);
    expect(p.rig.write(2, 0, 3).machine).toBe(MachineEvent.none);
  });
  it('A20 by the output port and by port 0x92 is one gate', () => {
    const p = make();
    p.command(0xd1);
    p.data(0xdd);
    expect(p.rig.read(2, 0)).toBe(0);
    p.rig.write(2, 0, 2);
    p.command(0xd0);
    expect(p.drain()[0]! & 2).toBe(2);
  });
});

describe('keyboard', () => {
  it('reset, identify, lights, scan code set, echo', () => {
    const p = make();
    p.data(0xff);
    expect(p.drain()).toEqual([0xfa, 0xaa]);
    p.data(0xf2);
    expect(p.drain()).toEqual([0xfa, 0xab, 0x83]);
    p.command(0x60);
    p.data(Mode.translate);
    p.data(0xf2);
    expect(p.drain()).toEqual([0xfa, 0xab, 0x41]);
    p.data(0xed);
    p.data(7);
    expect([p.drain(), p.rig.ctx.state.keyboard.at(0).leds]).toEqual([[0xfa, 0xfa], 7]);
    p.data(0xf0);
    p.data(0);
    expect(p.drain()).toEqual([0xfa, 0xfa, 0x41]);
    p.data(0xee);
    p.data(0x12);
    p.data(0xfe);
    expect(p.drain()).toEqual([0xee, 0xfe, 0xee]);
  });
  it('an interrupt for each byte, when enabled', () => {
    const p = make();
    p.data(0xff);
    expect(p.lines()).toEqual([1, 0]);
    p.rig.read(0, 0);
    expect([p.lines(), p.rig.ctx.lines[0]! >>> 1]).toEqual([[1, 0], 2]);
    p.rig.read(0, 0);
    expect(p.lines()).toEqual([0, 0]);
    p.command(0x60);
    p.data(0);
    p.data(0xee);
    expect([p.lines(), p.drain()]).toEqual([[0, 0], [0xee]]);
  });
  it('a disabled port keeps its bytes', () => {
    const p = make();
    p.data(0xf2);
    expect(p.rig.read(0, 0)).toBe(0xfa);
    p.command(0xad);
    expect(p.drain()).toEqual([0xab]); // was in the output buffer
    p.command(0xae);
    expect(p.drain()).toEqual([0x83]);
  });
});

describe('mouse', () => {
  it('reset, identify, settings; on IRQ 12', () => {
    const p = make();
    const mouse = (...bytes: number[]) => {
      for (const b of bytes) {
        p.command(0xd4);
        p.data(b);
      }
    };
    mouse(0xff);
    expect([p.lines(), p.status() & Status.aux, p.drain()]).toEqual([[0, 1], Status.aux, [0xfa, 0xaa, 0x00]]);
    mouse(0xf2);
    expect(p.drain()).toEqual([0xfa, 0x00]);
    mouse(0xf3, 200, 0xe8, 3, 0xe7, 0xf4, 0xe9);
    expect(p.drain()).toEqual([0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 0x30, 3, 200]);
    mouse(0x99);
    expect(p.drain()).toEqual([0xfe]);
  });
});
