/**
 * The binary machine description that the vCPU process is given, and the messages on its control socket.
 * A description is: MachineHeader, then the tables it counts, in the order of its fields, without gaps.
 * File descriptors travel beside it (SCM_RIGHTS) and are named by their index.
 */
import { array, emitCpp, pad, struct, u8, u16, u32, u64 } from '@nyx/layout';

export const machine = {
  /** 'NYXM' */
  magic: 0x4d58594e,
  version: 1,
  maxCpus: 64,
  maxProcesses: 32,
  maxDevices: 128,
  none: 0xffff,
} as const;

export const Accel = { auto: 0, kvm: 1, soft: 2 } as const;

/** CPU state at start and after reset. */
export const BootMode = {
  /** The x86 reset vector f000:fff0 (firmware). */
  reset: 0,
  /** 64-bit Linux boot protocol: long mode, paging as in cr3, rip, rsi, rsp given. */
  long64: 1,
  /** PVH: 32-bit protected mode without paging, rip, rbx given. */
  pvh32: 2,
} as const;

/** How the software CPU executes: also translated to host code, interpreted alone, both ways with a comparison. */
export const SoftMode = { translate: 0, interpret: 1, lockstep: 2 } as const;

export const RouteKind = { none: 0, gsi: 1, msi: 2, extint: 3, nmi: 4 } as const;

export const MachineHeader = struct(
  'MachineHeader',
  {
    magic: u32(),
    version: u32(),
    bytes: u32('of the whole description'),
    fds: u32('descriptors that come with it'),
    accel: u8('Accel'),
    bootMode: u8('BootMode'),
    cpus: u16('1..64'),
    vmPageFd: u16(),
    picDevice: u16('device that answers intAck; 0xffff: none'),
    ioapicDevice: u16('device that gets eoi and line; 0xffff: none'),
    flags: u16('bit 0: start paused; 1: the guest ends with the control socket; 2: deterministic'),
    memories: u16(),
    processes: u16(),
    devices: u16(),
    ranges: u16(),
    routes: u16(),
    functions: u16(),
    wallClock: u64('UTC seconds at guest ns 0; 0: now'),
    rip: u64(),
    rsp: u64(),
    rsi: u64(),
    rbx: u64(),
    cr3: u64(),
    gdtBase: u64(),
    gdtLimit: u32(),
    codeSelector: u16(),
    dataSelector: u16(),
    pageMapFd: u16(),
    softMode: u8('of the software CPU: SoftMode'),
    pad0: pad(21),
  },
  { bytes: 128 },
);

/** Guest-physical memory. Regions do not overlap. */
export const MachineMemory = struct(
  'MachineMemory',
  {
    gpa: u64(),
    size: u64('bytes, multiple of 4096'),
    fdOffset: u64(),
    fd: u16(),
    flags: u16('bit 0: read-only (ROM: writes are dropped)'),
    pad0: pad(4),
  },
  { bytes: 32 },
);

/** A device process: what it shares with the vCPU process. */
export const MachineProcess = struct(
  'MachineProcess',
  {
    ringFd: u16(),
    kickFd: u16('eventfd to wake the process'),
    irqPageFd: u16(),
    irqEventFd: u16('eventfd by which it reports interrupt changes'),
    name: array('u8', 24, 'NUL-padded'),
  },
  { bytes: 32 },
);

export const MachineDevice = struct(
  'MachineDevice',
  {
    process: u16(),
    index: u16('index within its process: ExitSlot.device'),
    stateFd: u16(),
    irqBase: u16('first entry in the irq page of its process'),
    irqCount: u16(),
    flags: u16(),
    pad0: pad(4),
    name: array('u8', 16, 'NUL-padded'),
  },
  { bytes: 32 },
);

/** A range that belongs to a device for good. BARs are not here: devices publish them (wire.Range). */
export const MachineRange = struct(
  'MachineRange',
  { space: u8('Space'), region: u8(), device: u16(), pad0: pad(4), base: u64(), length: u64() },
  { bytes: 24 },
);

/** What entry `entry` (0..irqCount-1) of a device's interrupts means. */
export const MachineRoute = struct(
  'MachineRoute',
  { device: u16(), entry: u16(), kind: u8('RouteKind'), pad0: pad(3), gsi: u32() },
  { bytes: 12 },
);

/** Who answers the configuration space of a PCI function (bus << 8 | device << 3 | function). */
export const MachineFunction = struct(
  'MachineFunction',
  { bdf: u16(), device: u16(), region: u16('function index of the device'), pad0: pad(2) },
  { bytes: 8 },
);

/** Supervisor to vCPU process. */
export const ControlOp = {
  /** `length` bytes of description follow in the same message, with its descriptors. */
  machine: 1,
  start: 2,
  pause: 3,
  resume: 4,
  /** Boot state anew on all vCPUs, LAPICs reset, `reset` exits to all devices; memory is the supervisor's. Leaves the VM paused. */
  reset: 5,
  quit: 6,
  /** Process a: do not ask it any more (all ones, writes dropped). */
  isolate: 7,
  /** Process a: was replaced, kick it and clear isolation. */
  replaced: 8,
  nmi: 9,
  /** All vCPUs publish where they are (VcpuStats.looks, rflags, lastRip). Not answered. */
  look: 10,
  /** Registers of vCPU a as text. Answered empty unless all vCPUs stand still. */
  registers: 11,
  /**
   * All vCPUs stop where no instruction is half done, nothing waits in a ring, and interrupts of devices are not taken any more: until
   * `resume`. a = 1: at once, and what is under way is given up, because `load` follows. Answered by `quiet`.
   */
  quieten: 20,
  /**
   * After `quieten`, one or two memfds: state (machine-state.ts) and a copy of guest RAM, which is brought up to date. Without the
   * second, pages are saved from now on before they are written (wire.PageStore); software CPU only. a = 1: `load` is to see whether
   * guest RAM has become what it was.
   */
  save: 21,
  /** After `quieten`, the same: everything is as it was then. No device process may live. */
  load: 22,
  /** Nothing is saved any more, for there is no checkpoint. Not answered. */
  release: 23,
} as const;

/** vCPU process to supervisor. */
export const ControlEvent = {
  /** The machine is built. a = engine (Accel), b = measured instructions per second of KVM when `auto` decided. */
  ready: 1,
  /** a = CLOCK_MONOTONIC ns of the first guest instruction. */
  started: 2,
  paused: 3,
  resumed: 4,
  /** a = MachineEvent, b = vCPU. All vCPUs are stopped. */
  machineEvent: 5,
  /** All vCPUs stopped by a triple fault of vCPU a at rip b. */
  tripleFault: 6,
  /** a = process, b = VcpuError. The process is isolated. */
  violation: 7,
  /** a = process, b = ns so far: a vCPU has waited for long. Sent once a wait. */
  waiting: 8,
  /** a = process, b = ns: that wait is over. */
  answered: 9,
  /** The engine cannot go on. a = ExitCode, b = rip, c = EngineFault | vCPU << 8; text follows. All vCPUs are stopped. */
  internalError: 10,
  /** The description or a descriptor is wrong. Text follows. */
  rejected: 11,
  resetDone: 12,
  /** a = vCPU; text follows. */
  registers: 13,
  /** Of `quieten`. Text: why not; the vCPUs stand still all the same. */
  quiet: 20,
  /** a = bytes of state, b = bytes of RAM that were copied, c = ns without those for the sum. Text: why not. */
  saved: 21,
  /** b = bytes of RAM that were copied, c = ns. Text: why not; nothing was changed then. */
  loaded: 22,
} as const;

/** Why the engine cannot go on. */
export const EngineFault = {
  /** The kernel refused to run the vCPU. */
  failure: 0,
  /** An instruction that has to be emulated and cannot be. */
  emulation: 1,
  /** The processor refused the vCPU's state. */
  entry: 2,
  /** The guest was left for a reason that has no answer. */
  exit: 3,
} as const;

/** What a device process did wrong in the memory that it shares with the vCPU process. */
export const VcpuError = {
  /** A reply's status has undefined bits. */
  badStatus: 1,
  /** A ring's tail is not within 64 of its head. */
  badTail: 2,
  /** A state block's header or class table contradicts itself or its size. */
  badBlock: 3,
  /** A published range is empty, wraps or names no address space. */
  badRange: 4,
} as const;

/** Every message on the control socket (SOCK_SEQPACKET) begins so; `length` bytes of payload follow. */
export const ControlMessage = struct(
  'ControlMessage',
  { op: u32('ControlOp or ControlEvent'), length: u32(), a: u64(), b: u64(), c: u64() },
  { bytes: 32 },
);

export const machineStructs = [
  MachineHeader,
  MachineMemory,
  MachineProcess,
  MachineDevice,
  MachineRange,
  MachineRoute,
  MachineFunction,
  ControlMessage,
] as const;

export const machineHeader = (): string =>
  emitCpp({
    namespace: 'nyx::machine',
    source: 'libs/protocol/src/machine.ts',
    constants: machine,
    enums: { Accel, BootMode, SoftMode, RouteKind, ControlOp, ControlEvent, EngineFault, VcpuError },
    structs: machineStructs,
  });
