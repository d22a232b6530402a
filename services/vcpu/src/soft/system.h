// The system half of the soft CPU as the decoder, the run loop and the integer instructions see it.
#pragma once
#include "soft/mmu.h"

namespace nyx::soft {

// deliver_exception (exception.cc) and service_attention (events.cc) are declared in run.h.

// ---- for handlers of other files
// INT n, INT3, INTO and INT1 (`vector`), with the privilege check of software interrupts. Does not return.
[[noreturn]] void software_interrupt(Cpu& c, const Insn* i, int vector, bool privileged);
// External interrupt or NMI at c.rip.
void deliver_interrupt(Cpu& c, int vector);
// Call when RFLAGS.IF became 1: a waiting interrupt is taken at the next block border.
inline void interrupts_enabled(Cpu& c) {
  if (c.irq_pending) [[unlikely]]
    c.attention->fetch_or(0x100 /* wire::Attention::kInterrupt */);
}
// After a write to the local APIC, or to TPR through CR8: what became deliverable is taken at the next block border.
void lapic_changed(Cpu& c);
// FF /3 and /5 with a memory operand (m16:16, m16:32, m16:64). Both end the block.
void op_call_far_mem(Cpu& c, const Insn* i);
void op_jmp_far_mem(Cpu& c, const Insn* i);
// PUSHF/POPF (all sizes), CLI/STI, IRET, INT n, far RET/JMP/CALL, segment moves, LAR/LSL, IN/OUT/INS/OUTS, HLT,
// PUSH/POP Sreg, ARPL, BOUND, LES/LDS/LSS/LFS/LGS, RDTSC(P), CPUID, 0F00, 0F01, 0FAE row F3 (FSGSBASE) are here too.

// ---- power-on and INIT (reset.cc)
void reset_cpu(Cpu& c, bool init);  // init: keeps what INIT keeps (SDM vol. 3, table 10-1)

}  // namespace nyx::soft
