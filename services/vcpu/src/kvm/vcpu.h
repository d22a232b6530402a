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

// KVM's lists (kvm_cpuid2, kvm_msrs, kvm_irq_routing): 8 bytes of head, then entries. linux/kvm.h declares them so
// that C++ gives them another size than C, and with it the wrong ioctl numbers: hence these.
template <typename Entry, unsigned N>
struct List {
  uint32_t count = 0;
  uint32_t zero = 0;
  Entry entries[N] = {};
};
static_assert(sizeof(List<kvm_cpuid_entry2, 1>) == 8 + sizeof(kvm_cpuid_entry2));
inline constexpr unsigned long kGetSupportedCpuid = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x05, 8);
inline constexpr unsigned long kSetCpuid2 = _IOC(_IOC_WRITE, KVMIO, 0x90, 8);
inline constexpr unsigned long kGetMsrs = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x88, 8);
inline constexpr unsigned long kSetMsrs = _IOC(_IOC_WRITE, KVMIO, 0x89, 8);
inline constexpr unsigned long kSetGsiRouting = _IOC(_IOC_WRITE, KVMIO, 0x6a, 8);

class KvmVcpu : public Vcpu {
 public:
  explicit KvmVcpu(const VcpuContext& context) : context_(context) {}
  ~KvmVcpu() override;
  // Empty, or why it cannot be made.
  std::string Create(int kvm, int vm);

  RunResult Run() override;
  void Kick() override;
  void SetBootState(const machine::MachineHeader& header) override;
  std::string Registers() override;
  void Save(StateWriter* to) const override;
  std::string Check(const StateReader& from) const override;
  std::string Load(const StateReader& from) override;
  uint64_t rip() const override { return rip_.load(std::memory_order_relaxed); }

  // Any thread: the PIC's output, and an NMI.
  void SetExtInt(bool level);
  void Nmi();

 private:
  std::string SetCpuid(int kvm);
  void SaveReset();
  void ListMsrs(int kvm, int vm);
  void Access();
  void Finish();
  void Port();
  void Mmio();
  RunResult Fail(uint32_t fault, ExitCode code, std::string text);
  void UpdateRip();
  void Publish();
  std::string LastInstruction();

  const VcpuContext context_;
  int fd_ = -1;
  kvm_run* run_ = nullptr;
  size_t run_bytes_ = 0;
  bool unfinished_ = false;  // an access whose answer KVM has not taken yet
  std::atomic<bool> extint_{false};
  std::atomic<pid_t> thread_{0};  // that runs it
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
  // For Save: all that KVM has, with TSC first and the TSC deadline last; 0: this KVM lacks the structure.
  std::vector<uint32_t> all_msrs_;
  size_t xsave_bytes_ = 0;
  bool sregs2_ = false;
};

}  // namespace nyx::kvm
