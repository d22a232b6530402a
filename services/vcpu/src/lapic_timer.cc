// The local APIC timer (SDM 3A 11.5.4): one-shot, periodic, TSC-deadline. A POSIX timer signals the vCPU thread, and
// the handler only sets its attention word: nothing runs while the guest runs, and setting a timer is one system call.
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>

#include "lapic.h"

namespace nyx {
namespace {

// A periodic timer of fewer ns would only fill the host with signals.
constexpr uint64_t kShortestPeriodNs = 20'000;

int TimerSignal() { return SIGRTMIN + 1; }

void OnTimer(int, siginfo_t* info, void*) {
  // Only timers carry a pointer of ours; a signal sent from elsewhere does not.
  if (info->si_code != SI_TIMER) return;
  static_cast<std::atomic<uint32_t>*>(info->si_value.sival_ptr)->fetch_or(wire::Attention::kTimer);
}

}  // namespace

unsigned Lapic::TimerShift() const { return ((((divide_ & 8) >> 1) | (divide_ & 3)) + 1) & 7; }

uint32_t Lapic::CurrentCount() const {
  if (initial_count_ == 0 || TimerMode() == 2) return 0;
  const uint64_t ticks = (clock_->Now() - timer_start_) >> TimerShift();
  if (TimerMode() == 1) return initial_count_ - static_cast<uint32_t>(ticks % initial_count_);
  return ticks >= initial_count_ ? 0 : initial_count_ - static_cast<uint32_t>(ticks);
}

void Lapic::StartTimer(uint32_t initial) {
  // In TSC-deadline mode writes to the initial count are ignored.
  if (TimerMode() == 2) return;
  initial_count_ = initial;
  timer_expires_ = kNever;
  if (initial == 0) return;
  timer_start_ = clock_->Now();
  timer_expires_ = timer_start_ + (static_cast<uint64_t>(initial) << TimerShift());
  Arm(timer_expires_);
}

void Lapic::SetDeadline(uint64_t tsc) {
  // Outside TSC-deadline mode the write is ignored, and the MSR reads zero.
  if (TimerMode() != 2) return;
  deadline_tsc_ = tsc;
  timer_expires_ = kNever;
  if (tsc) RunTimer();
}

void Lapic::SetTscOffset(int64_t offset) {
  if (offset == tsc_offset_) return;
  tsc_offset_ = offset;
  if (deadline_tsc_) RunTimer();
}

void Lapic::RunTimer() {
  armed_ = kNever;
  if (TimerMode() == 2) {
    if (!deadline_tsc_) return;
    const uint64_t tsc = clock_->Tsc() + static_cast<uint64_t>(tsc_offset_);
    if (tsc >= deadline_tsc_) {
      deadline_tsc_ = 0;
      return LocalInterrupt(0);
    }
    // A deadline of years is armed a day at a time, which also keeps the arithmetic small.
    const uint64_t ahead = std::min<uint64_t>(clock_->TscToNs(deadline_tsc_ - tsc), 86'400'000'000'000u);
    return Arm(clock_->Now() + ahead);
  }
  if (timer_expires_ == kNever) return;
  const uint64_t now = clock_->Now();
  if (now < timer_expires_) return Arm(timer_expires_);
  if (TimerMode() == 1 && initial_count_) {
    // Periods that went by unseen are one interrupt, as with an IRR bit that was set already.
    const uint64_t period = std::max(static_cast<uint64_t>(initial_count_) << TimerShift(), kShortestPeriodNs);
    timer_expires_ += ((now - timer_expires_) / period + 1) * period;
    Arm(timer_expires_);
  } else {
    timer_expires_ = kNever;
  }
  LocalInterrupt(0);
}

void Lapic::Arm(uint64_t guest_ns) {
  if (clock_->virtual_time()) {
    armed_ = guest_ns;
    return;
  }
  const uint64_t host = clock_->HostNs(guest_ns);
  // Armed earlier than needed: it fires, RunTimer finds nothing due and arms again. Saves most system calls.
  if (armed_ != kNever && armed_ <= host && armed_ > MonotonicNs()) return;
  if (!has_timer_) {
    static std::once_flag once;
    std::call_once(once, [] {
      struct sigaction action = {};
      action.sa_sigaction = OnTimer;
      action.sa_flags = SA_SIGINFO;
      sigaction(TimerSignal(), &action, nullptr);
    });
    sigevent event = {};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = TimerSignal();
    event.sigev_value.sival_ptr = attention_;
    event._sigev_un._tid = static_cast<int>(syscall(SYS_gettid));
    has_timer_ = timer_create(CLOCK_MONOTONIC, &event, &posix_timer_) == 0;
    if (!has_timer_) return;
  }
  itimerspec when = {};
  when.it_value.tv_sec = static_cast<time_t>(host / 1'000'000'000u);
  when.it_value.tv_nsec = static_cast<long>(host % 1'000'000'000u);
  timer_settime(posix_timer_, TIMER_ABSTIME, &when, nullptr);
  armed_ = host;
}

}  // namespace nyx
