#include "clock.h"

#include <cpuid.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace nyx {
namespace {

// True when /sys says that the kernel itself keeps time by the TSC, or CPUID that it is invariant.
bool InvariantTsc() {
  unsigned a, b, c, d;
  if (__get_cpuid(0x80000007, &a, &b, &c, &d) && (d & (1u << 8))) return true;
  char name[16] = {};
  FILE* f = fopen("/sys/devices/system/clocksource/clocksource0/current_clocksource", "re");
  if (!f) return false;
  const bool read = fgets(name, sizeof name, f) != nullptr;
  fclose(f);
  return read && strncmp(name, "tsc", 3) == 0;
}

// One pair of readings, the TSC within the shortest of a few tries.
void Pair(uint64_t* ns, uint64_t* tsc) {
  uint64_t best = ~uint64_t{0};
  for (int i = 0; i < 8; i++) {
    const uint64_t t0 = __rdtsc();
    const uint64_t n = MonotonicNs();
    const uint64_t t1 = __rdtsc();
    if (t1 - t0 < best) {
      best = t1 - t0;
      *ns = n;
      *tsc = t0 + (t1 - t0) / 2;
    }
  }
}

constexpr uint64_t kMeasureNs = 10'000'000;

// Where the measurement of the TSC begins.
struct Begin {
  uint64_t ns = 0, tsc = 0;
  Begin() { Pair(&ns, &tsc); }
};

// As the process starts: when the machine is described, most of the time to measure has passed already.
const Begin& ProcessBegin() {
  static const Begin begin;
  return begin;
}

// kHz against CLOCK_MONOTONIC over at least 10 ms (error below 20 ppm); CPUID 15H where the processor tells it.
uint32_t MeasureTscKhz() {
  unsigned a, b, c, d;
  if (__get_cpuid_max(0, nullptr) >= 0x15) {
    __cpuid_count(0x15, 0, a, b, c, d);
    if (a && b && c) return static_cast<uint32_t>(static_cast<uint64_t>(c) * b / a / 1000);
  }
  const Begin& begin = ProcessBegin();
  const uint64_t passed = MonotonicNs() - begin.ns;
  if (passed < kMeasureNs) {
    const timespec wait{0, static_cast<long>(kMeasureNs - passed)};
    nanosleep(&wait, nullptr);
  }
  const Begin end;
  return static_cast<uint32_t>(static_cast<unsigned __int128>(end.tsc - begin.tsc) * 1'000'000u / std::max<uint64_t>(end.ns - begin.ns, 1));
}

}  // namespace

void Clock::BeginMeasuring() { ProcessBegin(); }

Clock::Clock(wire::VmPage* page, uint64_t wall_clock, bool virtual_time) : page_(page), virtual_(virtual_time) {
  host_tsc_ = !virtual_ && InvariantTsc();
  tsc_khz_ = virtual_ ? 1'000'000 : MeasureTscKhz();
  if (tsc_khz_ == 0) tsc_khz_ = 1'000'000;
  page_->tsc_khz = tsc_khz_;
  page_->wall_clock = wall_clock ? wall_clock : static_cast<uint64_t>(time(nullptr));
  page_->paused_at = 0;
  page_->virtual_time = virtual_;
  page_->clock_offset = MonotonicNs();
  offset_.store(page_->clock_offset, std::memory_order_relaxed);
  std::atomic_ref(page_->paused).store(1, std::memory_order_release);
}

void Clock::Pause() {
  if (paused_.load() || virtual_) return;
  const uint64_t now = Now();
  tsc_paused_at_ = host_tsc_ ? __rdtsc() - tsc_base_.load() : 0;
  paused_at_.store(now);
  paused_.store(true, std::memory_order_release);
  page_->paused_at = now;
  std::atomic_ref(page_->paused).store(1, std::memory_order_release);
}

void Clock::Advance(uint64_t guest_ns) {
  if (guest_ns <= paused_at_.load(std::memory_order_relaxed)) return;
  paused_at_.store(guest_ns, std::memory_order_relaxed);
  std::atomic_ref(page_->paused_at).store(guest_ns, std::memory_order_release);
}

void Clock::Load(uint64_t guest_ns, uint64_t guest_tsc) {
  tsc_paused_at_ = guest_tsc;
  paused_at_.store(guest_ns);
  std::atomic_ref(page_->paused_at).store(guest_ns, std::memory_order_release);
}

void Clock::Resume() {
  if (!paused_.load() || virtual_) return;
  const uint64_t offset = MonotonicNs() - paused_at_.load();
  if (host_tsc_) tsc_base_.store(__rdtsc() - tsc_paused_at_);
  offset_.store(offset);
  paused_.store(false, std::memory_order_release);
  std::atomic_ref(page_->clock_offset).store(offset, std::memory_order_release);
  std::atomic_ref(page_->paused).store(0, std::memory_order_release);
}

}  // namespace nyx
