// Generated from libs/protocol/src/machine-state.ts by tools/gen.mjs. Do not edit.
#pragma once
#include <cstddef>
#include <cstdint>

namespace nyx::state {

inline constexpr uint32_t kMagic = 0x5358594eu;
inline constexpr uint32_t kVersion = 0x1u;
inline constexpr uint32_t kMaxBytes = 0x400000u;

struct StatePart {
  enum : uint32_t {
    kSoft = 1,
    kLapic = 2,
    kFabric = 3,
    kKvmRegs = 16,
    kKvmSregs2 = 17,
    kKvmXcrs = 18,
    kKvmXsave = 19,
    kKvmDebugregs = 20,
    kKvmLapic = 21,
    kKvmEvents = 22,
    kKvmMpState = 23,
    kKvmMsrs = 24,
    kKvmExtint = 25,
    kKvmClock = 26,
  };
};

struct StateHeader {
  uint32_t magic;  // NYXS
  uint32_t version;
  uint32_t bytes;  // of all, this header included
  uint32_t crc;  // CRC32C of all bytes after this header
  uint8_t engine;  // Accel: kvm or soft
  uint8_t pad0_[1];
  uint16_t cpus;
  uint32_t sections;
  uint32_t config_address;  // latch of port 0xCF8
  uint32_t tsc_khz;  // of the guest; another one is refused
  uint64_t guest_ns;  // guest time, which goes on from here
  uint64_t guest_tsc;  // of a vCPU that never wrote it
  uint8_t pad1_[16];
};
static_assert(sizeof(StateHeader) == 64);
static_assert(offsetof(StateHeader, magic) == 0);
static_assert(offsetof(StateHeader, version) == 4);
static_assert(offsetof(StateHeader, bytes) == 8);
static_assert(offsetof(StateHeader, crc) == 12);
static_assert(offsetof(StateHeader, engine) == 16);
static_assert(offsetof(StateHeader, cpus) == 18);
static_assert(offsetof(StateHeader, sections) == 20);
static_assert(offsetof(StateHeader, config_address) == 24);
static_assert(offsetof(StateHeader, tsc_khz) == 28);
static_assert(offsetof(StateHeader, guest_ns) == 32);
static_assert(offsetof(StateHeader, guest_tsc) == 40);
inline constexpr uint32_t StateHeaderHash = 0xd18e30c7u;

struct StateSection {
  uint16_t part;  // StatePart
  uint16_t version;  // of the part; 1
  uint16_t cpu;  // 0xffff: the machine
  uint8_t pad0_[2];
  uint32_t bytes;  // of the payload
  uint8_t pad1_[4];
};
static_assert(sizeof(StateSection) == 16);
static_assert(offsetof(StateSection, part) == 0);
static_assert(offsetof(StateSection, version) == 2);
static_assert(offsetof(StateSection, cpu) == 4);
static_assert(offsetof(StateSection, bytes) == 8);
inline constexpr uint32_t StateSectionHash = 0xd45f97ecu;

struct Quad {
  uint64_t value;
};
static_assert(sizeof(Quad) == 8);
static_assert(offsetof(Quad, value) == 0);
inline constexpr uint32_t QuadHash = 0xda36f7c8u;

struct SegmentState {
  uint64_t base;
  uint32_t limit;  // in bytes
  uint16_t selector;
  uint16_t attr;
};
static_assert(sizeof(SegmentState) == 16);
static_assert(offsetof(SegmentState, base) == 0);
static_assert(offsetof(SegmentState, limit) == 8);
static_assert(offsetof(SegmentState, selector) == 12);
static_assert(offsetof(SegmentState, attr) == 14);
inline constexpr uint32_t SegmentStateHash = 0x5282b87bu;

struct SoftState {
  Quad gpr[16];  // RAX RCX RDX RBX RSP RBP RSI RDI R8..R15
  uint64_t rip;
  uint64_t rflags;
  SegmentState seg[8];  // ES CS SS DS FS GS LDTR TR
  uint64_t gdtr_base;
  uint64_t idtr_base;
  uint32_t gdtr_limit;
  uint32_t idtr_limit;
  uint64_t cr0;
  uint64_t cr2;
  uint64_t cr3;
  uint64_t cr4;
  uint64_t efer;
  uint64_t xcr0;
  Quad pdpte[4];  // of PAE paging, as CR3 was loaded
  Quad dr[8];  // DR0..DR3, unused, DR6, DR7
  uint64_t star;
  uint64_t lstar;
  uint64_t cstar;
  uint64_t sfmask;
  uint64_t kernel_gs_base;
  uint64_t tsc_aux;
  uint64_t pat;
  uint64_t misc_enable;
  uint64_t sysenter_cs;
  uint64_t sysenter_esp;
  uint64_t sysenter_eip;
  uint64_t tsc_adjust;
  uint64_t tsc_offset;  // guest TSC minus StateHeader.guestTsc, signed
  uint64_t mtrr_def_type;
  Quad mtrr_fixed[11];
  Quad mtrr_phys[16];
  uint64_t debugctl;
  uint64_t x87_ip;  // last x87 instruction, its operand and opcode
  uint64_t x87_dp;
  uint16_t x87_op;
  uint8_t cpl;  // 0..3
  uint8_t inhibit;  // until the next instruction has retired: 1 after STI, 2 after MOV SS
  uint8_t nmi_blocked;  // until IRET
  uint8_t halted;
  uint8_t wait_sipi;
  uint8_t pad0_[1];
  uint32_t mxcsr;
  uint32_t pkru;
  uint32_t pkrs;  // IA32_PKRS
  uint8_t pad1_[4];
  uint8_t fx[512];  // FXSAVE64 image; MXCSR and pointers are those above
};
static_assert(sizeof(SoftState) == 1328);
static_assert(offsetof(SoftState, gpr) == 0);
static_assert(offsetof(SoftState, rip) == 128);
static_assert(offsetof(SoftState, rflags) == 136);
static_assert(offsetof(SoftState, seg) == 144);
static_assert(offsetof(SoftState, gdtr_base) == 272);
static_assert(offsetof(SoftState, idtr_base) == 280);
static_assert(offsetof(SoftState, gdtr_limit) == 288);
static_assert(offsetof(SoftState, idtr_limit) == 292);
static_assert(offsetof(SoftState, cr0) == 296);
static_assert(offsetof(SoftState, cr2) == 304);
static_assert(offsetof(SoftState, cr3) == 312);
static_assert(offsetof(SoftState, cr4) == 320);
static_assert(offsetof(SoftState, efer) == 328);
static_assert(offsetof(SoftState, xcr0) == 336);
static_assert(offsetof(SoftState, pdpte) == 344);
static_assert(offsetof(SoftState, dr) == 376);
static_assert(offsetof(SoftState, star) == 440);
static_assert(offsetof(SoftState, lstar) == 448);
static_assert(offsetof(SoftState, cstar) == 456);
static_assert(offsetof(SoftState, sfmask) == 464);
static_assert(offsetof(SoftState, kernel_gs_base) == 472);
static_assert(offsetof(SoftState, tsc_aux) == 480);
static_assert(offsetof(SoftState, pat) == 488);
static_assert(offsetof(SoftState, misc_enable) == 496);
static_assert(offsetof(SoftState, sysenter_cs) == 504);
static_assert(offsetof(SoftState, sysenter_esp) == 512);
static_assert(offsetof(SoftState, sysenter_eip) == 520);
static_assert(offsetof(SoftState, tsc_adjust) == 528);
static_assert(offsetof(SoftState, tsc_offset) == 536);
static_assert(offsetof(SoftState, mtrr_def_type) == 544);
static_assert(offsetof(SoftState, mtrr_fixed) == 552);
static_assert(offsetof(SoftState, mtrr_phys) == 640);
static_assert(offsetof(SoftState, debugctl) == 768);
static_assert(offsetof(SoftState, x87_ip) == 776);
static_assert(offsetof(SoftState, x87_dp) == 784);
static_assert(offsetof(SoftState, x87_op) == 792);
static_assert(offsetof(SoftState, cpl) == 794);
static_assert(offsetof(SoftState, inhibit) == 795);
static_assert(offsetof(SoftState, nmi_blocked) == 796);
static_assert(offsetof(SoftState, halted) == 797);
static_assert(offsetof(SoftState, wait_sipi) == 798);
static_assert(offsetof(SoftState, mxcsr) == 800);
static_assert(offsetof(SoftState, pkru) == 804);
static_assert(offsetof(SoftState, pkrs) == 808);
static_assert(offsetof(SoftState, fx) == 816);
inline constexpr uint32_t SoftStateHash = 0x37aafc17u;

struct LapicState {
  uint32_t irr[8];
  uint32_t isr[8];
  uint32_t tmr[8];
  uint32_t lvt[6];  // timer, thermal, performance, LINT0, LINT1, error
  uint32_t ldr;
  uint32_t dfr;
  uint32_t xapic_id;
  uint32_t tpr;
  uint32_t svr;
  uint32_t esr;
  uint32_t esr_pending;
  uint32_t icr_low;
  uint32_t icr_high;
  uint32_t divide;
  uint32_t initial_count;
  uint32_t events;  // bits 7:0 SIPI vector; 8 INIT, 9 SIPI, 10 NMI pending
  uint64_t apic_base;  // IA32_APIC_BASE
  uint64_t timer_start;
  uint64_t timer_expires;
  uint64_t deadline_tsc;
  uint8_t extint;  // level of LINT0
  uint8_t extint_message;  // an ExtINT message waits to be acknowledged
  uint8_t wait_sipi;
  uint8_t pad0_[5];
};
static_assert(sizeof(LapicState) == 208);
static_assert(offsetof(LapicState, irr) == 0);
static_assert(offsetof(LapicState, isr) == 32);
static_assert(offsetof(LapicState, tmr) == 64);
static_assert(offsetof(LapicState, lvt) == 96);
static_assert(offsetof(LapicState, ldr) == 120);
static_assert(offsetof(LapicState, dfr) == 124);
static_assert(offsetof(LapicState, xapic_id) == 128);
static_assert(offsetof(LapicState, tpr) == 132);
static_assert(offsetof(LapicState, svr) == 136);
static_assert(offsetof(LapicState, esr) == 140);
static_assert(offsetof(LapicState, esr_pending) == 144);
static_assert(offsetof(LapicState, icr_low) == 148);
static_assert(offsetof(LapicState, icr_high) == 152);
static_assert(offsetof(LapicState, divide) == 156);
static_assert(offsetof(LapicState, initial_count) == 160);
static_assert(offsetof(LapicState, events) == 164);
static_assert(offsetof(LapicState, apic_base) == 168);
static_assert(offsetof(LapicState, timer_start) == 176);
static_assert(offsetof(LapicState, timer_expires) == 184);
static_assert(offsetof(LapicState, deadline_tsc) == 192);
static_assert(offsetof(LapicState, extint) == 200);
static_assert(offsetof(LapicState, extint_message) == 201);
static_assert(offsetof(LapicState, wait_sipi) == 202);
inline constexpr uint32_t LapicStateHash = 0x3565e451u;

struct FabricState {
  uint32_t sources;  // FabricSource after this
  uint8_t pad0_[4];
  uint32_t lines[256];  // word of each GSI
  uint32_t told[512];  // by controller (PIC, IOAPIC) and GSI
};
static_assert(sizeof(FabricState) == 3080);
static_assert(offsetof(FabricState, sources) == 0);
static_assert(offsetof(FabricState, lines) == 8);
static_assert(offsetof(FabricState, told) == 1032);
inline constexpr uint32_t FabricStateHash = 0xce2fb5ceu;

struct FabricSource {
  uint16_t process;
  uint8_t pad0_[2];
  uint32_t entry;  // in the page of its process
  uint32_t seen;  // word
};
static_assert(sizeof(FabricSource) == 12);
static_assert(offsetof(FabricSource, process) == 0);
static_assert(offsetof(FabricSource, entry) == 4);
static_assert(offsetof(FabricSource, seen) == 8);
inline constexpr uint32_t FabricSourceHash = 0xe5e8d399u;

}  // namespace nyx::state
