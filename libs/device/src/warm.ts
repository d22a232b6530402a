/**
 * What a spare does while it waits for a role: it lets every device of its program live for a moment over private
 * memory, so that views are compiled and the code is loaded before a guest waits for it.
 */
import { Memory, Root, resetValues, type Struct, viewAt } from '@nyx/layout';
import { close, eventfd, memfdCreate, mmap } from '@nyx/native';
import type { Role } from '@nyx/protocol';
import {
  blockBytes,
  formatIrqPage,
  formatRings,
  formatVmPage,
  irqPageBytes,
  ringsBytes,
  vmPageBytes,
} from '@nyx/ring';
import type { AnyDeviceKind, DeviceContext } from './device.ts';
import { DeviceHost } from './host.ts';
import { GuestMemory } from './memory.ts';

const nothing = (): void => {};

/** A context in which nothing has an effect. */
function idle(kind: AnyDeviceKind): DeviceContext<Struct> {
  const memory = new Memory(new ArrayBuffer((kind.state.bytes + 7) & ~7));
  resetValues(kind.state, memory, 0);
  return {
    name: 'spare',
    state: viewAt(kind.state, new Root(memory)) as DeviceContext<Struct>['state'],
    replyHi: 0,
    now: () => 0,
    wallClock: () => 0,
    unclaimed: nothing,
    machineEvent: nothing,
    setRange: nothing,
    line: nothing,
    message: nothing,
    timerAt: nothing,
    event: (change) => change(),
    checkpoint: nothing,
    memory: new GuestMemory(new ArrayBuffer(4096), 4096),
    has: () => false,
    fd: () => {
      throw new Error('a spare has no descriptors');
    },
    bulk: () => {
      throw new Error('a spare has no memory');
    },
    signal: nothing,
    watch: nothing,
    log: nothing,
  };
}

/** Attaches these devices to memory of its own, as it will to that of a role, and lets go again. */
function rehearse(kinds: readonly AnyDeviceKind[]): void {
  const fds: number[] = [];
  const share = (fd: number): number => fds.push(fd) - 1;
  const made = (bytes: number, format: (buffer: ArrayBuffer) => void): number => {
    const fd = memfdCreate('spare', bytes);
    format(mmap(fd, bytes));
    return share(fd);
  };
  const entries = kinds.reduce((n, k) => n + k.irqs({}), 0);
  const role: Role = {
    type: 'role',
    version: 1,
    vm: '',
    process: 'spare',
    devices: kinds.map((k) => ({
      name: k.kind,
      kind: k.kind,
      config: {},
      state: made(blockBytes(k) + 4096, nothing),
      irqBase: 0,
      fds: {},
    })),
    ring: made(ringsBytes(1), (b) => formatRings(b, 1)),
    kick: share(eventfd()),
    irqPage: made(irqPageBytes(entries), (b) => formatIrqPage(b, entries)),
    irqEvent: share(eventfd()),
    vmPage: made(vmPageBytes, (b) => formatVmPage(b, { cpus: 1, wallClock: 0 })),
    ram: made(4096, nothing),
    ramLowBytes: 4096,
    ramBytes: 4096,
  };
  const fatal = (e: unknown): never => {
    throw e;
  };
  const host = new DeviceHost(role, fds, kinds, { fatal, log: nothing });
  host.start();
  host.close();
  for (const fd of fds) close(fd);
}

/** Never throws: a device that cannot live without its descriptors has at least its views compiled. */
export function warm(kinds: readonly AnyDeviceKind[]): void {
  const alive: AnyDeviceKind[] = [];
  for (const kind of kinds) {
    const ctx = idle(kind);
    try {
      const device = kind.create(ctx, {});
      device.reset();
      kind.regions.forEach((region, r) => {
        for (const register of region.table?.registers ?? []) {
          const width = Math.min(register.width, 4);
          device.write(r, register.at, width, device.read(r, register.at, width), 0);
        }
      });
      for (let at = 0; device.configRead && at < 0x40; at += 4)
        device.configWrite?.(0, at, 4, device.configRead(0, at, 4));
      device.line?.(4, 3);
      device.intAck?.();
      device.settle();
      alive.push(kind);
    } catch {
      // What it needs comes with its role.
    }
  }
  try {
    rehearse(alive);
  } catch {
    // A host that is short of descriptors or memory: the role will tell.
  }
}
