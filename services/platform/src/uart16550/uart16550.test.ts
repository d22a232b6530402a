import { ConsoleHost, consoleWire, formatConsole } from '@nyx/device';
import { conformance } from '@nyx/device/conformance';
import { Rig } from '@nyx/device/testing';
import { describe, expect, it } from 'vitest';
import { uart16550 } from './device.ts';
import { Fcr, Ier, Iir, Lcr, Lsr, Mcr, Msr } from './regs.ts';

const options = {
  config: {},
  prepare(ctx: { bulks: Map<string, ArrayBuffer>; fds: Map<string, number> }) {
    const console = new ArrayBuffer(consoleWire.bytes);
    formatConsole(console);
    ctx.bulks.set('console', console);
    ctx.fds.set('consoleOut', 5).set('consoleIn', 6);
  },
};
conformance(uart16550, { ...options, runs: 40 });

const make = () => {
  const rig = new Rig(uart16550, options);
  const host = new ConsoleHost(rig.ctx.bulk('console'));
  const send = (text: string) => {
    host.push(Buffer.from(text));
    rig.ctx.watched.get(6)!();
  };
  const r = (offset: number) => rig.read(0, offset);
  const w = (offset: number, value: number) => rig.write(0, offset, value);
  const level = () => rig.ctx.lines[0]! & 1;
  return { rig, host, send, r, w, level, edges: () => rig.ctx.lines[0]! >>> 1 };
};

describe('output', () => {
  it('goes to the console, one byte or a burst, and tells a host that had read everything', () => {
    const { rig, host, w } = make();
    const told = () => rig.ctx.signals.get(5) ?? 0;
    expect(told()).toBe(1); // attach
    w(0, 0x48);
    rig.run((d) => d.writeBurst!(0, 0, 1, Buffer.from('ello')));
    expect(told()).toBe(2);
    expect(Buffer.from(host.take()!).toString()).toBe('Hello');
    expect(host.take()).toBeUndefined();
    w(0, 0x21);
    expect(told()).toBe(3);
    rig.reset();
    rig.restart();
    w(0, 0x3f);
    expect(Buffer.from(host.take()!).toString()).toBe('!?');
  });
  it('never waits for the host, which sees what it lost', () => {
    const { rig, host } = make();
    const block = Buffer.alloc(4096, 0x61);
    for (let i = 0; i < consoleWire.outBytes / 4096; i++) rig.run((d) => d.writeBurst!(0, 0, 1, block));
    rig.run((d) => d.writeBurst!(0, 0, 1, Buffer.from('the end')));
    const bytes = host.take()!;
    expect([bytes.length, host.lost, Buffer.from(bytes.subarray(-7)).toString()]).toEqual([
      consoleWire.outBytes,
      7,
      'the end',
    ]);
  });
  it('a host that writes nonsense counters gets no say', () => {
    const { rig, r, w } = make();
    const words = new Uint32Array(rig.ctx.bulk('console'));
    words[33] = 0x80000000; // inHead
    rig.ctx.watched.get(6)!();
    expect(r(5)).toBe(Lsr.thre | Lsr.temt);
    w(0, 1);
  });
});

describe('transmitter interrupt', () => {
  it('enabling requests it; reading IIR takes it away; enabling again requests again', () => {
    const { r, w, level } = make();
    w(1, Ier.thre);
    expect([level(), r(2), level(), r(2)]).toEqual([1, Iir.thre, 0, Iir.none]);
    w(1, Ier.thre);
    expect(level()).toBe(0);
    w(1, 0);
    w(1, Ier.thre);
    expect([level(), r(2)]).toEqual([1, Iir.thre]);
  });
  it('a byte is a new edge even when the last was not acknowledged', () => {
    const { w, level, edges } = make();
    w(1, Ier.thre);
    const before = edges();
    w(0, 0x41);
    w(0, 0x42);
    expect([level(), edges() - before]).toEqual([1, 2]);
  });
});

describe('receiver', () => {
  it('without FIFO: one byte at a time, the rest waits at the other end', () => {
    const { send, r, w, level } = make();
    w(1, Ier.data);
    send('ab');
    expect([level(), r(2), r(5) & Lsr.ready]).toEqual([1, Iir.data, 1]);
    expect([r(0), r(0), r(5) & Lsr.ready, level(), r(0)]).toEqual([0x61, 0x62, 0, 0, 0x62]);
  });
  it('FIFO: trigger level, then the character timeout for what is below it', () => {
    const { rig, send, r, w, level } = make();
    w(3, Lcr.dlab);
    w(0, 12); // 9600 baud
    w(3, 3);
    w(2, Fcr.enable | 0x80); // 8 bytes
    w(1, Ier.data);
    send('1234567');
    expect(level()).toBe(0);
    send('89');
    expect([level(), r(2)]).toEqual([1, Iir.data | Iir.fifo]);
    for (const c of '12') expect(r(0)).toBe(c.charCodeAt(0));
    expect([level(), r(2)]).toEqual([0, Iir.none | Iir.fifo]);
    // 4 characters of 10 bits at 9600 baud: 4.17 ms.
    rig.advance(4_100_000);
    expect(level()).toBe(0);
    rig.advance(100_000);
    expect([level(), r(2)]).toEqual([1, Iir.timeout | Iir.fifo]);
    expect([r(0), level()]).toEqual([0x33, 0]);
  });
  it('takes at most 16 bytes, and the rest when the guest has read', () => {
    const { send, r, w, rig } = make();
    w(2, Fcr.enable);
    send('x'.repeat(16) + 'yz');
    expect(rig.ctx.state.inTail).toBe(16);
    let text = '';
    while (r(5) & Lsr.ready) text += String.fromCharCode(r(0));
    expect(text).toBe('x'.repeat(16) + 'yz');
  });
  it('input that waited through a restart is taken', () => {
    const { rig, host, r } = make();
    host.push(Buffer.from('q'));
    rig.restart();
    rig.advance(1);
    expect(r(0)).toBe(0x71);
  });
  it('tells a host whose ring was full', () => {
    const { rig, host, r } = make();
    expect(host.push(Buffer.alloc(5000))).toBe(4096);
    const told = rig.ctx.signals.get(5)!;
    rig.ctx.watched.get(6)!();
    expect(rig.ctx.signals.get(5)).toBe(told + 1);
    expect(host.push(Buffer.alloc(9))).toBe(1);
    r(0);
  });
});

describe('loopback', () => {
  it('sends to itself, cut to the word length; a full receiver overruns', () => {
    const { host, r, w } = make();
    w(4, Mcr.loop);
    w(3, 2); // 7 bits
    w(0, 0xe1);
    expect([r(5), r(0)]).toEqual([Lsr.ready | Lsr.thre | Lsr.temt, 0x61]);
    w(0, 1);
    w(0, 2);
    expect([r(5) & Lsr.overrun, r(5) & Lsr.overrun, r(0)]).toEqual([Lsr.overrun, 0, 2]);
    w(2, Fcr.enable);
    for (let i = 0; i < 17; i++) w(0, i);
    expect([r(5) & Lsr.overrun, r(0)]).toEqual([Lsr.overrun, 0]);
    expect(host.take()).toBeUndefined();
  });
  it('modem outputs come back as inputs, with deltas and the trailing edge of the ring', () => {
    const { r, w, level } = make();
    w(4, Mcr.loop);
    r(6);
    w(4, Mcr.loop | Mcr.rts | Mcr.out1);
    expect([r(6), r(6)]).toEqual([Msr.cts | Msr.ri | Msr.dcts, Msr.cts | Msr.ri]);
    w(1, Ier.modem);
    w(4, Mcr.loop | Mcr.rts | Mcr.dtr);
    expect([level(), r(2)]).toEqual([1, Iir.modem]);
    expect([r(6), level()]).toEqual([Msr.cts | Msr.dsr | Msr.ddsr | Msr.teri, 0]);
  });
  it('a break is a zero byte with an error that belongs to it', () => {
    const { r, w, level } = make();
    w(4, Mcr.loop);
    w(2, Fcr.enable);
    w(3, 3);
    w(1, Ier.line);
    w(0, 0x55);
    w(3, 3 | Lcr.break);
    expect([level(), r(5)]).toEqual([0, Lsr.ready | Lsr.thre | Lsr.temt | Lsr.fifo]);
    expect([r(0), level(), r(2)]).toEqual([0x55, 1, Iir.line | Iir.fifo]);
    expect([r(5), r(5), level()]).toEqual([
      Lsr.ready | Lsr.thre | Lsr.temt | Lsr.break | Lsr.fifo,
      Lsr.ready | Lsr.thre | Lsr.temt,
      0,
    ]);
  });
});

describe('registers', () => {
  it('priority: line status, data, transmitter, modem', () => {
    const { r, w } = make();
    w(4, Mcr.loop);
    w(1, 0x0f);
    w(0, 1);
    w(0, 2);
    expect(r(2)).toBe(Iir.line);
    r(5);
    expect(r(2)).toBe(Iir.data);
    r(0);
    expect(r(2)).toBe(Iir.thre);
    expect(r(2)).toBe(Iir.modem);
    r(6);
    expect(r(2)).toBe(Iir.none);
  });
  it('divisor behind DLAB, scratch, FIFO bits only with FIFO', () => {
    const { r, w } = make();
    w(3, Lcr.dlab);
    w(0, 0x34);
    w(1, 0x12);
    expect([r(0), r(1)]).toEqual([0x34, 0x12]);
    w(3, 3);
    expect([r(1), r(3)]).toEqual([0, 3]);
    w(7, 0xa5);
    expect(r(7)).toBe(0xa5);
    w(2, 0xc0);
    expect(r(2)).toBe(Iir.none);
    w(2, Fcr.enable);
    expect(r(2)).toBe(Iir.none | Iir.fifo);
  });
});
