// Generated from libs/ring/src/wire.ts by tools/gen.mjs. Do not edit.
#pragma once
#include <cstddef>
#include <cstdint>

namespace nyx::wire {

inline constexpr uint32_t kRingMagic = 0x5258594eu;
inline constexpr uint32_t kBlockMagic = 0x4258594eu;
inline constexpr uint32_t kIrqMagic = 0x4958594eu;
inline constexpr uint32_t kVmMagic = 0x5658594eu;
inline constexpr uint32_t kPageMapMagic = 0x5058594eu;
inline constexpr uint32_t kVersion = 0x1u;
inline constexpr uint32_t kRingBase = 0x1000u;
inline constexpr uint32_t kRingStride = 0x4000u;
inline constexpr uint32_t kRingSlots = 0x40u;
inline constexpr uint32_t kSlotsAt = 0x1000u;
inline constexpr uint32_t kBurstAt = 0x2000u;
inline constexpr uint32_t kBurstBytes = 0x2000u;
inline constexpr uint32_t kHalvesAt = 0x1000u;
inline constexpr uint32_t kMaxClasses = 0x40u;
inline constexpr uint32_t kMaxRanges = 0x8u;
inline constexpr uint32_t kIrqEntriesAt = 0x1000u;
inline constexpr uint32_t kSpareSlots = 0x400u;
inline constexpr uint32_t kSampleNs = 0xf4240u;
inline constexpr uint32_t kSlotPosted = 0x1u;

struct ExitKind {
  enum : uint32_t {
    kNone = 0,
    kRead = 1,
    kWrite = 2,
    kReadBurst = 3,
    kWriteBurst = 4,
    kConfigRead = 5,
    kConfigWrite = 6,
    kIntAck = 7,
    kEoi = 8,
    kLine = 9,
    kReset = 10,
    kTime = 11,
  };
};

struct Status {
  enum : uint32_t {
    kOk = 0,
    kUnclaimed = 1,
  };
};

struct StatusFlag {
  enum : uint32_t {
    kMapChanged = 256,
    kEventShift = 16,
  };
};

struct MachineEvent {
  enum : uint32_t {
    kNone = 0,
    kReset = 1,
    kShutdown = 2,
    kSuspend = 3,
    kPanic = 4,
    kCrashLoaded = 5,
  };
};

struct ClassKind {
  enum : uint32_t {
    kNone = 0,
    kShadow = 1,
    kCounter = 2,
    kPosted = 3,
    kNotify = 4,
  };
};

struct Space {
  enum : uint32_t {
    kNone = 0,
    kPio = 1,
    kMmio = 2,
    kEcam = 3,
  };
};

struct Attention {
  enum : uint32_t {
    kDma = 1,
    kInterrupt = 256,
    kStop = 512,
    kFlush = 1024,
    kTimer = 2048,
    kOutside = 8192,
    kEngine = 4096,
  };
};

// Process control page of a ring memfd.
struct ProcessControl {
  uint32_t magic;  // ringMagic
  uint32_t version;
  uint32_t rings;  // vCPUs + 1; the last is the fabric ring
  uint32_t epoch;  // times that a process attached; written by the attaching process
  uint8_t pad0_[48];
  uint32_t consumer_cpu;  // CPU the device process last ran on; the vCPU spins only when it is another one
  uint32_t consumer_asleep;  // 1: it waits in its event loop; who publishes a request swaps in 0 and, if it was 1, writes the kick eventfd
  uint32_t heartbeat;  // grows while the process serves or idles
  uint32_t attached;  // epoch that is being served: non-zero once the process answers
  uint32_t served_lo;  // exits served since attach, low half
  uint32_t served_hi;
  uint32_t holder;  // robust futex: id of the thread that serves, and bit 31; the kernel makes it bits 31 and 30 when that thread dies; 0: nobody is told
  uint32_t in_flight;  // file requests of that thread that the kernel or other threads carry out
  uint8_t pad1_[32];
  uint32_t violations;  // protocol violations found by the vCPU process
  uint32_t isolated;  // 1: the vCPU process no longer asks this process
  uint8_t pad2_[56];
};
static_assert(sizeof(ProcessControl) == 192);
static_assert(offsetof(ProcessControl, magic) == 0);
static_assert(offsetof(ProcessControl, version) == 4);
static_assert(offsetof(ProcessControl, rings) == 8);
static_assert(offsetof(ProcessControl, epoch) == 12);
static_assert(offsetof(ProcessControl, consumer_cpu) == 64);
static_assert(offsetof(ProcessControl, consumer_asleep) == 68);
static_assert(offsetof(ProcessControl, heartbeat) == 72);
static_assert(offsetof(ProcessControl, attached) == 76);
static_assert(offsetof(ProcessControl, served_lo) == 80);
static_assert(offsetof(ProcessControl, served_hi) == 84);
static_assert(offsetof(ProcessControl, holder) == 88);
static_assert(offsetof(ProcessControl, in_flight) == 92);
static_assert(offsetof(ProcessControl, violations) == 128);
static_assert(offsetof(ProcessControl, isolated) == 132);
inline constexpr uint32_t ProcessControlHash = 0x7be1c034u;

// Header of one exit ring.
struct RingHeader {
  uint64_t head;  // sequence of the newest published request
  uint32_t producer_cpu;
  uint32_t producer_waiting;  // futex word: 1 while the producer sleeps for a reply; the consumer swaps in 0 and, if it was 1, wakes it
  uint8_t pad0_[48];
  uint64_t tail;  // sequence of the newest request whose reply is published
  uint8_t pad1_[56];
};
static_assert(sizeof(RingHeader) == 128);
static_assert(offsetof(RingHeader, head) == 0);
static_assert(offsetof(RingHeader, producer_cpu) == 8);
static_assert(offsetof(RingHeader, producer_waiting) == 12);
static_assert(offsetof(RingHeader, tail) == 64);
inline constexpr uint32_t RingHeaderHash = 0xfe63a90au;

// One exit and its reply.
struct ExitSlot {
  uint32_t seq_lo;  // low half of the sequence, stored last (release): the request is complete
  uint8_t kind;  // ExitKind
  uint8_t width;  // bytes: 1, 2, 4, 8
  uint16_t device;  // index of the device within its process
  uint16_t region;  // region of the device
  uint16_t flags;  // bit 0: posted, the producer does not wait
  uint32_t count;  // elements of a burst; they are in the burst area
  uint64_t offset;  // bytes from the start of the region
  uint64_t data;  // value written
  uint32_t reply_seq_lo;  // low half of the sequence, stored last (release): the reply is complete
  uint32_t status;  // Status | StatusFlag
  uint64_t reply;  // value read
  uint8_t pad0_[16];
};
static_assert(sizeof(ExitSlot) == 64);
static_assert(offsetof(ExitSlot, seq_lo) == 0);
static_assert(offsetof(ExitSlot, kind) == 4);
static_assert(offsetof(ExitSlot, width) == 5);
static_assert(offsetof(ExitSlot, device) == 6);
static_assert(offsetof(ExitSlot, region) == 8);
static_assert(offsetof(ExitSlot, flags) == 10);
static_assert(offsetof(ExitSlot, count) == 12);
static_assert(offsetof(ExitSlot, offset) == 16);
static_assert(offsetof(ExitSlot, data) == 24);
static_assert(offsetof(ExitSlot, reply_seq_lo) == 32);
static_assert(offsetof(ExitSlot, status) == 36);
static_assert(offsetof(ExitSlot, reply) == 40);
inline constexpr uint32_t ExitSlotHash = 0xe7a50675u;

struct ClassEntry {
  uint8_t kind;  // ClassKind
  uint8_t region;
  uint8_t width;
  uint8_t pad0_[1];
  uint32_t offset;  // in the region
  uint32_t source;  // shadow: byte offset in the half; counter: byte offset of a Counter in the half
  uint32_t mask;  // shadow: bits that always read as one
};
static_assert(sizeof(ClassEntry) == 16);
static_assert(offsetof(ClassEntry, kind) == 0);
static_assert(offsetof(ClassEntry, region) == 1);
static_assert(offsetof(ClassEntry, width) == 2);
static_assert(offsetof(ClassEntry, offset) == 4);
static_assert(offsetof(ClassEntry, source) == 8);
static_assert(offsetof(ClassEntry, mask) == 12);
inline constexpr uint32_t ClassEntryHash = 0x0b49d3b3u;

struct Counter {
  uint64_t base;  // guest nanoseconds at which the counter was 0
  uint32_t hz;
  uint32_t bits;  // 1..64
};
static_assert(sizeof(Counter) == 16);
static_assert(offsetof(Counter, base) == 0);
static_assert(offsetof(Counter, hz) == 8);
static_assert(offsetof(Counter, bits) == 12);
inline constexpr uint32_t CounterHash = 0x043da5afu;

struct Range {
  uint8_t space;  // Space; 0 = not claimed
  uint8_t region;  // region of the device that the range shows
  uint8_t pad0_[6];
  uint64_t base;
  uint64_t length;  // bytes
  uint8_t pad1_[8];
};
static_assert(sizeof(Range) == 32);
static_assert(offsetof(Range, space) == 0);
static_assert(offsetof(Range, region) == 1);
static_assert(offsetof(Range, base) == 8);
static_assert(offsetof(Range, length) == 16);
inline constexpr uint32_t RangeHash = 0x0645325cu;

// Header page of a state block.
struct BlockHeader {
  uint32_t magic;  // blockMagic
  uint32_t version;
  uint32_t kind;  // FNV-1a of the device kind
  uint32_t state_version;
  uint32_t layout_hash;  // hash of the state structure
  uint32_t half_bytes;  // multiple of 64
  uint32_t state_at;  // offset of the device state in a half
  uint32_t state_bytes;
  uint32_t ranges;  // entries of the half's range table
  uint32_t classes;  // entries of the class table
  uint32_t initialized;  // 1 once a half was committed
  uint8_t pad0_[20];
  uint32_t generation;  // commits so far; half (generation & 1) is active. The one word that a commit flips
  uint8_t pad1_[60];
  ClassEntry class_table[64];
};
static_assert(sizeof(BlockHeader) == 1152);
static_assert(offsetof(BlockHeader, magic) == 0);
static_assert(offsetof(BlockHeader, version) == 4);
static_assert(offsetof(BlockHeader, kind) == 8);
static_assert(offsetof(BlockHeader, state_version) == 12);
static_assert(offsetof(BlockHeader, layout_hash) == 16);
static_assert(offsetof(BlockHeader, half_bytes) == 20);
static_assert(offsetof(BlockHeader, state_at) == 24);
static_assert(offsetof(BlockHeader, state_bytes) == 28);
static_assert(offsetof(BlockHeader, ranges) == 32);
static_assert(offsetof(BlockHeader, classes) == 36);
static_assert(offsetof(BlockHeader, initialized) == 40);
static_assert(offsetof(BlockHeader, generation) == 64);
static_assert(offsetof(BlockHeader, class_table) == 128);
inline constexpr uint32_t BlockHeaderHash = 0xdb7bfcc8u;

// Commit record at the start of a half.
struct HalfHeader {
  uint32_t crc;
  uint32_t ring;  // ring of the last exit committed in this half; 0xffffffff: the commit was not an exit
  uint64_t seq;  // its sequence
  uint64_t reply;  // its reply, stored so that a successor can publish it again
  uint32_t status;  // its status
  uint8_t pad0_[36];
};
static_assert(sizeof(HalfHeader) == 64);
static_assert(offsetof(HalfHeader, crc) == 0);
static_assert(offsetof(HalfHeader, ring) == 4);
static_assert(offsetof(HalfHeader, seq) == 8);
static_assert(offsetof(HalfHeader, reply) == 16);
static_assert(offsetof(HalfHeader, status) == 24);
inline constexpr uint32_t HalfHeaderHash = 0xa3250783u;

struct IrqEntry {
  uint32_t word;
  uint32_t data;  // MSI data
  uint64_t address;  // MSI address
  uint8_t pad0_[16];
};
static_assert(sizeof(IrqEntry) == 32);
static_assert(offsetof(IrqEntry, word) == 0);
static_assert(offsetof(IrqEntry, data) == 4);
static_assert(offsetof(IrqEntry, address) == 8);
inline constexpr uint32_t IrqEntryHash = 0xa457f48fu;

struct IrqHeader {
  uint32_t magic;
  uint32_t entries;
  uint32_t kicks;  // eventfd writes
  uint8_t pad0_[52];
};
static_assert(sizeof(IrqHeader) == 64);
static_assert(offsetof(IrqHeader, magic) == 0);
static_assert(offsetof(IrqHeader, entries) == 4);
static_assert(offsetof(IrqHeader, kicks) == 8);
inline constexpr uint32_t IrqHeaderHash = 0x3d2a1fa4u;

struct VcpuStats {
  uint64_t instructions;  // executed by the soft engine
  uint64_t exits_sync;
  uint64_t exits_posted;
  uint64_t exits_shadow;
  uint64_t exits_counter;
  uint64_t exits_unclaimed;  // no device at the address
  uint64_t exits_halt;
  uint64_t interrupts;  // injected
  uint64_t wait_ns;  // time spent waiting for device replies
  uint64_t blocks_decoded;  // soft: basic blocks decoded
  uint64_t tlb_misses;  // soft
  uint32_t state;  // 0 off, 1 running, 2 halted, 3 waits for a device, 4 paused
  uint32_t waits_for;  // index of the device process it waits for
  uint64_t max_wait_ns;
  uint64_t last_rip;  // where the guest was at the last exit
  uint32_t rflags;  // RFLAGS when last looked at
  uint32_t looks;  // times that the vCPU published where it is, because it was asked (ControlOp.look) or came by
  uint32_t last_port;  // the newest of unmappedPorts
  uint8_t pad0_[4];
  uint64_t unmapped_ports;  // accesses to ports that no device answers
  uint64_t unmapped_mmio;  // accesses to memory addresses that are neither RAM nor a device
  uint64_t last_mmio;  // the newest of unmappedMmio
  uint32_t in_translated;  // soft: samples that found it in translated code, in wire.sampleNs of processor time
  uint32_t in_interpreter;  // soft: in the interpreter
  uint32_t in_translator;  // soft: decoding and translating
  uint32_t in_mmu;  // soft: walking page tables
  uint32_t in_exits;  // soft: in accesses to devices
  uint8_t pad1_[4];
  uint64_t halted_ns;  // soft: asleep in HLT
  uint8_t pad2_[8];
};
static_assert(sizeof(VcpuStats) == 192);
static_assert(offsetof(VcpuStats, instructions) == 0);
static_assert(offsetof(VcpuStats, exits_sync) == 8);
static_assert(offsetof(VcpuStats, exits_posted) == 16);
static_assert(offsetof(VcpuStats, exits_shadow) == 24);
static_assert(offsetof(VcpuStats, exits_counter) == 32);
static_assert(offsetof(VcpuStats, exits_unclaimed) == 40);
static_assert(offsetof(VcpuStats, exits_halt) == 48);
static_assert(offsetof(VcpuStats, interrupts) == 56);
static_assert(offsetof(VcpuStats, wait_ns) == 64);
static_assert(offsetof(VcpuStats, blocks_decoded) == 72);
static_assert(offsetof(VcpuStats, tlb_misses) == 80);
static_assert(offsetof(VcpuStats, state) == 88);
static_assert(offsetof(VcpuStats, waits_for) == 92);
static_assert(offsetof(VcpuStats, max_wait_ns) == 96);
static_assert(offsetof(VcpuStats, last_rip) == 104);
static_assert(offsetof(VcpuStats, rflags) == 112);
static_assert(offsetof(VcpuStats, looks) == 116);
static_assert(offsetof(VcpuStats, last_port) == 120);
static_assert(offsetof(VcpuStats, unmapped_ports) == 128);
static_assert(offsetof(VcpuStats, unmapped_mmio) == 136);
static_assert(offsetof(VcpuStats, last_mmio) == 144);
static_assert(offsetof(VcpuStats, in_translated) == 152);
static_assert(offsetof(VcpuStats, in_interpreter) == 156);
static_assert(offsetof(VcpuStats, in_translator) == 160);
static_assert(offsetof(VcpuStats, in_mmu) == 164);
static_assert(offsetof(VcpuStats, in_exits) == 168);
static_assert(offsetof(VcpuStats, halted_ns) == 176);
inline constexpr uint32_t VcpuStatsHash = 0xa507262cu;

// The VM page.
struct VmPage {
  uint32_t magic;  // vmMagic
  uint32_t version;
  uint32_t cpus;
  uint32_t paused;  // 1: guest time stands still at pausedAt, or is virtual
  uint64_t clock_offset;  // guest ns = CLOCK_MONOTONIC ns - clockOffset
  uint64_t paused_at;  // guest ns
  uint64_t wall_clock;  // UTC seconds at guest ns 0
  uint32_t tsc_khz;  // of the guest
  uint32_t accel;  // 1 kvm, 2 soft
  uint32_t virtual_time;  // 1: guest time is pausedAt, and timers are a matter of `time` exits (deterministic mode)
  uint8_t pad0_[12];
  VcpuStats vcpu[64];
};
static_assert(sizeof(VmPage) == 12352);
static_assert(offsetof(VmPage, magic) == 0);
static_assert(offsetof(VmPage, version) == 4);
static_assert(offsetof(VmPage, cpus) == 8);
static_assert(offsetof(VmPage, paused) == 12);
static_assert(offsetof(VmPage, clock_offset) == 16);
static_assert(offsetof(VmPage, paused_at) == 24);
static_assert(offsetof(VmPage, wall_clock) == 32);
static_assert(offsetof(VmPage, tsc_khz) == 40);
static_assert(offsetof(VmPage, accel) == 44);
static_assert(offsetof(VmPage, virtual_time) == 48);
static_assert(offsetof(VmPage, vcpu) == 64);
inline constexpr uint32_t VmPageHash = 0xea49004du;

struct AttentionLine {
  uint32_t word;  // Attention bits of a vCPU
  uint8_t pad0_[60];
};
static_assert(sizeof(AttentionLine) == 64);
static_assert(offsetof(AttentionLine, word) == 0);
inline constexpr uint32_t AttentionLineHash = 0x94667b7cu;

struct PageStore {
  uint32_t saving;  // 1: there is a checkpoint
  uint32_t lost;  // 1: there was one, and a page could not be saved
  uint64_t base;  // first slot of the checkpoint
  uint8_t pad0_[48];
  uint64_t next;  // slot that nobody has taken
  uint8_t pad1_[56];
};
static_assert(sizeof(PageStore) == 128);
static_assert(offsetof(PageStore, saving) == 0);
static_assert(offsetof(PageStore, lost) == 4);
static_assert(offsetof(PageStore, base) == 8);
static_assert(offsetof(PageStore, next) == 64);
inline constexpr uint32_t PageStoreHash = 0x8ea930f1u;

struct PageMap {
  uint32_t magic;  // pageMapMagic
  uint32_t cpus;
  uint32_t pages;
  uint32_t code_at;  // byte offset of the code bitmap
  uint32_t dirty_at;  // byte offset of the dirty bitmap
  uint32_t store_at;  // byte offset of the entries of the page store
  uint8_t pad0_[40];
  AttentionLine attention[64];
  PageStore store[1];
};
static_assert(sizeof(PageMap) == 4288);
static_assert(offsetof(PageMap, magic) == 0);
static_assert(offsetof(PageMap, cpus) == 4);
static_assert(offsetof(PageMap, pages) == 8);
static_assert(offsetof(PageMap, code_at) == 12);
static_assert(offsetof(PageMap, dirty_at) == 16);
static_assert(offsetof(PageMap, store_at) == 20);
static_assert(offsetof(PageMap, attention) == 64);
static_assert(offsetof(PageMap, store) == 4160);
inline constexpr uint32_t PageMapHash = 0x42cce816u;

}  // namespace nyx::wire
