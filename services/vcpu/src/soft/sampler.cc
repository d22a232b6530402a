#include "soft/sampler.h"

#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "soft/block.h"

namespace nyx::soft {
namespace {
int SampleSignal() { return SIGRTMIN + 2; }
}  // namespace

void Sampler::OnSample(int, siginfo_t* info, void* context) {
  // Only timers carry a pointer of ours; a signal sent from elsewhere does not.
  if (info->si_code != SI_TIMER) return;
  auto* const self = static_cast<Sampler*>(info->si_value.sival_ptr);
  const Cpu& c = *self->cpu_;
  wire::VcpuStats& s = *self->stats_;
  const uint32_t n = 1 + static_cast<uint32_t>(info->si_overrun);
  const auto rip = static_cast<uint64_t>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
  switch (c.where) {
    case kInTranslator: s.in_translator += n; return;
    case kInMmu: s.in_mmu += n; return;
    case kInExit: s.in_exits += n; return;
    default: break;
  }
  const Translator* const t = c.blocks->translator();
  (t && t->holds(rip) ? s.in_translated : s.in_interpreter) += n;
}

void Sampler::Start(Cpu& c, wire::VcpuStats& stats) {
  if (started_) return;
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
  started_ = timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer_) == 0;
  if (!started_) return;
  itimerspec when = {};
  when.it_value.tv_nsec = when.it_interval.tv_nsec = wire::kSampleNs;
  timer_settime(timer_, 0, &when, nullptr);
}

Sampler::~Sampler() {
  if (started_) timer_delete(timer_);
}

}  // namespace nyx::soft
