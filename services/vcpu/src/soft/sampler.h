// Where a vCPU's time goes: a signal every few hundred microseconds up to a few milliseconds looks where its thread is. Costs nothing
// while nothing is looked at but the stores to Cpu::where, which are made in slow paths only.
//
// The moments are random ones of the clock. A timer of the thread's processor time would fire at the host kernel's ticks, and so does
// the guest's own timer: such samples see the guest's tick handler, or never see it. A signal that comes late found the thread waiting for
// a processor, and tells where that happened, not where time goes: it is not counted. Each one counted stands for the processor
// time since the last.
#pragma once
#include <signal.h>
#include <time.h>

#include <cstdint>

#include "gen/wire.h"
#include "soft/cpu.h"

namespace nyx::soft {

// While it lives the CPU is in that part of the engine. longjmp leaves it standing: the run loop sets it right.
class In {
 public:
  In(Cpu& c, Where part) : c_(c), before_(c.where) { c.where = part; }
  ~In() { c_.where = before_; }
  In(const In&) = delete;
  In& operator=(const In&) = delete;

 private:
  Cpu& c_;
  const uint8_t before_;
};

// All of it by the vCPU's thread.
class Sampler {
 public:
  ~Sampler();
  // Before each run; `c` and `stats` outlive it.
  void Start(Cpu& c, wire::VcpuStats& stats);
  // After each time that the thread may have slept, halted or waiting for a device: samples stop when they find that.
  void Wake() {
    if (!armed_) Arm();
  }

 private:
  static void OnSample(int, siginfo_t* info, void* context);
  void Sample(uint64_t rip);
  void Arm();
  Cpu* cpu_ = nullptr;
  wire::VcpuStats* stats_ = nullptr;
  timer_t timer_{};
  bool started_ = false;
  volatile bool armed_ = false;
  uint64_t due_ = 0;      // when the next signal is, ns of the monotonic clock
  uint64_t counted_ = 0;  // processor time of the thread that samples stand for so far
  uint32_t random_ = 0x9e3779b9;
};

}  // namespace nyx::soft
