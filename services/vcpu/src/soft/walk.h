// The page walk and the TLB behind mmu.h.
#pragma once
#include "soft/mmu.h"

namespace nyx::soft {

// MAXPHYADDR: CPUID 80000008H, MTRR masks and reserved bits of page tables follow it.
inline constexpr unsigned kPhysBits = 40;
inline constexpr uint64_t kPhysMask = (uint64_t{1} << kPhysBits) - 1;

// What a walk found: the physical page and which accesses may be done without another walk by those who use that TLB.
struct Walk {
  uint64_t phys;   // of the 4 KiB page
  uint32_t error;  // page-fault error code when the walk failed
  uint8_t which;   // the TLB that it is for
  uint8_t key;     // as Tlb::key
  bool write;      // writable and dirty
  bool global;
  bool large;      // part of a page larger than 4 KiB: INVLPG of any of its addresses drops it
};

// Whose rights an access has. kImplicit: to GDT, LDT, IDT and TSS, which RFLAGS.AC does not let into user pages (SDM vol. 3, 4.6.1).
enum class Rights : uint8_t { kSupervisor, kUser, kImplicit };
// SMAP stands open for explicit accesses of the supervisor.
inline bool ac_open(const Cpu& c) { return (c.eflags & kAC) && c.cpl != 3; }

// Translates for one access, setting accessed and dirty bits. False: page fault with w->error.
bool walk(Cpu& c, uint64_t linear, Access a, Rights r, Walk* w);

// The translation of linear page `page` for data.
TlbEntry make_entry(Cpu& c, uint64_t page, const Walk& w);
// Enters it in its TLB, for data and for code. False: no code to be had there, since it is a device.
void tlb_fill(Cpu& c, uint64_t page, const Walk& w);
bool tlb_fill_code(Cpu& c, uint64_t page, const Walk& w);
// Forgets what is under the protection keys of `keys` (bit n: Tlb::key n).
void tlb_drop_keys(Cpu& c, uint32_t keys);
// Writes to PKRU and IA32_PKRS.
void set_pkru(Cpu& c, uint32_t v);
void set_pkrs(Cpu& c, uint32_t v);

// Loads the four PDPTEs of PAE paging from CR3. False: a reserved bit is set (#GP).
bool load_pdptes(Cpu& c, uint64_t cr3);

// Physical address of host memory that belongs to the guest.
uint64_t phys_of_host(const Cpu& c, const uint8_t* host);

// Write tags of the page at `host` in this CPU's TLBs: with decoded code (slow path) or without.
void tlb_mark_code(Cpu& c, const uint8_t* host, bool code);
// No write tag stays of a page without decoded code.
void tlb_drop_writes(Cpu& c);

// Checkpoints (saved_ram.h). While there is one, no TLB has a write tag, of pages with decoded code either, for a page that
// has not been saved: make_entry gives none, and each write that misses saves the page.
void tlb_protect(Cpu& c);
// The guest is about to write to the page at `phys`.
void save_page(Cpu& c, uint64_t phys);

// Access with given rights, whatever the CPL. Size up to 64 bytes.
void load_as(Cpu& c, const Insn* i, uint64_t linear, void* out, unsigned size, Rights r);
void store_as(Cpu& c, const Insn* i, uint64_t linear, const void* in, unsigned size, Rights r);
// Notes which data breakpoints of DR7 an access hits.
void watch_access(Cpu& c, uint64_t linear, unsigned size, bool write);
// Faults as a store of `size` bytes (up to a page) would.
void check_write(Cpu& c, const Insn* i, uint64_t linear, unsigned size);

}  // namespace nyx::soft
