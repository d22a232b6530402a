// Time on hot paths: the CPU's counter, which costs half of what the clock does and is turned into it where that matters.
#pragma once
#include <x86intrin.h>

#include <cstdint>

#include "futex.h"

namespace nyx {

inline uint64_t Ticks() { return __rdtsc(); }

// Ticks since they were first asked for; pure but for that.
class TickClock {
 public:
  TickClock() : first_ticks_(Ticks()), first_ns_(MonotonicNs()) {}
  // How long `ticks` are, ns: right to some percent a millisecond after this object was made.
  uint64_t ToNs(uint64_t ticks) const {
    const uint64_t since = Ticks() - first_ticks_;
    const auto ns = static_cast<double>(MonotonicNs() - first_ns_);
    return since == 0 ? 0 : static_cast<uint64_t>(static_cast<double>(ticks) * ns / static_cast<double>(since));
  }

 private:
  uint64_t first_ticks_, first_ns_;
};

// A call that moved `bytes` and took so many ticks was stopped: a tenth of a millisecond or so, and eight ticks a byte.
inline bool LooksStalled(uint64_t began, uint64_t ended, uint64_t bytes) {
  return ended > began && ended - began > (uint64_t{1} << 18) + 8 * bytes;
}

}  // namespace nyx
