/**
 * The state of all vCPUs and of the interrupt fabric as bytes: what nyx-vcpu writes for a checkpoint (ControlOp.save) and reads to go
 * back to it (ControlOp.load). Guest memory, state blocks of devices and disks are kept apart, by the supervisor
 * (docs/checkpoints.md).
 *
 *     StateHeader | StateSection, payload | StateSection, payload | ...
 *
 * Each section begins at a multiple of 8 and says of which vCPU it is (`machine.none`: of the machine), its kind, the version of the
 * kind, and its bytes. Every section of the table below that belongs to the engine must be there exactly once for each vCPU,
 * and no other: a reader refuses what it does not know, because state that is left out would be state that is wrong. A CRC32C guards
 * against damage, not against malice: values are checked before any of them is used.
 */
import { array, emitCpp, pad, struct, structs, u8, u16, u32, u64 } from '@nyx/layout';

export const machineState = {
  /** 'NYXS' */
  magic: 0x5358594e,
  version: 1,
  /** Of all of it: room for 64 vCPUs. */
  maxBytes: 4 * 1024 * 1024,
} as const;

/** What a section holds. Engine: which of them a vCPU of that engine has. */
export const StatePart = {
  /** SoftState: a vCPU of the software CPU. */
  soft: 1,
  /** LapicState: its local APIC. */
  lapic: 2,
  /** FabricState, then `sources` of FabricSource: once, of the machine. */
  fabric: 3,
  // Structures of the kernel's interface (linux/kvm.h, Documentation/virt/kvm/api.rst), byte for byte.
  kvmRegs: 16,
  kvmSregs2: 17,
  kvmXcrs: 18,
  /** kvm_xsave, as long as KVM_CAP_XSAVE2 says. */
  kvmXsave: 19,
  kvmDebugregs: 20,
  kvmLapic: 21,
  kvmEvents: 22,
  kvmMpState: 23,
  /** Of kvm_msr_entry, as many as fit. */
  kvmMsrs: 24,
  /** u32: the PIC's output as the vCPU saw it. */
  kvmExtint: 25,
  /** kvm_clock_data: once, of the machine. */
  kvmClock: 26,
} as const;

export const StateHeader = struct(
  'StateHeader',
  {
    magic: u32('NYXS'),
    version: u32(),
    bytes: u32('of all, this header included'),
    crc: u32('CRC32C of all bytes after this header'),
    engine: u8('Accel: kvm or soft'),
    pad0: pad(1),
    cpus: u16(),
    sections: u32(),
    configAddress: u32('latch of port 0xCF8'),
    tscKhz: u32('of the guest; another one is refused'),
    guestNs: u64('guest time, which goes on from here'),
    guestTsc: u64('of a vCPU that never wrote it'),
    pad1: pad(16),
  },
  { bytes: 64 },
);

export const StateSection = struct(
  'StateSection',
  {
    part: u16('StatePart'),
    version: u16('of the part; 1'),
    cpu: u16('0xffff: the machine'),
    pad0: pad(2),
    bytes: u32('of the payload'),
    pad1: pad(4),
  },
  { bytes: 16 },
);

const Quad = struct('Quad', { value: u64() }, { bytes: 8 });

/** A segment register with its hidden part. `attr`: descriptor bits 55:40. */
export const SegmentState = struct(
  'SegmentState',
  { base: u64(), limit: u32('in bytes'), selector: u16(), attr: u16() },
  { bytes: 16 },
);

/** A vCPU of the software CPU at a block border: no instruction is half done, no exception is under way. */
export const SoftState = struct(
  'SoftState',
  {
    gpr: structs(Quad, 16, 'RAX RCX RDX RBX RSP RBP RSI RDI R8..R15'),
    rip: u64(),
    rflags: u64(),
    seg: structs(SegmentState, 8, 'ES CS SS DS FS GS LDTR TR'),
    gdtrBase: u64(),
    idtrBase: u64(),
    gdtrLimit: u32(),
    idtrLimit: u32(),
    cr0: u64(),
    cr2: u64(),
    cr3: u64(),
    cr4: u64(),
    efer: u64(),
    xcr0: u64(),
    pdpte: structs(Quad, 4, 'of PAE paging, as CR3 was loaded'),
    dr: structs(Quad, 8, 'DR0..DR3, unused, DR6, DR7'),
    star: u64(),
    lstar: u64(),
    cstar: u64(),
    sfmask: u64(),
    kernelGsBase: u64(),
    tscAux: u64(),
    pat: u64(),
    miscEnable: u64(),
    sysenterCs: u64(),
    sysenterEsp: u64(),
    sysenterEip: u64(),
    tscAdjust: u64(),
    tscOffset: u64('guest TSC minus StateHeader.guestTsc, signed'),
    mtrrDefType: u64(),
    mtrrFixed: structs(Quad, 11),
    mtrrPhys: structs(Quad, 16),
    debugctl: u64(),
    x87Ip: u64('last x87 instruction, its operand and opcode'),
    x87Dp: u64(),
    x87Op: u16(),
    cpl: u8('0..3'),
    inhibit: u8('until the next instruction has retired: 1 after STI, 2 after MOV SS'),
    nmiBlocked: u8('until IRET'),
    halted: u8(),
    waitSipi: u8(),
    pad0: pad(1),
    mxcsr: u32(),
    pkru: u32(),
    pkrs: u32('IA32_PKRS'),
    pad1: pad(4),
    fx: array('u8', 512, 'FXSAVE64 image; MXCSR and pointers are those above'),
  },
  { bytes: 1328 },
);

/** A local APIC in user space. Times are guest ns; all ones: never. */
export const LapicState = struct(
  'LapicState',
  {
    irr: array('u32', 8),
    isr: array('u32', 8),
    tmr: array('u32', 8),
    lvt: array('u32', 6, 'timer, thermal, performance, LINT0, LINT1, error'),
    ldr: u32(),
    dfr: u32(),
    xapicId: u32(),
    tpr: u32(),
    svr: u32(),
    esr: u32(),
    esrPending: u32(),
    icrLow: u32(),
    icrHigh: u32(),
    divide: u32(),
    initialCount: u32(),
    events: u32('bits 7:0 SIPI vector; 8 INIT, 9 SIPI, 10 NMI pending'),
    apicBase: u64('IA32_APIC_BASE'),
    timerStart: u64(),
    timerExpires: u64(),
    deadlineTsc: u64(),
    extint: u8('level of LINT0'),
    extintMessage: u8('an ExtINT message waits to be acknowledged'),
    waitSipi: u8(),
    pad0: pad(5),
  },
  { bytes: 208 },
);

/** What the fabric has seen of each interrupt source, and what it has told of each line. */
export const FabricState = struct(
  'FabricState',
  {
    sources: u32('FabricSource after this'),
    pad0: pad(4),
    lines: array('u32', 256, 'word of each GSI'),
    told: array('u32', 512, 'by controller (PIC, IOAPIC) and GSI'),
  },
  { bytes: 3080 },
);
export const FabricSource = struct(
  'FabricSource',
  { process: u16(), pad0: pad(2), entry: u32('in the page of its process'), seen: u32('word') },
  { bytes: 12 },
);

export const stateStructs = [
  StateHeader,
  StateSection,
  Quad,
  SegmentState,
  SoftState,
  LapicState,
  FabricState,
  FabricSource,
] as const;

export const stateHeader = (): string =>
  emitCpp({
    namespace: 'nyx::state',
    source: 'libs/protocol/src/machine-state.ts',
    constants: machineState,
    enums: { StatePart },
    structs: stateStructs,
  });
