import { conformance } from '@nyx/device/conformance';
import { MemoryDisk } from '../block/memory.ts';
import { usual } from './bench.ts';
import { ahci } from './device.ts';
import { hbaRegisters, portName, ports } from './regs.ts';

const contents = new Map<number, Uint8Array>();
const kind = ahci((_ctx, _config, port) => (memory, completed) => {
  const content = contents.get(port) ?? new Uint8Array(64 * 2048);
  contents.set(port, content);
  return new MemoryDisk(content, memory, completed, { eager: true });
});

conformance(kind, {
  config: usual,
  resetVaries: [
    'pi',
    ...Array.from({ length: ports }, (_, p) =>
      ['is', 'cmd', 'tfd', 'sig', 'ssts', 'serr'].map((n) => portName(p, n)),
    ).flat(),
  ].filter((n) => hbaRegisters.names.includes(n)),
});
