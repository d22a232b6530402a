// Where a vCPU's time goes: a signal after every few milliseconds of its processor time looks where it is. Costs nothing
// while nothing is looked at but the stores to Cpu::where, which are made in slow paths only.
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

class Sampler {
 public:
  ~Sampler();
  // The vCPU's thread, once; `c` and `stats` outlive it.
  void Start(Cpu& c, wire::VcpuStats& stats);

 private:
  static void OnSample(int, siginfo_t* info, void* context);
  Cpu* cpu_ = nullptr;
  wire::VcpuStats* stats_ = nullptr;
  timer_t timer_{};
  bool started_ = false;
};

}  // namespace nyx::soft
