// State of one software CPU. Plain data: what an instruction handler touches is at the front, in a few cache lines.
//
// How the engine works. Guest code is decoded into blocks of Insn (insn.h), cached by physical address. A handler
// executes one instruction on this state and tail-calls the handler of the next one, so that a block, and chains of
// blocks, run without returning. Guest faults leave by longjmp to the run loop. The engine executes the guest's
// arithmetic with the host's own instructions (inline assembly), so that results and flags, also the undefined ones,
// are those of an x86-64.
#pragma once
#include <atomic>
#include <csetjmp>
#include <cstdint>

#include "soft/returns.h"

namespace nyx {
class Bus;           // accel.h: what lies outside of the CPU
class Clock;         // clock.h: guest time and TSC
class Lapic;         // lapic.h
class MemoryMap;     // accel.h: guest RAM and ROM
class Pacer;         // accel.h: devices in deterministic mode
struct VcpuContext;  // accel.h
}  // namespace nyx

namespace nyx::soft {

enum Gpr : uint8_t { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
// Two pseudo-registers that let every effective address be base + (index << shift) + disp.
inline constexpr uint8_t kRegZero = 16;  // always 0
inline constexpr uint8_t kRegBlock = 17;  // linear RIP (not CS-based: offset) of the current block's first instruction
inline constexpr int kRegs = 18;

enum SegReg : uint8_t { ES, CS, SS, DS, FS, GS, LDTR, TR, kSegs };

// A segment register with its hidden part.
struct Segment {
  uint64_t base;
  uint32_t limit;  // in bytes, granularity applied
  uint16_t selector;
  uint16_t attr;  // descriptor bits 55:40: type 3:0, S 4, DPL 6:5, P 7, limit 11:8 (ignored), AVL 12, L 13, D/B 14, G 15
  bool present() const { return attr & 0x80; }
  bool code() const { return attr & 0x08; }
  bool writable() const { return (attr & 0x0a) == 0x02; }
  bool expand_down() const { return (attr & 0x0c) == 0x04; }
  bool l() const { return attr & 0x2000; }
  bool db() const { return attr & 0x4000; }
  unsigned dpl() const { return attr >> 5 & 3; }
};

struct TableRegister {
  uint64_t base;
  uint32_t limit;
};

// RFLAGS bits.
inline constexpr uint32_t kCF = 1, kPF = 4, kAF = 0x10, kZF = 0x40, kSF = 0x80, kTF = 0x100, kIF = 0x200, kDF = 0x400,
                          kOF = 0x800, kIOPL = 0x3000, kNT = 0x4000, kRF = 0x10000, kVM = 0x20000, kAC = 0x40000,
                          kVIF = 0x80000, kVIP = 0x100000, kID = 0x200000;
inline constexpr uint32_t kArith = kCF | kPF | kAF | kZF | kSF | kOF;

// Exceptions.
inline constexpr int kDE = 0, kDB = 1, kNMI = 2, kBP = 3, kOFx = 4, kBR = 5, kUD = 6, kNM = 7, kDF8 = 8, kTS = 10, kNP = 11,
                     kSSx = 12, kGP = 13, kPFx = 14, kMF = 16, kACx = 17, kMC = 18, kXM = 19;

// Control registers.
inline constexpr uint64_t kCr0PE = 1, kCr0MP = 2, kCr0EM = 4, kCr0TS = 8, kCr0ET = 16, kCr0NE = 32, kCr0WP = 1 << 16,
                          kCr0AM = 1 << 18, kCr0NW = 1 << 29, kCr0CD = 1 << 30, kCr0PG = 1u << 31;
inline constexpr uint64_t kCr4VME = 1, kCr4PVI = 2, kCr4TSD = 4, kCr4DE = 8, kCr4PSE = 16, kCr4PAE = 32, kCr4MCE = 64,
                          kCr4PGE = 128, kCr4PCE = 256, kCr4OSFXSR = 512, kCr4OSXMMEXCPT = 1024, kCr4UMIP = 2048,
                          kCr4FSGSBASE = 1 << 16, kCr4PCIDE = 1 << 17, kCr4OSXSAVE = 1 << 18, kCr4SMEP = 1 << 20,
                          kCr4SMAP = 1 << 21, kCr4PKE = 1 << 22, kCr4PKS = 1 << 24;
inline constexpr uint64_t kEferSCE = 1, kEferLME = 1 << 8, kEferLMA = 1 << 10, kEferNXE = 1 << 11;

// Everything that decides how bytes decode and which checks apply. Part of a block's key.
enum ModeBits : uint32_t {
  kMode64 = 1,       // 64-bit code segment
  kModeD32 = 2,      // CS.D: 32-bit default sizes (never with kMode64)
  kModeSs32 = 4,     // SS.B: 32-bit stack pointer
  kModePE = 8,       // protected mode (not real, not vm86)
  kModeVM86 = 16,
  kModeUser = 32,    // CPL 3
  kModeFlat = 64,    // legacy: CS, DS, ES, SS have base 0 and limit 4 GiB: no segment checks needed
  kModeLMA = 128,    // long mode active (64-bit or compatibility)
  kModeChecked = 256,  // tlb is tlbs[2]: alignment checks or data breakpoints
};

// One translation of data. Tags are page addresses; a tag with low bits set never matches (slow path). With SMAP, user pages
// are in the user TLB alone: that is where the slow path of a supervisor with RFLAGS.AC finds them.
struct alignas(32) TlbEntry {
  uint64_t read;
  uint64_t write;  // clean-code pages (decoded blocks) never have a matching write tag
  intptr_t addend;  // host address = linear address + addend
};
// One translation of code, in RAM or ROM.
struct CodeEntry {
  uint64_t page;    // or kTlbInvalid
  intptr_t addend;
};
inline constexpr uint64_t kTlbInvalid = ~0ull;
inline constexpr int kTlbBits = 12;
inline constexpr int kTlbEntries = 1 << kTlbBits;
// Low bits of a tag that keep it from matching but save the slow path a page walk.
inline constexpr uint64_t kTagIo = 1;    // device memory: addend is physical minus linear address
inline constexpr uint64_t kTagRom = 2;   // write tag: RAM that ignores writes
inline constexpr uint64_t kTagCode = 4;  // write tag: decoded blocks stem from this page
inline constexpr int kCodeEntries = 1 << 10;
template <unsigned N>
struct TlbBits {
  uint64_t used[N / 64];    // entries that hold anything
  uint64_t global[N / 64];  // entries that outlive a CR3 load
  uint64_t large[N / 64];   // entries cut from a page larger than 4 KiB
  uint64_t gigabytes;       // bit n: one of them may be in a GiB whose number is n modulo 64
};
// Code has entries of its own, so that data does not displace what links between blocks rely on (run.h).
struct Tlb {
  TlbEntry entries[kTlbEntries];
  CodeEntry code[kCodeEntries];
  TlbBits<kTlbEntries> bits;
  TlbBits<kCodeEntries> code_bits;
  uint8_t key[kTlbEntries];  // of `entries`: protection key, + 16 of a supervisor page
};

// Where the engine is, when it is not executing guest code (sampler.h).
enum Where : uint8_t { kInGuestCode, kInTranslator, kInMmu, kInExit, kAsleep };

struct Block;
struct Insn;
struct JumpEntry;  // block.h

// The x87 and SSE state in FXSAVE64 layout; x87.cc and simd.cc decide what of it is live in host registers.
struct alignas(64) FxState {
  uint8_t bytes[512];
};

// What a guest can see of it is also in SoftState (state.cc): checkpoints are made of that.
struct alignas(64) Cpu {
  uint64_t gpr[kRegs];
  // Arithmetic flags as `lahf; seto al` leaves them in AX: byte 1 = SF ZF 0 AF 0 PF 1 CF, byte 0 = OF (0 or 1).
  uint16_t flags;
  bool df;             // RFLAGS.DF
  uint8_t cpl;
  uint32_t mode;       // ModeBits
  Tlb* tlb;            // tlbs[cpl == 3], tlbs[2] with checks of every access
  std::atomic<uint32_t>* attention;  // this CPU's word in the page map (wire.h Attention): leave at a block border
  uint64_t icount;     // instructions retired, counted per block; exact at block borders and faults
  uint64_t deadline = ~uint64_t{0};  // deterministic mode: no block is entered that would go beyond this count (pace.h)
  Segment seg[kSegs];
  uint64_t rip;        // valid between blocks; inside one it is gpr[kRegBlock] + insn->off
  uint32_t eflags;     // the other RFLAGS bits: TF IF IOPL NT RF VM AC VIF VIP ID (and bit 1); not kArith, not DF
  const Insn* current; // instruction that a slow path works for (set by slow paths that may fault)
  Block* block;        // block that is being executed (invalidation must not free it)
  uint8_t inhibit;     // Inhibit of the last STI or MOV SS (run.h: set_inhibit); counts only while icount == inhibit_at
  volatile uint8_t where;  // Where; read by the sampler's signal
  bool trap_pending;   // run loop: single-step trap due after this instruction; software interrupts clear it
  uint64_t inhibit_at;
  class BlockCache* blocks;  // block.h
  JumpEntry* jumps;    // blocks->jumps[0]
  uint32_t hot_count;  // executions after which a block is translated
  struct StoreLog* log;       // lockstep.h; null but in its tests
  class Lockstep* lockstep;   // the same
  uint64_t scratch;    // of translated code, within one instruction
  Returns returns;     // of translated code
  uint64_t host_stack; // RSP to go back to from translated code

  uint64_t cr0, cr2, cr3, cr4, cr8, efer, xcr0;
  uint32_t pkru, pkrs;  // two bits a protection key: no access, no write (walk.cc)
  uint64_t pdpte[4];  // PAE paging: loaded with CR3
  uint64_t dr[8];
  TableRegister gdtr, idtr;
  FxState fx;         // x87 part valid when !x87_live
  uint32_t mxcsr;     // exact when !fp_live
  bool fp_live;       // the host's MXCSR is the guest's (simd.h)
  bool fp_unmasked;   // the guest unmasked SSE exceptions
  uint16_t x87_cw;    // guest's control word while live (the host's has all exceptions masked)
  bool x87_live;      // the host's x87 registers are the guest's (x87.cc)
  uint16_t x87_op;    // last x87 opcode, its RIP and memory operand: what FNSTENV and FXSAVE show
  uint64_t x87_ip, x87_dp;

  // MSRs.
  uint64_t star, lstar, cstar, sfmask, kernel_gs_base, tsc_aux, pat, misc_enable, apic_base, sysenter_cs, sysenter_esp,
      sysenter_eip, tsc_adjust, mtrr_def_type, mtrr_fixed[11], mtrr_phys[16], pvclock_system, pvclock_wall, debugctl;

  // The way out.
  std::jmp_buf unwind;     // run loop; longjmp value says why (run.h)
  int exception;           // vector being raised
  uint32_t error_code;
  bool has_error;
  Bus* bus;
  Lapic* lapic;
  Clock* clock;
  const MemoryMap* memory;
  VcpuContext* context;
  Pacer* pacer;         // deterministic mode (pace.h); else null
  uint64_t time_offset;  // of guest ns to icount
  unsigned index;          // vCPU number
  class Engine* engine;    // shared: block cache policy, other CPUs
  uint64_t stat_blocks, stat_translated, stat_tlb_misses, stat_interrupts, stat_halts;
  // Events (exception.cc, events.cc).
  int delivering;          // vector whose delivery is under way, -1: none (decides about double faults)
  bool delivering_ext;     // that event does not stem from an INT instruction: EXT bit of error codes
  bool nmi_blocked;        // until IRET
  bool irq_pending;        // something waits in the Lapic for IF, the shadow or IRET: then set Attention.interrupt
  bool halted;
  bool wait_sipi;
  bool shutdown;           // triple fault
  bool ac_check;           // CPL 3, CR0.AM, EFLAGS.AC: all data accesses take the slow path (tlb is tlbs[2])
  bool watch;              // DR7 has data breakpoints: the same
  uint8_t watch_hits;      // those that the current instruction hit: #DB after it (DR6 bits 3:0)
  int64_t tsc_offset;      // guest TSC = Clock::Tsc() + tsc_offset
  TlbEntry once;           // a translation that no TLB may keep (mmu.cc)
  Tlb tlbs[3];             // supervisor, user, checked accesses (never matches)
  class Sampler* sampler;

  bool long_mode() const { return mode & kModeLMA; }
  bool code64() const { return mode & kMode64; }
};

// RFLAGS from its parts and back. `set_rflags` does no privilege checks.
inline uint64_t rflags(const Cpu& c) {
  const uint32_t ah = c.flags >> 8;
  return c.eflags | 2 | (ah & (kCF | kPF | kAF | kZF | kSF)) | (c.flags & 1 ? kOF : 0) | (c.df ? kDF : 0);
}
inline void set_arith(Cpu& c, uint32_t f) {
  c.flags = uint16_t((f & (kCF | kPF | kAF | kZF | kSF)) << 8 | 0x200 | ((f & kOF) ? 1 : 0));
}
inline void set_rflags(Cpu& c, uint64_t f) {
  set_arith(c, uint32_t(f));
  c.df = f & kDF;
  c.eflags = uint32_t(f) & (kTF | kIF | kIOPL | kNT | kRF | kVM | kAC | kVIF | kVIP | kID);
}

// Raises a guest exception at the instruction `i` (fault: RIP of i) or at c.rip when i is null. Does not return.
[[noreturn]] void raise(Cpu& c, const Insn* i, int vector);
[[noreturn]] void raise(Cpu& c, const Insn* i, int vector, uint32_t error);

}  // namespace nyx::soft
