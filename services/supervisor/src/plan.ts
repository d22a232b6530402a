/**
 * From the wiring table to what processes are told: the role of each device process, and the part of the machine
 * description that is about devices. Pure but for the descriptors that Resources makes.
 */

import type { Role, RoleDevice } from '@nyx/protocol';
import type { Description } from '@nyx/protocol/describe';
import { Space } from '@nyx/ring/wire';
import type { ProcessMemory, Resources } from './resources.ts';
import { controllers, type DeviceLine } from './wiring.ts';

export interface ProcessPlan {
  name: string;
  /** Index in the machine description. */
  index: number;
  service: string;
  devices: DeviceLine[];
  memory: ProcessMemory;
  role: Role;
  fds: number[];
}

type DevicePart = Pick<
  Description,
  'processes' | 'devices' | 'ranges' | 'routes' | 'functions' | 'pic' | 'ioapic'
>;

/** Numbers descriptors in the order in which they are first named. */
class Fds {
  readonly list: number[] = [];
  of(fd: number): number {
    const known = this.list.indexOf(fd);
    return known >= 0 ? known : this.list.push(fd) - 1;
  }
}

const gsiOf = (route: string): number | undefined =>
  route.startsWith('line ') ? Number(route.slice(5)) : undefined;

/**
 * @param dir run directory, for the log rings
 * @param transcripts folder for the transcripts of all processes, if they are wanted
 * @throws RangeError when a line names a resource that was not made (a mistake in the table).
 */
export function planProcesses(
  vm: string,
  lines: readonly DeviceLine[],
  r: Resources,
  dir: string,
  transcripts?: string,
): { processes: ProcessPlan[]; part: DevicePart } {
  const groups = new Map<string, DeviceLine[]>();
  for (const line of lines) groups.set(line.process, [...(groups.get(line.process) ?? []), line]);
  const home = lines.find((l) => l.name === controllers.ioapic)?.process;
  const part: DevicePart = {
    processes: [],
    devices: [],
    ranges: [],
    routes: [],
    functions: [],
    ...controllers,
  };

  const processes = [...groups].map(([name, devices], index): ProcessPlan => {
    const memory = r.process(
      name,
      devices.reduce((n, d) => n + (d.irqs?.length ?? 0), 0),
    );
    const fds = new Fds();
    part.processes.push({
      name,
      ring: memory.ring.fd,
      kick: memory.kick,
      irqPage: memory.irqPage.fd,
      irqEvent: memory.irqEvent,
    });
    let irqBase = 0;
    const roleDevices = devices.map((d, i): RoleDevice => {
      const irqs = d.irqs ?? [];
      const state = r.block(d.name);
      part.devices.push({ name: d.name, process: name, index: i, state, irqBase, irqCount: irqs.length });
      for (const [places, space] of [
        [d.pio, Space.pio],
        [d.mmio, Space.mmio],
      ] as const)
        for (const [base, length, region] of places ?? [])
          part.ranges.push({ device: d.name, space, region, base, length });
      if (d.bdf !== undefined) part.functions.push({ bdf: d.bdf, device: d.name, region: 0 });

      const gsi: Record<string, number> = {};
      irqs.forEach((route, entry) => {
        const line = gsiOf(route);
        if (line === undefined) part.routes.push({ device: d.name, entry, kind: route as 'msi' | 'extint' });
        // Lines of the controllers' own process never leave it.
        else if (name === home) gsi[entry] = line;
        else part.routes.push({ device: d.name, entry, kind: 'gsi', gsi: line });
      });
      const named: Record<string, number> = {};
      for (const [as, resource] of Object.entries(d.fds ?? {})) {
        const fd = r.named.get(resource);
        if (fd === undefined) throw new RangeError(`${d.name} wants '${resource}', which was not made`);
        named[as] = fds.of(fd);
      }
      const device: RoleDevice = {
        name: d.name,
        kind: d.kind,
        config: d.config ?? {},
        state: fds.of(state),
        irqBase,
        fds: named,
      };
      if (Object.keys(gsi).length > 0) device.gsi = gsi;
      irqBase += irqs.length;
      return device;
    });
    const role: Role = {
      type: 'role',
      version: 1,
      vm,
      process: name,
      devices: roleDevices,
      ring: fds.of(memory.ring.fd),
      kick: fds.of(memory.kick),
      irqPage: fds.of(memory.irqPage.fd),
      irqEvent: fds.of(memory.irqEvent),
      vmPage: fds.of(r.vmPageReader),
      ...(devices.some((d) => d.dma) ? { pageMap: fds.of(r.pageMap.fd), ram: fds.of(r.ram.fd) } : {}),
      ramLowBytes: r.lowBytes,
      ramBytes: r.ramBytes,
      log: fds.of(r.logRing(name, dir)),
      faults: {
        page: fds.of(memory.faults.fd),
        rules: [],
        ...(transcripts === undefined ? {} : { transcript: fds.of(r.transcript(name, transcripts)) }),
      },
    };
    return { name, index, service: devices[0]!.service, devices, memory, role, fds: fds.list };
  });
  return { processes, part };
}
