// The page walk and the TLB behind mmu.h.
#pragma once
#include "soft/mmu.h"

namespace nyx::soft {

// MAXPHYADDR: CPUID 80000008H, MTRR masks and reserved bits of page tables follow it.
inline constexpr unsigned kPhysBits = 40;
inline constexpr uint64_t kPhysMask = (uint64_t{1} << kPhysBits) - 1;

// What a walk found: the physical page and which accesses its privilege level may do without another walk.
struct Walk {
  uint64_t phys;   // of the 4 KiB page
  uint32_t error;  // page-fault error code when the walk failed
  bool write;      // writable and dirty
  bool exec;
  bool global;
  bool large;      // part of a page larger than 4 KiB: INVLPG of any of its addresses drops it
};

// Translates for one access, setting accessed and dirty bits. False: page fault with w->error.
bool walk(Cpu& c, uint64_t linear, Access a, bool user, Walk* w);

// Enters a translation for linear page `page` in TLB `which`, for data and for code. False: no code to be had there, since it
// is a device.
void tlb_fill(Cpu& c, unsigned which, uint64_t page, const Walk& w);
bool tlb_fill_code(Cpu& c, unsigned which, uint64_t page, const Walk& w);

// Loads the four PDPTEs of PAE paging from CR3. False: a reserved bit is set (#GP).
bool load_pdptes(Cpu& c, uint64_t cr3);

// Physical address of host memory that belongs to the guest.
uint64_t phys_of_host(const Cpu& c, const uint8_t* host);

// Write tags of the page at `host` in this CPU's TLBs: with decoded code (slow path) or without.
void tlb_mark_code(Cpu& c, const uint8_t* host, bool code);
// No write tag stays.
void tlb_drop_writes(Cpu& c);

// Access with the rights of CPL 3 or of the supervisor, whatever the CPL. Size up to 64 bytes.
void load_as(Cpu& c, const Insn* i, uint64_t linear, void* out, unsigned size, bool user);
void store_as(Cpu& c, const Insn* i, uint64_t linear, const void* in, unsigned size, bool user);
// Notes which data breakpoints of DR7 an access hits.
void watch_access(Cpu& c, uint64_t linear, unsigned size, bool write);
// Faults as a store of `size` bytes (up to a page) would.
void check_write(Cpu& c, const Insn* i, uint64_t linear, unsigned size);

}  // namespace nyx::soft
