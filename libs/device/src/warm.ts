/**
 * What a spare does while it waits for a role: it lets every device of its program live for a moment over private
 * memory, so that views are compiled and the code is loaded before a guest waits for it.
 */
import { Memory, Root, resetValues, type Struct, viewAt } from '@nyx/layout';
import { close, eventfd, fileSize, memfdCreate, mmap } from '@nyx/native';
import type { Role } from '@nyx/protocol';
import {
  blockBytes,
  ExitKind,
  formatIrqPage,
  formatRings,
  formatVmPage,
  irqPageBytes,
  RingsView,
  ringsBytes,
  vmPageBytes,
} from '@nyx/ring';
import { consoleWire, formatConsole } from './console.ts';
import type { AnyDeviceKind, DeviceContext } from './device.ts';
import { buildFwCfg } from './fwcfg.ts';
import { DeviceHost } from './host.ts';
import { GuestMemory } from './memory.ts';

const nothing = (): void => {};

/** What stands for the descriptors that come with a role, by the names that devices know them by; else an eventfd. */
const standIns: Record<string, () => number> = {
  console: () => {
    const fd = memfdCreate('spare', consoleWire.bytes);
    formatConsole(mmap(fd, consoleWire.bytes));
    return fd;
  },
  blob: () => {
    const bytes = buildFwCfg({ items: {}, files: [] });
    const fd = memfdCreate('spare', Math.ceil(bytes.length / 4096) * 4096);
    new Uint8Array(mmap(fd, fileSize(fd))).set(bytes);
    return fd;
  },
  file: () => memfdCreate('spare', 65536),
};

/** A context in which nothing has an effect. @param fds what the device asked for is added, by name */
export function idle(kind: AnyDeviceKind, fds: Map<string, number>): DeviceContext<Struct> {
  const fd = (name: string): number => {
    const known = fds.get(name);
    if (known !== undefined) return known;
    const made = (standIns[name] ?? eventfd)();
    fds.set(name, made);
    return made;
  };
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
    has: (name) => fd(name) >= 0,
    fd,
    bulk: (name) => mmap(fd(name), fileSize(fd(name))),
    signal: nothing,
    watch: nothing,
    log: nothing,
  };
}

/** One read of each device in the first ring, and one of its configuration space: what a guest may be waiting for. */
function ask(rings: ArrayBuffer, kinds: readonly AnyDeviceKind[]): void {
  const view = new RingsView(rings);
  const header = view.header(0);
  for (let round = 0, n = header.tail; round < 2; round++)
    for (const [device, k] of kinds.entries()) {
      const register = k.regions[0]?.table?.registers[0];
      const slot = view.slot(0, ++n);
      slot.kind = round === 0 ? ExitKind.read : ExitKind.configRead;
      slot.width = Math.min(register?.width ?? 4, 4);
      slot.device = device;
      slot.offset = register?.at ?? 0;
      slot.seqLo = n;
      header.head = n;
    }
}

/**
 * Attaches these devices to memory of its own, as it will to that of a role: first as new ones, then as a successor whom a
 * guest waits for. Lets go again.
 */
function rehearse(kinds: readonly AnyDeviceKind[], named: readonly ReadonlyMap<string, number>[]): void {
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
    devices: kinds.map((k, i) => ({
      name: k.kind,
      kind: k.kind,
      config: {},
      state: made(blockBytes(k) + 4096, nothing),
      irqBase: 0,
      fds: Object.fromEntries([...named[i]!].map(([name, fd]) => [name, share(fd)])),
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
  for (const succeeds of [false, true]) {
    const host = new DeviceHost(role, fds, kinds, { fatal, log: nothing });
    if (succeeds) ask(host.rings, kinds);
    host.start();
    host.serve();
    host.close();
  }
  for (const fd of fds) close(fd);
}

/** Never throws: a device that cannot live without its descriptors has at least its views compiled. */
export function warm(kinds: readonly AnyDeviceKind[]): void {
  const alive: AnyDeviceKind[] = [];
  const named: Map<string, number>[] = [];
  for (const kind of kinds) {
    const fds = new Map<string, number>();
    const ctx = idle(kind, fds);
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
      named.push(fds);
    } catch {
      // What it needs comes with its role.
    }
  }
  try {
    rehearse(alive, named);
  } catch {
    // A host that is short of descriptors or memory: the role will tell.
  }
}
