/**
 * Builds the binary machine description (machine.ts) from plain objects. Descriptors are given as they are in this
 * process; the builder numbers them in the order in which they are first named.
 */
import { Memory, type Struct, type View, view } from '@nyx/layout';
import {
  Accel,
  MachineDevice,
  MachineFunction,
  MachineHeader,
  MachineMemory,
  MachineProcess,
  MachineRange,
  MachineRoute,
  machine,
  RouteKind,
  SoftMode,
} from './machine.ts';

/** State of the boot CPU (libs/boot makes it); what the mode does not use stays 0. */
export interface BootState {
  /** BootMode */
  bootMode: number;
  rip?: number;
  rsp?: number;
  rsi?: number;
  rbx?: number;
  cr3?: number;
  gdtBase?: number;
  gdtLimit?: number;
  codeSelector?: number;
  dataSelector?: number;
}

export interface Description {
  accel: keyof typeof Accel;
  cpus: number;
  boot: BootState;
  vmPage: number;
  pageMap?: number;
  startPaused?: boolean;
  /** UTC seconds at guest time 0; absent: now. */
  wallClock?: number;
  /** Time and interrupts by instruction count; software CPU, one vCPU. */
  deterministic?: boolean;
  softMode?: keyof typeof SoftMode;
  memories: { gpa: number; size: number; fd: number; fdOffset: number; readonly?: boolean }[];
  processes: { name: string; ring: number; kick: number; irqPage: number; irqEvent: number }[];
  devices: {
    name: string;
    process: string;
    index: number;
    state: number;
    irqBase: number;
    irqCount: number;
  }[];
  /** `space`: wire.Space. */
  ranges: { device: string; space: number; region: number; base: number; length: number }[];
  routes: { device: string; entry: number; kind: keyof typeof RouteKind; gsi?: number }[];
  functions: { bdf: number; device: string; region: number }[];
  /** Names of the devices that answer interrupt acknowledge, and eoi and line. */
  pic?: string;
  ioapic?: string;
}

type Writer<S extends Struct> = (v: View<S>, i: number) => void;

const text = (field: { length: number; set(i: number, v: number): void }, value: string): void => {
  const bytes = Buffer.from(value);
  if (bytes.length >= field.length)
    throw new RangeError(`name '${value}' is longer than ${field.length - 1} bytes`);
  bytes.forEach((b, i) => {
    field.set(i, b);
  });
};

const index = (names: readonly string[], name: string, what: string): number => {
  const i = names.indexOf(name);
  if (i < 0) throw new RangeError(`unknown ${what} '${name}'`);
  return i;
};

/** @throws RangeError on a mistake of the caller: unknown names, too many entries, names that are too long. */
export function describeMachine(d: Description): { bytes: Buffer; fds: number[] } {
  const fds: number[] = [];
  const fd = (n: number | undefined): number => {
    if (n === undefined) return machine.none;
    const known = fds.indexOf(n);
    return known >= 0 ? known : fds.push(n) - 1;
  };
  const limit = (what: string, n: number, max: number): void => {
    if (!(n >= 0 && n <= max)) throw new RangeError(`${n} ${what}, at most ${max}`);
  };
  limit('cpus', d.cpus, machine.maxCpus);
  limit('processes', d.processes.length, machine.maxProcesses);
  limit('devices', d.devices.length, machine.maxDevices);

  const processes = d.processes.map((p) => p.name);
  const devices = d.devices.map((p) => p.name);
  const device = (name: string): number => index(devices, name, 'device');

  const total = [
    [MachineMemory, d.memories],
    [MachineProcess, d.processes],
    [MachineDevice, d.devices],
    [MachineRange, d.ranges],
    [MachineRoute, d.routes],
    [MachineFunction, d.functions],
  ].reduce((n, [s, list]) => n + (s as Struct).bytes * (list as unknown[]).length, MachineHeader.bytes);
  const memory = new Memory(new ArrayBuffer((total + 7) & ~7));
  let at = 0;
  // Tables with 64-bit fields come first and are multiples of 8 bytes: every field is aligned.
  const put = <S extends Struct>(s: S, count: number, write: Writer<S>): void => {
    for (let i = 0; i < count; i++) {
      write(view(s, memory, at), i);
      at += s.bytes;
    }
  };

  put(MachineHeader, 1, (h) => {
    h.magic = machine.magic;
    h.version = machine.version;
    h.bytes = total;
    h.accel = Accel[d.accel];
    h.bootMode = d.boot.bootMode;
    h.cpus = d.cpus;
    h.vmPageFd = fd(d.vmPage);
    h.pageMapFd = fd(d.pageMap);
    h.picDevice = d.pic === undefined ? machine.none : device(d.pic);
    h.ioapicDevice = d.ioapic === undefined ? machine.none : device(d.ioapic);
    h.flags = (d.startPaused ? 1 : 0) | (d.deterministic ? 4 : 0);
    h.memories = d.memories.length;
    h.processes = d.processes.length;
    h.devices = d.devices.length;
    h.ranges = d.ranges.length;
    h.routes = d.routes.length;
    h.functions = d.functions.length;
    h.wallClock = d.wallClock ?? 0;
    h.softMode = SoftMode[d.softMode ?? 'translate'];
    h.rip = d.boot.rip ?? 0;
    h.rsp = d.boot.rsp ?? 0;
    h.rsi = d.boot.rsi ?? 0;
    h.rbx = d.boot.rbx ?? 0;
    h.cr3 = d.boot.cr3 ?? 0;
    h.gdtBase = d.boot.gdtBase ?? 0;
    h.gdtLimit = d.boot.gdtLimit ?? 0;
    h.codeSelector = d.boot.codeSelector ?? 0;
    h.dataSelector = d.boot.dataSelector ?? 0;
  });
  put(MachineMemory, d.memories.length, (v, i) => {
    const m = d.memories[i]!;
    v.gpa = m.gpa;
    v.size = m.size;
    v.fd = fd(m.fd);
    v.fdOffset = m.fdOffset;
    v.flags = m.readonly ? 1 : 0;
  });
  put(MachineProcess, d.processes.length, (v, i) => {
    const p = d.processes[i]!;
    v.ringFd = fd(p.ring);
    v.kickFd = fd(p.kick);
    v.irqPageFd = fd(p.irqPage);
    v.irqEventFd = fd(p.irqEvent);
    text(v.name, p.name);
  });
  put(MachineDevice, d.devices.length, (v, i) => {
    const p = d.devices[i]!;
    v.process = index(processes, p.process, 'process');
    v.index = p.index;
    v.stateFd = fd(p.state);
    v.irqBase = p.irqBase;
    v.irqCount = p.irqCount;
    text(v.name, p.name);
  });
  put(MachineRange, d.ranges.length, (v, i) => {
    const r = d.ranges[i]!;
    v.space = r.space;
    v.region = r.region;
    v.device = device(r.device);
    v.base = r.base;
    v.length = r.length;
  });
  put(MachineRoute, d.routes.length, (v, i) => {
    const r = d.routes[i]!;
    v.device = device(r.device);
    v.entry = r.entry;
    v.kind = RouteKind[r.kind];
    v.gsi = r.gsi ?? 0;
  });
  put(MachineFunction, d.functions.length, (v, i) => {
    const f = d.functions[i]!;
    v.bdf = f.bdf;
    v.device = device(f.device);
    v.region = f.region;
  });
  view(MachineHeader, memory, 0).fds = fds.length;
  return { bytes: Buffer.from(memory.buffer as ArrayBuffer, 0, total), fds };
}
