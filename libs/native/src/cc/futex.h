// Futex on memory shared between processes.
#pragma once
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <ctime>

namespace nyx {

inline long FutexWake(void* word, int count) {
  return syscall(SYS_futex, word, FUTEX_WAKE, count, nullptr, nullptr, 0);
}

// 0 or -1 with errno (EAGAIN, EINTR, ETIMEDOUT). Infinity waits for ever.
inline long FutexWait(void* word, uint32_t expected, double timeout_ns) {
  timespec time = {};
  if (std::isfinite(timeout_ns)) {
    time.tv_sec = static_cast<time_t>(timeout_ns / 1e9);
    time.tv_nsec = static_cast<long>(timeout_ns - static_cast<double>(time.tv_sec) * 1e9);
  }
  return syscall(SYS_futex, word, FUTEX_WAIT, expected, std::isfinite(timeout_ns) ? &time : nullptr, nullptr, 0);
}

inline uint64_t MonotonicNs() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(t.tv_nsec);
}

}  // namespace nyx
