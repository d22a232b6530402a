// The system half of the soft CPU as the decoder, the run loop and the integer instructions see it.
#pragma once
#include "soft/mmu.h"

namespace nyx::soft {

// ---- run loop (events.cc, exception.cc)
// Call at a block border (c.rip exact, inside the run loop's setjmp) when the attention word is not 0. Clears what it
// acts on, delivers interrupts, sleeps in HLT. False: run() must return (kStop, or Cpu::shutdown).
bool service_attention(Cpu& c);
// After kUnwindException: delivers Cpu::exception at c.rip. May raise again (unwinds to the same setjmp), or set
// Cpu::shutdown and attention stop-like bits: then service_attention is false.
void deliver_exception(Cpu& c);
// After one instruction that began with RFLAGS.TF set: raises #DB (BS). c.rip is the next instruction.
[[noreturn]] void single_step(Cpu& c);

// ---- for handlers of other files
// INT n, INT3, INTO and INT1 (`vector`), with the privilege check of software interrupts. Does not return.
[[noreturn]] void software_interrupt(Cpu& c, const Insn* i, int vector, bool privileged);
// Call when RFLAGS.IF became 1: a waiting interrupt is taken at the next block border.
inline void interrupts_enabled(Cpu& c) {
  if (c.irq_pending) [[unlikely]]
    c.attention->fetch_or(0x100 /* wire::Attention::kInterrupt */);
}
// FF /3 and /5 with a memory operand (m16:16, m16:32, m16:64). Both end the block.
void op_call_far_mem(Cpu& c, const Insn* i);
void op_jmp_far_mem(Cpu& c, const Insn* i);
// PUSHF/POPF (all sizes), CLI/STI, IRET, INT n, far RET/JMP/CALL, segment moves, LAR/LSL, IN/OUT/INS/OUTS, HLT,
// PUSH/POP Sreg, ARPL, BOUND, LES/LDS/LSS/LFS/LGS, RDTSC(P), CPUID, 0F00, 0F01, 0FAE row F3 (FSGSBASE) are here too.

// ---- power-on and INIT (reset.cc)
void reset_cpu(Cpu& c, bool init);  // init: keeps what INIT keeps (SDM vol. 3, table 10-1)

}  // namespace nyx::soft
