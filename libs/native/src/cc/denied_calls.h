// System calls that the jail denied (SECCOMP_RET_TRAP): they fail with EPERM, and are counted and named.
#pragma once
#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include <sys/syscall.h>

namespace nyx::denied {

struct Name {
  const char* text;
  uint32_t number;
};
inline constexpr Name kNames[] = {
#define X(name) {#name, __NR_##name},
#include "syscall_names.inc"
#undef X
};
constexpr uint32_t kNumbers = 512;

inline const char* NameOf(uint32_t number) {
  for (const Name& n : kNames)
    if (n.number == number) return n.text;
  return "unknown";
}

inline std::atomic<uint32_t> counts[kNumbers];
// Told after each; must be safe in a signal handler.
inline std::atomic<void (*)()> notify{nullptr};

// Async-signal-safe. The first of each number goes to standard error as a log record at once: the process may end now.
inline void OnSignal(int, siginfo_t* info, void* context) {
  const int saved = errno;
  auto* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const auto number = static_cast<uint32_t>(info->si_syscall);
  registers[REG_RAX] = -EPERM;
  const uint32_t slot = number < kNumbers ? number : kNumbers - 1;
  if (counts[slot].fetch_add(1, std::memory_order_relaxed) == 0) {
    char line[160] = "{\"level\":\"warn\",\"device\":\"jail\",\"message\":\"system call denied: ";
    strcat(line, NameOf(number));
    strcat(line, "\"}\n");
    if (write(2, line, strlen(line)) < 0) {
      // Nobody reads it any more.
    }
  }
  if (auto* tell = notify.load(std::memory_order_relaxed)) tell();
  errno = saved;
}

inline int Handle() {
  struct sigaction action = {};
  action.sa_sigaction = OnSignal;
  action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART;
  return sigaction(SIGSYS, &action, nullptr) == 0 ? 0 : errno;
}

}  // namespace nyx::denied
