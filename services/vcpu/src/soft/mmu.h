// Paging, TLB maintenance and instruction fetch of the soft CPU (Intel SDM vol. 3, ch. 4).
#pragma once
#include "soft/mem.h"

namespace nyx::soft {

// Physical page behind a linear address for fetching instructions; faults by raise(). Gives the host pointer of the
// page's first byte (null: not RAM, e.g. executing from MMIO, which is a fatal internal error) and its physical address.
struct CodePage {
  const uint8_t* host;
  uint64_t phys;
};
CodePage fetch_page(Cpu& c, const Insn* i, uint64_t linear);

void tlb_flush_all(Cpu& c);           // also global entries
void tlb_flush_nonglobal(Cpu& c);     // CR3 load
void tlb_flush_page(Cpu& c, uint64_t linear);  // INVLPG
// The host page at `phys` now holds decoded code: no CPU may keep a write tag for it (waits until all have seen it).
void protect_code_page(Cpu& c, uint64_t phys);

// Physical access for page tables, descriptor tables in system paths, DMA-free helpers; null when not RAM.
uint8_t* phys_ptr(Cpu& c, uint64_t phys);

// Supervisor-privileged data access whatever the CPL (descriptor tables, TSS, IDT): faults as usual.
template <class T>
T load_system(Cpu& c, const Insn* i, uint64_t linear);
template <class T>
void store_system(Cpu& c, const Insn* i, uint64_t linear, T v);

// Recomputes Cpu::mode, Cpu::tlb after a segment register, CR0, EFER, CPL, RFLAGS.VM or RFLAGS.AC changed. Blocks and
// links are found by mode, and a link never leads from one mode to another.
void update_mode(Cpu& c);

}  // namespace nyx::soft
