#include "soft/soft.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lapic.h"
#include "registers.h"
#include "soft/reset.h"
#include "soft/run.h"
#include "soft/simd.h"
#include "soft/system.h"
#include "soft/tables.h"
#include "soft/walk.h"

namespace nyx::soft {
namespace {

// Memory for translated code of a vCPU; 0: the interpreter alone.
size_t translate_bytes(uint32_t mode) { return mode == machine::SoftMode::kInterpret ? 0 : size_t{64} << 20; }

}  // namespace

SoftVcpu::SoftVcpu(const AccelConfig& config, VcpuContext& context, Engine& engine)
    : context_(context), cpu_(new Cpu{}), blocks_(op_tables(), 1 << 17, 3 << 19, translate_bytes(config.soft_mode)) {
  Cpu& c = *cpu_;
  c.attention = context.attention;
  c.bus = context.bus;
  c.lapic = context.lapic;
  c.clock = config.clock;
  c.memory = config.memory;
  c.context = &context;
  c.pacer = context.pacer;
  if (c.pacer) c.deadline = 0;
  c.index = context.index;
  c.engine = &engine;
  blocks_.Attach(c);
  c.hot_count = kHotCount;
  if (config.soft_mode == machine::SoftMode::kLockstep && config.cpus == 1 && blocks_.translator()) {
    lockstep_ = std::make_unique<Lockstep>(c);
    c.lockstep = lockstep_.get();
  }
  c.delivering = -1;
  for (Tlb& t : c.tlbs) {
    for (TlbEntry& e : t.entries) e = {kTlbInvalid, kTlbInvalid, 0};
    for (CodeEntry& e : t.code) e = {kTlbInvalid, 0};
  }
  engine.peers[c.index].cpu = &c;
  reset_cpu(c, false);
}

RunResult SoftVcpu::Run() {
  Cpu& c = *cpu_;
  c.sampler = &sampler_;
  sampler_.Start(c, *context_.stats);
  unpark(c);
  context_.stats->state = c.halted ? 2 : c.wait_sipi ? 0 : 1;
  run(c);
  c.where = kAsleep;
  fp_leave(c);
  x87_spill(c);
  park(c);
  return c.shutdown ? RunResult::kTripleFault : RunResult::kStopped;
}

// The bits are set; a CPU in guest code sees them at its next block border. One that sleeps must be woken.
void SoftVcpu::Kick() { syscall(SYS_futex, context_.attention, FUTEX_WAKE, 1, nullptr, nullptr, 0); }

void SoftVcpu::SetBootState(const machine::MachineHeader& header) {
  Cpu& c = *cpu_;
  boot_state(c, header, context_.index == 0);
  context_.stats->state = 0;
}

uint64_t SoftVcpu::rip() const { return cpu_->code64() ? cpu_->rip : cpu_->seg[CS].base + cpu_->rip; }

std::string SoftVcpu::Registers() {
  const Cpu& c = *cpu_;
  std::string text;
  uint64_t gpr[16];
  for (unsigned i = 0; i < 16; i++) gpr[i] = c.gpr[i];
  AppendGeneral(&text, c.rip, rflags(c), gpr);
  AppendControl(&text, c.cr0, c.cr2, c.cr3, c.cr4, c.efer);
  static constexpr const char* kNames[] = {"es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"};
  for (unsigned i = 0; i < kSegs; i++) {
    AppendSegment(&text, kNames[i], c.seg[i].selector, c.seg[i].base, c.seg[i].limit);
  }
  Append(&text, "gdtr base %016lx limit %04x  idtr base %016lx limit %04x\n", c.gdtr.base, c.gdtr.limit, c.idtr.base,
         c.idtr.limit);
  Append(&text, "cpl %u%s%s%s\n", c.cpl, c.halted ? ", halted" : "", c.wait_sipi ? ", waits for SIPI" : "",
         c.shutdown ? ", shut down" : "");
  return text;
}

SoftAccel::SoftAccel(const AccelConfig& config)
    : apics_(config.apics), engine_(*config.memory, config.vcpus[0], config.cpus, config.saved) {
  for (unsigned k = 0; k < config.cpus; k++) {
    vcpus_.push_back(std::make_unique<SoftVcpu>(config, config.vcpus[k], engine_));
  }
}

void SoftAccel::ProtectRam() {
  for (auto& v : vcpus_) tlb_protect(v->cpu());
}

InterruptSink& SoftAccel::interrupts() { return *apics_; }

}  // namespace nyx::soft

namespace nyx {

std::unique_ptr<Accel> make_soft(const AccelConfig& config, std::string* error) {
  if (!config.apics) {
    *error = "the software CPU needs local APICs";
    return nullptr;
  }
  return std::make_unique<soft::SoftAccel>(config);
}

}  // namespace nyx
