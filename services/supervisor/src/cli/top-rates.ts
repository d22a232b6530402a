/** What `nyx top` shows: two looks at a machine, made into rates and shares. */
import type { Status } from '@nyx/protocol/control';
import { spent, type Usage } from './processor.ts';

/** One look. */
export interface Look {
  /** Nanoseconds of a clock that only goes forward. */
  at: number;
  status: Status;
  /** By process id: nyxd, nyx-vcpu, the device processes. */
  usage: Map<number, Usage | undefined>;
}

type Exits = Status['vcpus'][number]['exits'];
/** Parts of a software CPU that cost processor time. */
export const parts = ['translated', 'interpreter', 'translator', 'mmu', 'exits'] as const;
export type Part = (typeof parts)[number];

/** Percentages: 100 is one processor of the host for all of the time. */
export interface Top {
  name: string;
  state: Status['state'];
  accel: string;
  guestNs: number;
  memory: number;
  /** Seconds between the two looks. */
  seconds: number;
  cpu: { vcpus: number; devices: number; nyxd: number };
  vcpus: {
    index: number;
    state: string;
    cpu: number;
    instructionsPerSecond: number;
    interruptsPerSecond: number;
    exitsPerSecond: Exits;
    /** Of this vCPU's processor time; absent: not a software CPU, or too little time to tell. */
    shares?: Record<Part, number>;
    /** Of the clock. */
    halted: number;
    waiting: number;
  }[];
  processes: {
    name: string;
    state: string;
    pid: number;
    cpu: number;
    /** Memory of its own, bytes. */
    bytes: number;
    exitsPerSecond: number;
    restarts: number;
    devices: string[];
  }[];
}

export const rates = (before: Look, now: Look): Top => {
  const ns = Math.max(1, now.at - before.at);
  const s = now.status;
  const percent = (part: number): number => (100 * part) / ns;
  // Counters of a machine that was reset or went back to a checkpoint may be smaller than before.
  const rate = (a: number | undefined, b: number): number => (Math.max(0, b - (a ?? 0)) * 1e9) / ns;
  const cpu = (pid: number, thread?: string): number =>
    percent(spent(before.usage.get(pid), now.usage.get(pid), thread));
  const vcpus = s.vcpus.map((v, index) => {
    const old = before.status.vcpus[index];
    const grown = (k: keyof typeof v.time): number => Math.max(0, v.time[k] - (old?.time[k] ?? 0));
    const samples = parts.reduce((n, k) => n + grown(k), 0);
    return {
      index,
      state: v.waitsFor ? `waits for ${v.waitsFor}` : v.state,
      cpu: cpu(s.vcpuPid, `vcpu${index}`),
      instructionsPerSecond: rate(old?.instructions, v.instructions),
      interruptsPerSecond: rate(old?.interrupts, v.interrupts),
      exitsPerSecond: Object.fromEntries(
        Object.entries(v.exits).map(([k, n]) => [k, rate(old?.exits[k as keyof Exits], n)]),
      ) as unknown as Exits,
      ...(samples > 0
        ? {
            shares: Object.fromEntries(parts.map((k) => [k, (100 * grown(k)) / samples])) as Record<
              Part,
              number
            >,
          }
        : {}),
      halted: Math.min(100, percent(grown('halted'))),
      waiting: Math.min(100, percent(grown('waiting'))),
    };
  });
  const old = new Map(before.status.processes.map((p) => [p.name, p]));
  const processes = s.processes.map((p) => ({
    name: p.name,
    state: p.state as string,
    pid: p.pid,
    cpu: cpu(p.pid),
    bytes: now.usage.get(p.pid)?.bytes ?? 0,
    exitsPerSecond: rate(old.get(p.name)?.served, p.served),
    restarts: p.restarts,
    devices: p.devices.map((d) => d.name),
  }));
  return {
    name: s.name,
    state: s.state,
    accel: s.accel,
    guestNs: s.guestNs,
    memory: s.memory,
    seconds: ns / 1e9,
    cpu: {
      vcpus: cpu(s.vcpuPid),
      devices: processes.reduce((n, p) => n + p.cpu, 0),
      nyxd: cpu(s.pid),
    },
    vcpus,
    processes,
  };
};
