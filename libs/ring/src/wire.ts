/**
 * Everything that processes share in memory, as data: the exit ring, the state block, the interrupt page and
 * the VM page. The C++ header of the vCPU process and of the addon is generated from these tables
 * (`npm run gen`). ARCHITECTURE.md, "Shared memory", tells the protocol; this file only gives its bytes.
 */
import { emitCpp, pad, struct, structs, u8, u16, u32, u64 } from '@nyx/layout';

/** Numbers with a name. `Magic` values are the bytes 'NYXR', 'NYXB', 'NYXI', 'NYXV', 'NYXP' read as little-endian. */
export const wire = {
  ringMagic: 0x5258594e,
  blockMagic: 0x4258594e,
  irqMagic: 0x4958594e,
  vmMagic: 0x5658594e,
  pageMapMagic: 0x5058594e,
  version: 1,
  /** Rings begin after the process control page. */
  ringBase: 0x1000,
  /** Bytes of one ring: header 0x200, slots at 0x1000, burst area at 0x2000. */
  ringStride: 0x4000,
  ringSlots: 64,
  slotsAt: 0x1000,
  burstAt: 0x2000,
  burstBytes: 0x2000,
  /** State block: header page, then two halves. */
  halvesAt: 0x1000,
  maxClasses: 64,
  maxRanges: 8,
  irqEntriesAt: 0x1000,
  /** Slots of a page store beyond one for every page: what is left of processes that died while they saved. */
  spareSlots: 1024,
  /** Processor time of a vCPU that one count of VcpuStats.in* stands for. */
  sampleNs: 1_000_000,
} as const;

/** What the guest did. */
export const ExitKind = {
  none: 0,
  /** Read `width` bytes at `offset` of `region`. */
  read: 1,
  write: 2,
  /** `rep ins`: `count` elements of `width` bytes, the device fills the burst area. */
  readBurst: 3,
  writeBurst: 4,
  /** PCI configuration space of the device's function: `region` = function index of the device, `offset` = register. */
  configRead: 5,
  configWrite: 6,
  /** Interrupt acknowledge to the PIC: the reply is the vector. */
  intAck: 7,
  /** End of interrupt for a level-triggered vector (`data`), to the IOAPIC. */
  eoi: 8,
  /** An interrupt line of another process changed: `offset` = GSI, `data` = its word. To PIC and IOAPIC. */
  line: 9,
  /** The machine was reset: the device takes its power-on state. */
  reset: 10,
  /**
   * Deterministic mode, to the process: guest time is `data` ns now. The reply tells when it wants to be told next:
   * guest ns of its next timer, 2^63 - 1 for never; with bit 63, it has I/O under way and is to be asked again at once.
   */
  time: 11,
} as const;

/** Low byte of a reply's status. */
export const Status = {
  ok: 0,
  /** The device does not claim the access: reads give all ones, writes are dropped. */
  unclaimed: 1,
} as const;

/** Bits and fields of a reply's status above the low byte. */
export const StatusFlag = {
  /** The device's published ranges changed: the vCPU process reads them anew before the guest goes on. */
  mapChanged: 0x100,
  /** Bits 23:16: a `MachineEvent` that the access caused. */
  eventShift: 16,
} as const;

/** What an access may do to the machine as a whole; the vCPUs stop and the supervisor decides. */
export const MachineEvent = {
  none: 0,
  /** Keyboard controller, port 0x92, 0xCF9 or ACPI reset register. */
  reset: 1,
  /** ACPI S5. */
  shutdown: 2,
  /** ACPI S3. */
  suspend: 3,
  /** pvpanic: the kernel has panicked. */
  panic: 4,
  /** pvpanic: it has panicked and loads its crash kernel. */
  crashLoaded: 5,
} as const;

/** First page of a ring memfd: one per device process. */
export const ProcessControl = struct(
  'ProcessControl',
  {
    magic: u32('ringMagic'),
    version: u32(),
    rings: u32('vCPUs + 1; the last is the fabric ring'),
    epoch: u32('times that a process attached; written by the attaching process'),
    pad0: pad(48),
    // The device process writes this line.
    consumerCpu: u32('CPU the device process last ran on; the vCPU spins only when it is another one'),
    consumerAsleep: u32(
      '1: it waits in its event loop; who publishes a request swaps in 0 and, if it was 1, writes the kick eventfd',
    ),
    heartbeat: u32('grows while the process serves or idles'),
    attached: u32('epoch that is being served: non-zero once the process answers'),
    servedLo: u32('exits served since attach, low half'),
    servedHi: u32(),
    holder: u32(
      'robust futex: id of the thread that serves, and bit 31; the kernel makes it bits 31 and 30 when that thread dies; 0: nobody is told',
    ),
    inFlight: u32('file requests of that thread that the kernel or other threads carry out'),
    pad1: pad(32),
    // The vCPU process writes this line.
    violations: u32('protocol violations found by the vCPU process'),
    isolated: u32('1: the vCPU process no longer asks this process'),
    pad2: pad(56),
  },
  { bytes: 192, doc: 'Process control page of a ring memfd.' },
);

/** Header of one single-producer single-consumer ring. Sequences start at 1: request n is slot (n - 1) % slots. */
export const RingHeader = struct(
  'RingHeader',
  {
    // The producer (a vCPU thread, or the fabric) writes this line.
    head: u64('sequence of the newest published request'),
    producerCpu: u32(),
    producerWaiting: u32(
      'futex word: 1 while the producer sleeps for a reply; the consumer swaps in 0 and, if it was 1, wakes it',
    ),
    pad0: pad(48),
    // The consumer writes this line.
    tail: u64('sequence of the newest request whose reply is published'),
    pad1: pad(56),
  },
  { bytes: 128, doc: 'Header of one exit ring.' },
);

/** One exit: a cache line. The reply is in the slot itself. */
export const ExitSlot = struct(
  'ExitSlot',
  {
    seqLo: u32('low half of the sequence, stored last (release): the request is complete'),
    kind: u8('ExitKind'),
    width: u8('bytes: 1, 2, 4, 8'),
    device: u16('index of the device within its process'),
    region: u16('region of the device'),
    flags: u16('bit 0: posted, the producer does not wait'),
    count: u32('elements of a burst; they are in the burst area'),
    offset: u64('bytes from the start of the region'),
    data: u64('value written'),
    replySeqLo: u32('low half of the sequence, stored last (release): the reply is complete'),
    status: u32('Status | StatusFlag'),
    reply: u64('value read'),
    pad0: pad(16),
  },
  { bytes: 64, doc: 'One exit and its reply.' },
);

export const slotPosted = 1;

/** Exit classes as the vCPU process sees them (`ClassEntry.kind`). */
export const ClassKind = { none: 0, shadow: 1, counter: 2, posted: 3, notify: 4 } as const;

/** How one register of a device is served without asking. Exact offset and width only; all else is sync. */
export const ClassEntry = struct(
  'ClassEntry',
  {
    kind: u8('ClassKind'),
    region: u8(),
    width: u8(),
    pad0: pad(1),
    offset: u32('in the region'),
    source: u32('shadow: byte offset in the half; counter: byte offset of a Counter in the half'),
    mask: u32('shadow: bits that always read as one'),
  },
  { bytes: 16 },
);

/** A register that is a function of guest time: value = floor((now - base) * hz / 1e9) + offset, cut to `bits`. */
export const Counter = struct(
  'Counter',
  { base: u64('guest nanoseconds at which the counter was 0'), hz: u32(), bits: u32('1..64') },
  { bytes: 16 },
);

export const Space = { none: 0, pio: 1, mmio: 2, ecam: 3 } as const;

/** A range that a device claims while its state says so (a BAR, the ECAM window). Part of the committed half. */
export const Range = struct(
  'Range',
  {
    space: u8('Space; 0 = not claimed'),
    region: u8('region of the device that the range shows'),
    pad0: pad(6),
    base: u64(),
    length: u64('bytes'),
    pad1: pad(8),
  },
  { bytes: 32 },
);

/** First page of a state block. Everything here is written at attach, but for `generation`. */
export const BlockHeader = struct(
  'BlockHeader',
  {
    magic: u32('blockMagic'),
    version: u32(),
    kind: u32('FNV-1a of the device kind'),
    stateVersion: u32(),
    layoutHash: u32('hash of the state structure'),
    halfBytes: u32('multiple of 64'),
    stateAt: u32('offset of the device state in a half'),
    stateBytes: u32(),
    ranges: u32("entries of the half's range table"),
    classes: u32('entries of the class table'),
    initialized: u32('1 once a half was committed'),
    pad0: pad(20),
    generation: u32('commits so far; half (generation & 1) is active. The one word that a commit flips'),
    pad1: pad(60),
    classTable: structs(ClassEntry, 64),
  },
  { bytes: 128 + 1024, doc: 'Header page of a state block.' },
);

/** Start of a half. The CRC32C covers bytes 4..halfBytes-1 of the half. */
export const HalfHeader = struct(
  'HalfHeader',
  {
    crc: u32(),
    ring: u32('ring of the last exit committed in this half; 0xffffffff: the commit was not an exit'),
    seq: u64('its sequence'),
    reply: u64('its reply, stored so that a successor can publish it again'),
    status: u32('its status'),
    pad0: pad(36),
  },
  { bytes: 64, doc: 'Commit record at the start of a half.' },
);

/**
 * One interrupt source of a device. `word` is a function of committed state, so publishing it again does
 * nothing: a line's word is (rising edges << 1 | level), an MSI's word is the number of messages sent.
 */
export const IrqEntry = struct(
  'IrqEntry',
  {
    word: u32(),
    data: u32('MSI data'),
    address: u64('MSI address'),
    pad0: pad(16),
  },
  { bytes: 32 },
);

/** First page of the interrupt memfd of a device process; entries follow at irqEntriesAt. */
export const IrqHeader = struct(
  'IrqHeader',
  { magic: u32(), entries: u32(), kicks: u32('eventfd writes'), pad0: pad(52) },
  { bytes: 64 },
);

/** Counters of one vCPU, for `nyx status` and metrics. Written by the vCPU process only. */
export const VcpuStats = struct(
  'VcpuStats',
  {
    instructions: u64('executed by the soft engine'),
    exitsSync: u64(),
    exitsPosted: u64(),
    exitsShadow: u64(),
    exitsCounter: u64(),
    exitsUnclaimed: u64('no device at the address'),
    exitsHalt: u64(),
    interrupts: u64('injected'),
    waitNs: u64('time spent waiting for device replies'),
    blocksDecoded: u64('soft: basic blocks decoded'),
    tlbMisses: u64('soft'),
    state: u32('0 off, 1 running, 2 halted, 3 waits for a device, 4 paused'),
    waitsFor: u32('index of the device process it waits for'),
    maxWaitNs: u64(),
    lastRip: u64('where the guest was at the last exit'),
    rflags: u32('RFLAGS when last looked at'),
    looks: u32('times that the vCPU published where it is, because it was asked (ControlOp.look) or came by'),
    lastPort: u32('the newest of unmappedPorts'),
    pad0: pad(4),
    unmappedPorts: u64('accesses to ports that no device answers'),
    unmappedMmio: u64('accesses to memory addresses that are neither RAM nor a device'),
    lastMmio: u64('the newest of unmappedMmio'),
    inTranslated: u32('soft: samples that found it in translated code, in wire.sampleNs of processor time'),
    inInterpreter: u32('soft: in the interpreter'),
    inTranslator: u32('soft: decoding and translating'),
    inMmu: u32('soft: walking page tables'),
    inExits: u32('soft: in accesses to devices'),
    pad1: pad(4),
    haltedNs: u64('soft: asleep in HLT'),
    pad2: pad(8),
  },
  { bytes: 192 },
);

/** The VM page: guest time and counters. The vCPU process writes it, all others only read. */
export const VmPage = struct(
  'VmPage',
  {
    magic: u32('vmMagic'),
    version: u32(),
    cpus: u32(),
    paused: u32('1: guest time stands still at pausedAt, or is virtual'),
    clockOffset: u64('guest ns = CLOCK_MONOTONIC ns - clockOffset'),
    pausedAt: u64('guest ns'),
    wallClock: u64('UTC seconds at guest ns 0'),
    tscKhz: u32('of the guest'),
    accel: u32('1 kvm, 2 soft'),
    virtualTime: u32(
      '1: guest time is pausedAt, and timers are a matter of `time` exits (deterministic mode)',
    ),
    pad0: pad(12),
    vcpu: structs(VcpuStats, 64),
  },
  { doc: 'The VM page.' },
);

const attentionLine = struct(
  'AttentionLine',
  { word: u32('Attention bits of a vCPU'), pad0: pad(60) },
  { bytes: 64 },
);

/**
 * What every page of guest RAM was like at the last checkpoint, as far as somebody has written to it since. While `saving` is set,
 * whoever is about to write to a page has its content saved first (libs/native/src/cc/page_store.h):
 *
 *     entries[pages]    u64, the number of the slot that has the page
 *     owners[slots]     u32, the page of a slot
 *     slots             4 KiB each; one that is a hole had nothing but zeros
 *
 * Slots are numbered from 1 on and never again; number n lies at n modulo the count of slots, which is twice what one
 * checkpoint can need. A page is saved when its entry is one of the numbers from `base` on: a checkpoint is begun, and all that the
 * last one saved is void, by one store to `base`. The entry is changed by one compare-and-swap after the copy is whole: two who save the same
 * page do not wait for each other, and one who is killed in the midst has lost a slot.
 */
const pageStore = struct(
  'PageStore',
  {
    saving: u32('1: there is a checkpoint'),
    lost: u32('1: there was one, and a page could not be saved'),
    base: u64('first slot of the checkpoint'),
    pad0: pad(48),
    next: u64('slot that nobody has taken'),
    pad1: pad(56),
  },
  { bytes: 128 },
);

/**
 * Start of the page-map memfd, for the soft CPU and for dirty tracking. Two bitmaps follow, one bit a page of
 * guest RAM in the order of its memfd: `code` (written by the vCPU process: decoded instructions stem from
 * this page) and `dirty` (set by device processes for every page that they write by DMA, before they write).
 * A device that dirties a page whose code bit is set also ORs `Attention.dma` into every attention word, and
 * the vCPU drops what it decoded before it runs another block. Behind the bitmaps is the page store.
 */
export const PageMap = struct(
  'PageMap',
  {
    magic: u32('pageMapMagic'),
    cpus: u32(),
    pages: u32(),
    codeAt: u32('byte offset of the code bitmap'),
    dirtyAt: u32('byte offset of the dirty bitmap'),
    storeAt: u32('byte offset of the entries of the page store'),
    pad0: pad(40),
    attention: structs(attentionLine, 64),
    store: structs(pageStore, 1),
  },
  { bytes: 64 + 64 * 64 + 128 },
);

/** Why a vCPU must leave guest code at the next block border. Bits below 0x100 are for devices to set. */
export const Attention = {
  dma: 1,
  interrupt: 0x100,
  stop: 0x200,
  flush: 0x400,
  timer: 0x800,
  /** Deterministic mode: a device changed by itself. */ outside: 0x2000,
  /** Private to the engine. */ engine: 0x1000,
} as const;

export const wireStructs = [
  ProcessControl,
  RingHeader,
  ExitSlot,
  ClassEntry,
  Counter,
  Range,
  BlockHeader,
  HalfHeader,
  IrqEntry,
  IrqHeader,
  VcpuStats,
  VmPage,
  attentionLine,
  pageStore,
  PageMap,
] as const;

/** The header that libs/native and services/vcpu compile. */
export const wireHeader = (): string =>
  emitCpp({
    namespace: 'nyx::wire',
    source: 'libs/ring/src/wire.ts',
    constants: { ...wire, slotPosted },
    enums: { ExitKind, Status, StatusFlag, MachineEvent, ClassKind, Space, Attention },
    structs: wireStructs,
  });
