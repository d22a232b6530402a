// Work in pieces, on as many threads as help: memory is not faster than a few of them.
#pragma once
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <thread>
#include <vector>

namespace nyx {

// Calls work(i) for each i below `count`, here and on up to three threads more. It returns when all are done.
template <class Work>
void InParallel(size_t count, const Work& work) {
  constexpr size_t kThreads = 4;
  cpu_set_t set;
  const size_t cpus = sched_getaffinity(0, sizeof set, &set) == 0 ? static_cast<size_t>(CPU_COUNT(&set)) : 1;
  std::atomic<size_t> next{0};
  const auto some = [&] {
    for (size_t i; (i = next.fetch_add(1)) < count;) work(i);
  };
  std::vector<std::thread> helpers;
  for (size_t i = 1; i < std::min({kThreads, cpus, count}); i++) helpers.emplace_back(some);
  some();
  for (std::thread& t : helpers) t.join();
}

}  // namespace nyx
