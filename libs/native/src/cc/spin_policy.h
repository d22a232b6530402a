// How long to spin before going to sleep. Spinning pays when work comes sooner than a sleep and a wake-up would
// take; so the limit follows the gaps seen lately, and is zero when gaps are long.
#pragma once
#include <algorithm>
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
      // Twice the gap covers its jitter. Up at once, down slowly: a missed spin costs a wake-up of kWakeNs.
      const uint64_t wanted = std::min(max_, std::max<uint64_t>(2 * real, kLeastNs));
      limit_ = wanted > limit_ ? wanted : limit_ - (limit_ - wanted) / 8;
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
