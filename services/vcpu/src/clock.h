// Guest time. The VM page holds it for all processes; this class is the only writer (ARCHITECTURE.md,
// "Guest time"). The guest TSC runs with it: both stand still while the VM is paused.
#pragma once
#include <time.h>
#include <x86intrin.h>

#include <atomic>
#include <cstdint>

#include "gen/wire.h"

namespace nyx {

inline uint64_t MonotonicNs() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(t.tv_nsec);
}

class Clock {
 public:
  // `page` outlives the clock. Guest time stands still at 0 until Resume(). wall_clock 0: taken from the host.
  // Virtual time: it always stands still, but for Advance, and the TSC counts its nanoseconds.
  Clock(wire::VmPage* page, uint64_t wall_clock, bool virtual_time = false);

  // Called as the process starts: measuring the TSC takes 10 ms, which then pass beside other work.
  static void BeginMeasuring();

  // Guest nanoseconds.
  uint64_t Now() const {
    return paused_.load(std::memory_order_acquire) ? paused_at_.load(std::memory_order_relaxed)
                                                   : MonotonicNs() - offset_.load(std::memory_order_relaxed);
  }
  // CLOCK_MONOTONIC nanoseconds at which Now() will be `guest_ns`, if nobody pauses.
  uint64_t HostNs(uint64_t guest_ns) const { return guest_ns + offset_.load(std::memory_order_relaxed); }

  // Guest TSC of a vCPU that never wrote it (an engine adds the guest's IA32_TSC_ADJUST). Call it only while
  // the vCPU may run.
  uint64_t Tsc() const {
    if (!host_tsc_) return NsToTsc(Now());
    return __rdtsc() - tsc_base_.load(std::memory_order_relaxed);
  }
  uint32_t tsc_khz() const { return tsc_khz_; }
  uint64_t NsToTsc(uint64_t ns) const { return static_cast<uint64_t>(static_cast<unsigned __int128>(ns) * tsc_khz_ / 1'000'000u); }
  uint64_t TscToNs(uint64_t tsc) const { return static_cast<uint64_t>(static_cast<unsigned __int128>(tsc) * 1'000'000u / tsc_khz_); }

  void Pause();
  void Resume();

  // While paused: guest ns and TSC, and another time to go on from.
  uint64_t paused_ns() const { return paused_at_.load(); }
  uint64_t paused_tsc() const { return host_tsc_ ? tsc_paused_at_ : NsToTsc(paused_at_.load()); }
  void Load(uint64_t guest_ns, uint64_t guest_tsc);

  bool virtual_time() const { return virtual_; }
  // Virtual time is `guest_ns` now, if that is later than it was.
  void Advance(uint64_t guest_ns);

 private:
  wire::VmPage* page_;
  // The process's own copies: what others could write in the page is never read back.
  std::atomic<bool> paused_{true};
  std::atomic<uint64_t> paused_at_{0};
  std::atomic<uint64_t> offset_{0};
  std::atomic<uint64_t> tsc_base_{0};
  uint64_t tsc_paused_at_ = 0;
  uint32_t tsc_khz_ = 0;
  // The host TSC is invariant and the same on all CPUs; else the guest TSC is made from guest ns.
  bool host_tsc_ = false;
  bool virtual_ = false;
};

}  // namespace nyx
