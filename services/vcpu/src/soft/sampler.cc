#include "soft/sampler.h"

#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "soft/block.h"

namespace nyx::soft {
namespace {

// Between two signals: half of it to three halves.
constexpr uint64_t kPeriodNs = 2'000'000;
// A signal that comes later than this did not find its thread running.
constexpr uint64_t kLateNs = 200'000;

int SampleSignal() { return SIGRTMIN + 2; }

uint64_t Now(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return uint64_t(t.tv_sec) * 1'000'000'000u + uint64_t(t.tv_nsec);
}

}  // namespace

void Sampler::OnSample(int, siginfo_t* info, void* context) {
  // Only timers carry a pointer of ours; a signal sent from elsewhere does not.
  if (info->si_code != SI_TIMER) return;
  static_cast<Sampler*>(info->si_value.sival_ptr)
      ->Sample(static_cast<uint64_t>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]));
}

void Sampler::Sample(uint64_t rip) {
  const Cpu& c = *cpu_;
  const Where where = Where(c.where);
  if (where == kAsleep || (where == kInExit && stats_->state == 3)) {
    armed_ = false;
    return;
  }
  if (Now(CLOCK_MONOTONIC) - due_ < kLateNs) {
    const uint64_t n = (Now(CLOCK_THREAD_CPUTIME_ID) - counted_) / wire::kSampleNs;
    counted_ += n * wire::kSampleNs;
    wire::VcpuStats& s = *stats_;
    const Translator* const t = c.blocks->translator();
    uint32_t& part = where == kInTranslator        ? s.in_translator
                     : where == kInMmu             ? s.in_mmu
                     : where == kInExit            ? s.in_exits
                     : t != nullptr && t->holds(rip) ? s.in_translated
                                                   : s.in_interpreter;
    part += static_cast<uint32_t>(n);
  }
  Arm();
}

void Sampler::Start(Cpu& c, wire::VcpuStats& stats) {
  if (!started_) {
    cpu_ = &c;
    stats_ = &stats;
    struct sigaction action = {};
    action.sa_sigaction = OnSample;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    sigaction(SampleSignal(), &action, nullptr);
    sigevent event = {};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SampleSignal();
    event.sigev_value.sival_ptr = this;
    event._sigev_un._tid = static_cast<int>(syscall(SYS_gettid));
    started_ = timer_create(CLOCK_MONOTONIC, &event, &timer_) == 0;
    counted_ = Now(CLOCK_THREAD_CPUTIME_ID);
  }
  Wake();
}

void Sampler::Arm() {
  if (!started_) return;
  armed_ = true;
  random_ ^= random_ << 13;
  random_ ^= random_ >> 17;
  random_ ^= random_ << 5;
  due_ = Now(CLOCK_MONOTONIC) + kPeriodNs / 2 + random_ % kPeriodNs;
  itimerspec when = {};
  when.it_value.tv_sec = static_cast<time_t>(due_ / 1'000'000'000u);
  when.it_value.tv_nsec = static_cast<long>(due_ % 1'000'000'000u);
  timer_settime(timer_, TIMER_ABSTIME, &when, nullptr);
}

Sampler::~Sampler() {
  if (started_) timer_delete(timer_);
}

}  // namespace nyx::soft
