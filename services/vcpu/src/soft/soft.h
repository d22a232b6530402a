// The soft engine behind accel.h.
#pragma once
#include <memory>
#include <vector>

#include "accel.h"
#include "soft/block.h"
#include "soft/coherence.h"
#include "soft/cpu.h"
#include "soft/lockstep.h"
#include "soft/sampler.h"

namespace nyx::soft {

class SoftVcpu : public Vcpu {
 public:
  SoftVcpu(const AccelConfig& config, VcpuContext& context, Engine& engine);
  RunResult Run() override;
  void Kick() override;
  void SetBootState(const machine::MachineHeader& header) override;
  std::string Registers() override;
  void Save(StateWriter* to) const override;
  std::string Check(const StateReader& from) const override;
  std::string Load(const StateReader& from) override;
  uint64_t rip() const override;
  Cpu& cpu() { return *cpu_; }

 private:
  VcpuContext& context_;
  std::unique_ptr<Cpu> cpu_;
  BlockCache blocks_;
  std::unique_ptr<Lockstep> lockstep_;
  Sampler sampler_;
};

class SoftAccel : public Accel {
 public:
  explicit SoftAccel(const AccelConfig& config);
  const char* name() const override { return "soft"; }
  uint32_t kind() const override { return machine::Accel::kSoft; }
  Vcpu& vcpu(unsigned index) override { return *vcpus_[index]; }
  InterruptSink& interrupts() override;
  void ProtectRam() override;

 private:
  ApicBus* apics_;
  Engine engine_;
  std::vector<std::unique_ptr<SoftVcpu>> vcpus_;
};

}  // namespace nyx::soft
