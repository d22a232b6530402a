import { conformance } from '@nyx/device/conformance';
import { Rig } from '@nyx/device/testing';
import { Space } from '@nyx/ring';
import { expect, it } from 'vitest';
import { i6300esb } from './device.ts';
import { Lock, Reload, Window } from './regs.ts';

conformance(i6300esb, { config: {}, runs: 60 });

/** As Linux drives it (drivers/watchdog/i6300esb.c). */
const make = () => {
  const rig = new Rig(i6300esb, { config: {} });
  const c = (at: number, value: number, width: number) => rig.run((d) => d.configWrite!(0, at, width, value));
  const cr = (at: number, width: number) => rig.run((d) => d.configRead!(0, at, width)).value;
  const unlock = (): void => {
    rig.write(0, Window.reload, Reload.unlock1, 2);
    rig.write(0, Window.reload, Reload.unlock2, 2);
  };
  const set = (seconds: number): void => {
    unlock();
    rig.write(0, Window.timer1, seconds << 9, 4);
    unlock();
    rig.write(0, Window.timer2, seconds << 9, 4);
  };
  const feed = (): void => {
    unlock();
    rig.write(0, Window.reload, Reload.reload, 2);
  };
  const start = (flags: number = Lock.enabled): void => {
    feed();
    c(0x68, flags, 1);
  };
  /** Lets `seconds` pass, timers fire. */
  const wait = (seconds: number): void => rig.advance(seconds * 1e9);
  const expired = () => rig.ctx.state.expired;
  return { rig, c, cr, unlock, set, feed, start, wait, expired };
};

it('is a PCI function that Linux knows, with 16 bytes of registers', () => {
  const w = make();
  expect([w.cr(0, 4), w.cr(8, 4)]).toEqual([0x25ab_8086, 0x0880_0000]);
  w.c(0x10, 0xffff_ffff, 4);
  expect(w.cr(0x10, 4)).toBe(0xffff_fff0);
  w.c(0x10, 0xc100_0000, 4);
  w.c(0x04, 2, 2);
  expect(w.rig.ctx.ranges[0]).toEqual({ space: Space.mmio, region: 0, base: 0xc100_0000, length: 16 });
});

it('resets the machine after both stages, once; the guest can ask whether it was so', () => {
  const w = make();
  w.c(0x60, 3, 2);
  w.set(10);
  w.start();
  w.wait(10);
  expect([w.expired(), w.rig.read(0, Window.reload, 2)]).toEqual([0, 0]);
  w.wait(0.5);
  expect(w.expired()).toBe(1);
  w.wait(1000);
  expect([w.expired(), w.rig.read(0, Window.reload, 2), w.cr(0x68, 1)]).toEqual([1, Reload.timeout, 0]);
  w.rig.reset();
  expect(w.rig.read(0, Window.reload, 2)).toBe(Reload.timeout);
  w.unlock();
  w.rig.write(0, Window.reload, Reload.timeout | Reload.reload, 2);
  expect(w.rig.read(0, Window.reload, 2)).toBe(0);
});

it('is fed', () => {
  const w = make();
  w.set(10);
  w.start();
  for (let i = 0; i < 20; i++) {
    w.wait(9);
    w.feed();
  }
  expect(w.expired()).toBe(0);
  // In its second stage as well.
  w.wait(15 / 2);
  expect(w.rig.read(0, Window.interrupt, 4)).toBe(1);
  w.rig.write(0, Window.interrupt, 1, 4);
  w.feed();
  w.wait(9);
  expect(w.expired()).toBe(0);
});

it('takes one write after the unlock sequence, and none without it', () => {
  const w = make();
  w.rig.write(0, Window.timer1, 5, 4);
  w.rig.write(0, Window.reload, Reload.unlock2, 2);
  w.rig.write(0, Window.timer1, 5, 4);
  expect(w.rig.read(0, Window.timer1, 4)).toBe(0xfffff);
  w.unlock();
  w.rig.write(0, Window.timer1, 5, 4);
  w.rig.write(0, Window.timer2, 5, 4);
  expect([w.rig.read(0, Window.timer1, 4), w.rig.read(0, Window.timer2, 4)]).toEqual([5, 0xfffff]);
});

it('once locked, it cannot be stopped, not even by closing the file', () => {
  const w = make();
  w.set(10);
  w.start(Lock.enabled | Lock.locked);
  w.c(0x68, 0, 1);
  expect(w.cr(0x68, 1)).toBe(Lock.enabled | Lock.locked);
  w.wait(11);
  expect(w.expired()).toBe(1);
});

it('unlocked, it can be stopped', () => {
  const w = make();
  w.set(10);
  w.start();
  w.c(0x68, 0, 1);
  w.wait(1000);
  expect(w.expired()).toBe(0);
});

it('with its output off nothing happens; free running it goes on', () => {
  const w = make();
  w.c(0x60, 0x23, 2);
  w.set(10);
  w.start(Lock.enabled | Lock.free);
  w.wait(100);
  expect([w.expired(), w.rig.ctx.state.stage]).toEqual([0, 1 + (Math.floor(100 / 5.0841) % 2)]);
});

it('a guest that asks for microseconds does not keep us busy', () => {
  const w = make();
  w.c(0x60, 0x27, 2);
  w.unlock();
  w.rig.write(0, Window.timer1, 0, 4);
  w.unlock();
  w.rig.write(0, Window.timer2, 0, 4);
  w.start(Lock.enabled | Lock.free);
  expect(w.rig.ctx.timerNs - w.rig.ctx.time).toBe(1e6);
});
