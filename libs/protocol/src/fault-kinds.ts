/**
 * What can go wrong with a machine, as types: each kind of fault with its data, its severity, what is done about it unless
 * somebody says otherwise, and what may be done. Data without dependencies: device processes load it, docs/recovery.md is
 * checked against it. Faults that are made on purpose are another matter (fault-rule.ts); they end up here as any other.
 */

/** What can be done about a fault. The words of QEMU's `-action` and of Xen's `on_crash` are understood as well. */
export const strategies = {
  ignore: { doc: 'It is counted and told, and nothing else.', words: ['none', 'report', 'debug'] },
  retry: { doc: 'The guest is entered again at the same instruction.', words: [] },
  restart: { doc: 'Another process takes the place of the one that failed.', words: [] },
  failover: {
    doc: 'The device goes on with its other backend (`standby` of a disk), in a new process.',
    words: ['fail-over'],
  },
  isolate: {
    doc: 'The device is taken out: virtio says DEVICE_NEEDS_RESET, others read as ones. `nyx heal` brings it back.',
    words: [],
  },
  nmi: { doc: 'The guest gets a non-maskable interrupt.', words: ['inject-nmi'] },
  reset: { doc: 'The machine is reset; the guest boots anew.', words: ['reboot', 'rename-restart'] },
  rollback: {
    doc: 'Everything goes back to the last checkpoint (`nyx checkpoint`); without one, what `escalate` says is done.',
    words: ['roll-back'],
  },
  pause: { doc: 'Guest time stands still until `nyx resume`.', words: ['stop', 'preserve'] },
  poweroff: { doc: 'The power button is pressed; the machine ends 30 s later in any case.', words: [] },
  shutdown: { doc: 'The machine ends, as if it had been powered off.', words: ['shut-down', 'destroy'] },
  fail: { doc: 'The machine ends with an error; its run directory is kept.', words: ['exit-failure'] },
} as const satisfies Record<string, { doc: string; words: readonly string[] }>;
export type Strategy = keyof typeof strategies;

/** 'info' is what a guest may do; 'critical': the guest cannot go on as it is. */
export const severities = ['info', 'warning', 'error', 'critical'] as const;
export type Severity = (typeof severities)[number];

/** Types of a fault's data: whole numbers, addresses (text: 0x and hexadecimal, for numbers are exact to 53 bits), words. */
export type FaultField = 'number' | 'address' | 'text';

interface Kind {
  /** What a policy is for: the machine, or one device process (and its devices). */
  readonly of: 'machine' | 'device';
  readonly severity: Severity;
  readonly data: Readonly<Record<string, FaultField>>;
  readonly strategy: Strategy;
  readonly allowed: readonly Strategy[];
  /** Kinds of one group share a budget; else each has its own. */
  readonly group?: string;
  /** Budget, window (seconds) and what comes when it is spent, where not that of `recovery`. */
  readonly budget?: number;
  readonly window?: number;
  readonly escalate?: Strategy;
  readonly doc: string;
  /** Who notices. */
  readonly by: 'nyx-vcpu' | 'supervisor' | 'device process';
}

const ends = ['reset', 'rollback', 'pause', 'shutdown', 'fail'] as const;
/** The guest goes on by itself. */
const minor = ['ignore', ...ends] as const;
/** The engine stopped. */
const engine = ['retry', ...ends] as const;
/** The process is gone. */
const gone = ['ignore', 'restart', 'failover', 'isolate', ...ends] as const;
/** The process is there, something is wrong with its device. */
const troubled = ['ignore', 'restart', 'failover', 'isolate', ...ends] as const;
const boots = { budget: 10, window: 60, escalate: 'fail' } as const;

// biome-ignore format: a table.
export const faultKinds = {
  guestReset: { of: 'machine', severity: 'info', by: 'device process', data: { vcpu: 'number' }, strategy: 'reset', allowed: ['ignore', ...ends],
    doc: 'The guest reset the machine: keyboard controller, port 0x92, 0xCF9, or ACPI.' },
  guestShutdown: { of: 'machine', severity: 'info', by: 'device process', data: { vcpu: 'number' }, strategy: 'shutdown', allowed: ['reset', 'pause', 'shutdown', 'fail'],
    doc: 'The guest powered the machine off (ACPI S5).' },
  tripleFault: { of: 'machine', severity: 'critical', by: 'nyx-vcpu', data: { vcpu: 'number', rip: 'address' }, strategy: 'reset', allowed: ends, ...boots,
    doc: 'A fault while a double fault was delivered; a PC resets itself then.' },
  guestPanic: { of: 'machine', severity: 'critical', by: 'device process', data: { vcpu: 'number' }, strategy: 'fail', allowed: ['nmi', 'poweroff', ...minor], ...boots,
    doc: 'The guest told by pvpanic that its kernel has panicked.' },
  guestCrashLoaded: { of: 'machine', severity: 'warning', by: 'device process', data: { vcpu: 'number' }, strategy: 'ignore', allowed: minor,
    doc: 'The guest told by pvpanic that its kernel has panicked and that it loads its crash kernel (kdump).' },
  guestHang: { of: 'machine', severity: 'error', by: 'supervisor', data: { vcpu: 'number', rip: 'address', seconds: 'number', what: 'text' }, strategy: 'ignore', allowed: ['nmi', 'poweroff', ...minor], ...boots,
    doc: 'No vCPU makes progress: all are halted with interrupts off, or one spins with interrupts off.' },
  watchdogExpired: { of: 'machine', severity: 'critical', by: 'device process', data: { device: 'text', count: 'number' }, strategy: 'reset', allowed: ['nmi', 'poweroff', ...minor], ...boots,
    doc: 'The guest did not feed its watchdog (i6300esb) in time.' },
  emulationFailure: { of: 'machine', severity: 'critical', by: 'nyx-vcpu', data: { vcpu: 'number', rip: 'address', what: 'text' }, strategy: 'fail', allowed: engine, budget: 3, window: 10, escalate: 'fail',
    doc: 'KVM met an instruction that it has to emulate and cannot.' },
  entryFailure: { of: 'machine', severity: 'critical', by: 'nyx-vcpu', data: { vcpu: 'number', rip: 'address', what: 'text' }, strategy: 'fail', allowed: engine, budget: 3, window: 10, escalate: 'fail',
    doc: "The processor refused to enter the guest in its vCPU's state." },
  unhandledExit: { of: 'machine', severity: 'critical', by: 'nyx-vcpu', data: { vcpu: 'number', rip: 'address', what: 'text' }, strategy: 'fail', allowed: engine, budget: 3, window: 10, escalate: 'fail',
    doc: 'The guest was left for a reason that Nyx has no answer to.' },
  engineFailure: { of: 'machine', severity: 'critical', by: 'nyx-vcpu', data: { vcpu: 'number', rip: 'address', what: 'text' }, strategy: 'fail', allowed: engine, budget: 3, window: 10, escalate: 'fail',
    doc: 'The kernel refused to run the vCPU.' },
  vcpuCrash: { of: 'machine', severity: 'critical', by: 'supervisor', data: { what: 'text' }, strategy: 'fail', allowed: ['shutdown', 'fail'],
    doc: 'The process of the vCPUs died; registers and memory of the guest are lost.' },
  unmappedPort: { of: 'machine', severity: 'warning', by: 'nyx-vcpu', data: { port: 'address', count: 'number', rip: 'address' }, strategy: 'ignore', allowed: minor,
    doc: 'The guest used a port that no device answers: reads give ones, writes are dropped. Firmware and kernels probe so.' },
  unmappedMmio: { of: 'machine', severity: 'warning', by: 'nyx-vcpu', data: { address: 'address', count: 'number', rip: 'address' }, strategy: 'ignore', allowed: minor,
    doc: 'The guest used a memory address that is neither RAM nor a device.' },
  memoryFault: { of: 'device', severity: 'error', by: 'supervisor', data: { pid: 'number', what: 'text' }, strategy: 'restart', allowed: gone, group: 'process',
    doc: 'The host could not give memory that a device process was using (SIGBUS: bad memory, or no more of it).' },
  deviceCrash: { of: 'device', severity: 'error', by: 'supervisor', data: { pid: 'number', what: 'text' }, strategy: 'restart', allowed: gone, group: 'process',
    doc: 'A device process died.' },
  deviceHang: { of: 'device', severity: 'error', by: 'supervisor', data: { pid: 'number', what: 'text' }, strategy: 'restart', allowed: gone, group: 'process',
    doc: 'A device process shows no heartbeat, or does not answer a request; it is killed.' },
  deviceStart: { of: 'device', severity: 'error', by: 'supervisor', data: { pid: 'number', what: 'text' }, strategy: 'restart', allowed: gone, group: 'process',
    doc: 'A successor did not come to serve: silent, or refused its role.' },
  deviceSlow: { of: 'device', severity: 'warning', by: 'nyx-vcpu', data: { milliseconds: 'number' }, strategy: 'ignore', allowed: troubled,
    doc: 'A vCPU has waited longer than a second for an answer.' },
  protocolViolation: { of: 'device', severity: 'error', by: 'nyx-vcpu', data: { what: 'text' }, strategy: 'restart', allowed: gone, group: 'process',
    doc: 'A device process wrote something into shared memory that cannot be: a status, a class table, a range; it is killed.' },
  ringCorruption: { of: 'device', severity: 'error', by: 'nyx-vcpu', data: { what: 'text' }, strategy: 'restart', allowed: gone, group: 'process',
    doc: "An exit ring's positions contradict each other, or its page is damaged; the process is killed." },
  stateCorruption: { of: 'device', severity: 'critical', by: 'device process', data: { what: 'text', saved: 'text' }, strategy: 'isolate', allowed: ['isolate', 'restart', ...ends],
    doc: 'Neither half of a state block can be loaded. The block is saved; `restart` and `reset` begin with a fresh one.' },
  stateRepaired: { of: 'device', severity: 'warning', by: 'device process', data: { device: 'text' }, strategy: 'ignore', allowed: troubled,
    doc: 'One half of a state block was damaged; the other was taken.' },
  dmaFault: { of: 'device', severity: 'warning', by: 'device process', data: { device: 'text', address: 'address', bytes: 'number', count: 'number' }, strategy: 'ignore', allowed: troubled,
    doc: "The guest's driver named an address for DMA that is not RAM; the request failed." },
  queueError: { of: 'device', severity: 'warning', by: 'device process', data: { device: 'text', what: 'text', count: 'number' }, strategy: 'ignore', allowed: troubled,
    doc: "The guest's driver broke a virtqueue; the device says DEVICE_NEEDS_RESET." },
  interruptStorm: { of: 'device', severity: 'warning', by: 'supervisor', data: { perSecond: 'number' }, strategy: 'ignore', allowed: troubled,
    doc: 'A device process raises more interrupts a second than `policy.stormLimit`.' },
  backendError: { of: 'device', severity: 'error', by: 'device process', data: { device: 'text', what: 'text', position: 'number', count: 'number' }, strategy: 'ignore', allowed: troubled,
    doc: 'A request to the backend failed; the guest is told.' },
  backendGone: { of: 'device', severity: 'error', by: 'device process', data: { device: 'text', what: 'text', position: 'number', count: 'number' }, strategy: 'ignore', allowed: troubled,
    doc: 'The backend is not there any more: its file is shorter than the disk, its device is gone.' },
  resourceExhausted: { of: 'device', severity: 'error', by: 'device process', data: { device: 'text', what: 'text', position: 'number', count: 'number' }, strategy: 'ignore', allowed: troubled,
    doc: 'The host has no more of something: room for a disk image, memory or processes for a device.' },
} as const satisfies Record<string, Kind>;

export type FaultKind = keyof typeof faultKinds;
export const faultKind = (name: FaultKind): Kind => faultKinds[name];
export const faultNames = Object.keys(faultKinds) as FaultKind[];
export const isFaultKind = (name: unknown): name is FaultKind =>
  typeof name === 'string' && Object.hasOwn(faultKinds, name);

/** Values of a fault, by the fields of its kind. */
export type FaultData = Record<string, number | string>;

/** Kinds that a device process may report itself, each `count` times since its last word. */
export type ReportedFault =
  | 'dmaFault'
  | 'queueError'
  | 'backendError'
  | 'backendGone'
  | 'resourceExhausted'
  | 'watchdogExpired';
export const reportedFaults: readonly string[] = [
  'dmaFault',
  'queueError',
  'backendError',
  'backendGone',
  'resourceExhausted',
  'watchdogExpired',
] satisfies ReportedFault[];

/** Device process to supervisor, at any time while it serves. Not trusted: checked against the table. */
export interface FaultReport {
  type: 'fault';
  kind: string;
  device: string;
  data: FaultData;
}
