#include "soft/pace.h"

#include <algorithm>

#include "lapic.h"
#include "soft/coherence.h"

namespace nyx::soft {
namespace {

uint64_t next_event(const Cpu& c) { return std::min(c.lapic->due(), c.pacer->Next()); }

}  // namespace

void tell_time(Cpu& c, const Insn* i) { c.clock->Advance(c.time_offset + (i ? retired(c, i) - 1 : c.icount)); }

void find_deadline(Cpu& c) {
  const uint64_t next = next_event(c);
  c.deadline = next == Lapic::kNever ? next : next > c.time_offset ? next - c.time_offset : 0;
}

void serve_time(Cpu& c) {
  if (c.icount < c.deadline) return;
  tell_time(c, nullptr);
  const uint64_t now = c.clock->Now();
  if (c.lapic->due() <= now) {
    c.lapic->RunTimer();
    c.irq_pending = true;
  }
  if (c.pacer->Next() <= now) {
    Outside outside(c);
    c.pacer->Settle();
  }
  find_deadline(c);
}

bool pass_time(Cpu& c) {
  const uint64_t next = next_event(c);
  const uint64_t now = c.time_offset + c.icount;
  // Without IF only what comes from outside can wake it.
  if (next == Lapic::kNever || !(c.eflags & kIF)) return false;
  if (next > now) {
    constexpr uint32_t wake = ~uint32_t{0};
    if (c.lapic->Wait(wake, next - now)) return false;
    c.time_offset += next - now;
  }
  c.deadline = 0;
  return true;
}

}  // namespace nyx::soft
