// Deterministic mode: guest time is the number of instructions retired, a nanosecond each, plus the idle time that was
// passed over. Timers, device events and interrupts come at a count of instructions that is the same in every run.
#pragma once
#include "soft/run.h"

namespace nyx::soft {

// The clock shows the time at which instruction `i` begins; null: at a block border. Before all that looks at the clock:
// accesses to devices and the local APIC, RDTSC. Guest time never goes back.
void tell_time(Cpu& c, const Insn* i);
inline void paced(Cpu& c, const Insn* i) {
  if (c.pacer) [[unlikely]] tell_time(c, i);
}
// What may happen next, after anything that may have armed a timer.
void find_deadline(Cpu& c);
// At a block border: what is due by now happens.
void serve_time(Cpu& c);
// The CPU is halted: sleeps as long as the guest would until something is due; guest time is then that moment. False:
// nothing is, or something outside came first.
bool pass_time(Cpu& c);

}  // namespace nyx::soft
