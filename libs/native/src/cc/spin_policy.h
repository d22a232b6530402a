// How long to spin before going to sleep. Spinning pays when work comes sooner than a sleep and a wake-up would
// take; whether it will is guessed from the gaps seen lately. When they are short, the spin is as long as sleeping would
// cost, not as long as the gaps: a gap that is longer than usual (an interrupt on the other CPU) must not end in a sleep.
#pragma once
#include <cstdint>

namespace nyx {

class SpinPolicy {
 public:
  explicit SpinPolicy(uint64_t max_ns) : max_(max_ns), limit_(max_ns) {}

  // Nanoseconds to spin now.
  uint64_t Next() const { return limit_; }

  // Work came `gap` ns after the last was done; `slept`: in between the process slept, so that a wake-up (about
  // kWakeNs) is part of the gap.
  void Arrived(uint64_t gap, bool slept) {
    const uint64_t real = slept ? (gap > kWakeNs ? gap - kWakeNs : 0) : gap;
    if (real <= max_) {
      limit_ = max_;
    } else {
      limit_ = limit_ / 2 < kLeastNs ? 0 : limit_ / 2;
    }
  }

 private:
  static constexpr uint64_t kWakeNs = 25'000;
  static constexpr uint64_t kLeastNs = 2'000;
  uint64_t max_;
  uint64_t limit_;
};

}  // namespace nyx
