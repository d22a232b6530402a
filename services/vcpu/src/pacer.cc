// Deterministic mode: devices and vCPU take turns. While the vCPU runs, no device process does anything; while one of
// them works, the vCPU waits until all that it started is done: its I/O, its interrupts, what these made others do. So
// everything happens at a guest time that depends on the guest alone.
#include <unistd.h>

#include <algorithm>

#include "bus.h"
#include "fabric.h"

namespace nyx {
namespace {

// Bit 63 of the answer to `time`: I/O is under way. Else bits 62:0 are the guest ns of the next timer, all ones: none.
constexpr uint64_t kBusy = uint64_t{1} << 63;
constexpr uint64_t kNoTimer = kBusy - 1;
// Interrupt controllers and devices that answer each other without an end are left to the next block border.
constexpr int kMaxTurns = 64;

}  // namespace

// Tells the process what time it is, until it has nothing left to do. False: the wait was given up.
bool VcpuBus::AskTime(unsigned process) {
  const Request q{wire::ExitKind::kTime, 8, 0, 0, 0, 0, config_.clock->Now()};
  for (unsigned again = 0;; again++) {
    Reply reply{};
    const CallResult result = producers_[process].Call(q, &reply);
    if (result == CallResult::kAbandoned) return false;
    if (result == CallResult::kIsolated) reply.value = kNoTimer;
    if (!(reply.value & kBusy)) {
      next_[process] = reply.value == kNoTimer ? ~uint64_t{0} : reply.value;
      return true;
    }
    // A disk needs tens of microseconds and more.
    usleep(again < 16 ? 10 : 200);
    if (waiter_->StopAsked() && waiter_->GiveUp()) return false;
  }
}

void VcpuBus::Settle() {
  const uint64_t now = config_.clock->Now();
  for (unsigned p = 0; p < next_.size(); p++) {
    if (next_[p] <= now) touched_ |= 1u << p;
  }
  for (int turn = 0; turn < kMaxTurns; turn++) {
    for (unsigned p = 0; p < next_.size(); p++) {
      if (touched_ >> p & 1 && !AskTime(p)) return;
    }
    touched_ = fabric_->Settle();
    if (!touched_) return;
  }
}

uint64_t VcpuBus::Next() const { return touched_ ? 0 : *std::min_element(next_.begin(), next_.end()); }

}  // namespace nyx
