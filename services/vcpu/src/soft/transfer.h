// Changes of the flow of control that go through descriptors (Intel SDM vol. 3, 5.8, 6.12, 6.14, chapter 7).
#pragma once
#include "soft/segment.h"

namespace nyx::soft {

// What is delivered through the IVT or IDT.
struct Event {
  int vector;
  bool has_error = false;
  uint32_t error = 0;
  bool software = false;  // INT n, INT3, INTO: gate privilege is checked
  bool fault = false;     // RF is set in the pushed flags
  unsigned ext = 1;       // EXT bit of error codes that the delivery itself causes
};

// Delivers `e` with return address `rip`: frame pushed, CS, SS, RSP, RFLAGS and c.rip set. Faults by raise(i).
void deliver_event(Cpu& c, const Insn* i, const Event& e, uint64_t rip);

enum class TaskSource { kJump, kCall, kIret, kEvent };
// 16- and 32-bit task switch to the TSS of `selector`. `rip` is where the old task will go on.
void task_switch(Cpu& c, const Insn* i, uint16_t selector, TaskSource source, uint64_t rip, const Event* e);

// Stack pointer of level `cpl` from the current TSS. Legacy: with the stack segment's selector.
uint64_t tss_stack64(Cpu& c, const Insn* i, unsigned cpl, unsigned ist, unsigned ext);
uint32_t tss_stack(Cpu& c, const Insn* i, unsigned cpl, unsigned ext, uint16_t* ss);

// Real-mode and vm86 CS.
void set_real_cs(Cpu& c, uint16_t selector);

}  // namespace nyx::soft
