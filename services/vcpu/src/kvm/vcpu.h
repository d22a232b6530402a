// A vCPU under KVM with the local APIC in the kernel and PIC, IOAPIC outside ("split irqchip").
#pragma once
#include <linux/kvm.h>

#include <atomic>
#include <vector>

#include "../accel.h"
#include "../exits.h"

namespace nyx::kvm {

// ioctl that says what failed: empty when it worked.
std::string Ioctl(int fd, unsigned long request, const char* name, const void* argument);

// A KVM structure that ends in a flexible array, with room for N entries.
template <typename Head, typename Entry, unsigned N>
struct Flexible {
  alignas(8) uint8_t bytes[sizeof(Head) + N * sizeof(Entry)] = {};
  Head& head() { return *reinterpret_cast<Head*>(bytes); }
  Entry& entry(unsigned i) { return reinterpret_cast<Entry*>(bytes + sizeof(Head))[i]; }
};

class KvmVcpu : public Vcpu {
 public:
  explicit KvmVcpu(const VcpuContext& context) : context_(context) {}
  ~KvmVcpu() override;
  // Empty, or why it cannot be made.
  std::string Create(int kvm, int vm);

  RunResult Run() override;
  void Kick() override;
  void SetBootState(const machine::MachineHeader& header) override;
  uint64_t rip() const override { return rip_.load(std::memory_order_relaxed); }

  // Any thread: the PIC's output, and an NMI.
  void SetExtInt(bool level);
  void Nmi();

 private:
  std::string SetCpuid(int kvm);
  void SaveReset();
  void Exit();
  void Port();
  void Mmio();
  RunResult Fail(ExitCode code, std::string text);
  void UpdateRip();
  std::string LastInstruction();

  const VcpuContext context_;
  int fd_ = -1;
  kvm_run* run_ = nullptr;
  size_t run_bytes_ = 0;
  std::atomic<bool> extint_{false};
  std::atomic<uint64_t> rip_{0};

  // State directly after creation: what reset restores.
  kvm_regs regs_{};
  kvm_sregs sregs_{};
  kvm_fpu fpu_{};
  kvm_lapic_state lapic_{};
  kvm_xcrs xcrs_{};
  kvm_debugregs debug_{};
  kvm_vcpu_events events_{};
  std::vector<kvm_msr_entry> msrs_;
};

}  // namespace nyx::kvm
