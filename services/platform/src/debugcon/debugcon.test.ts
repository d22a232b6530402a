import { ConsoleHost, consoleWire, formatConsole } from '@nyx/device';
import { conformance } from '@nyx/device/conformance';
import { Rig, type TestContext } from '@nyx/device/testing';
import { expect, it } from 'vitest';
import { debugcon } from './device.ts';
import type { DebugconState } from './regs.ts';

const options = {
  config: {},
  prepare(ctx: TestContext<typeof DebugconState>) {
    const console = new ArrayBuffer(consoleWire.bytes);
    formatConsole(console);
    ctx.bulks.set('console', console);
    ctx.fds.set('consoleOut', 5);
  },
};
conformance(debugcon, { ...options, runs: 30 });

it('reads 0xe9 and writes to its console, bytes and bursts', () => {
  const rig = new Rig(debugcon, options);
  expect(rig.read(0, 0)).toBe(0xe9);
  rig.write(0, 0, 0x41);
  rig.run((d) => d.writeBurst!(0, 0, 1, Buffer.from('bc')));
  rig.restart();
  expect(Buffer.from(new ConsoleHost(rig.ctx.bulk('console')).take()!).toString()).toBe('Abc');
  expect(rig.ctx.signals.get(5)).toBeGreaterThan(0);
});
