// The KVM engine: a VM with memory slots, split irqchip and vCPUs.
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <mutex>
#include <vector>

#include "../state.h"
#include "vcpu.h"

namespace nyx {
namespace kvm {
namespace {

// Pages that Intel hosts need in guest-physical space; nothing else is there.
constexpr uint64_t kIdentityMap = 0xfeffc000;
constexpr uint64_t kTss = 0xfeffd000;
// Routes that may hold level-triggered messages: KVM reports the end of interrupt for their vectors only.
constexpr unsigned kIoapicPins = 24;

class KvmAccel : public Accel, InterruptSink {
 public:
  ~KvmAccel() override {
    vcpus_.clear();
    if (vm_ >= 0) close(vm_);
    if (kvm_ >= 0) close(kvm_);
  }

  std::string Create(const AccelConfig& config) {
    kvm_ = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm_ < 0) return std::string("/dev/kvm: ") + strerror(errno);
    if (ioctl(kvm_, KVM_GET_API_VERSION, 0) != 12) return "/dev/kvm has another API version than 12";
    constexpr struct {
      int number;
      const char* name;
    } needed[] = {{KVM_CAP_USER_MEMORY, "user memory"}, {KVM_CAP_READONLY_MEM, "read-only memory"},
                  {KVM_CAP_SPLIT_IRQCHIP, "split irqchip"}, {KVM_CAP_IMMEDIATE_EXIT, "immediate exit"},
                  {KVM_CAP_SIGNAL_MSI, "signalled MSI"}, {KVM_CAP_EXT_CPUID, "extended CPUID"}};
    for (const auto& c : needed) {
      if (ioctl(kvm_, KVM_CHECK_EXTENSION, c.number) <= 0) return std::string("this KVM lacks ") + c.name;
    }
    do {
      vm_ = ioctl(kvm_, KVM_CREATE_VM, 0);
    } while (vm_ < 0 && errno == EINTR);
    if (vm_ < 0) return std::string("KVM_CREATE_VM: ") + strerror(errno);
    // AMD hosts do not need these two.
    ioctl(vm_, KVM_SET_IDENTITY_MAP_ADDR, &kIdentityMap);
    ioctl(vm_, KVM_SET_TSS_ADDR, kTss);
    kvm_enable_cap split{};
    split.cap = KVM_CAP_SPLIT_IRQCHIP;
    split.args[0] = kIoapicPins;
    if (auto text = Ioctl(vm_, KVM_ENABLE_CAP, "split irqchip", &split); !text.empty()) return text;
    for (unsigned i = 0; i < config.memory->count(); i++) {
      const auto& r = config.memory->regions()[i];
      kvm_userspace_memory_region slot{};
      slot.slot = i;
      slot.flags = r.read_only ? KVM_MEM_READONLY : 0;
      slot.guest_phys_addr = r.gpa;
      slot.memory_size = r.size;
      slot.userspace_addr = reinterpret_cast<uint64_t>(r.host);
      if (auto text = Ioctl(vm_, KVM_SET_USER_MEMORY_REGION, "memory slot", &slot); !text.empty()) return text;
    }
    for (unsigned i = 0; i < config.cpus; i++) {
      vcpus_.push_back(std::make_unique<KvmVcpu>(config.vcpus[i]));
      if (auto text = vcpus_.back()->Create(kvm_, vm_); !text.empty()) return text;
    }
    return {};
  }

  const char* name() const override { return "kvm"; }
  uint32_t kind() const override { return machine::Accel::kKvm; }
  Vcpu& vcpu(unsigned index) override { return *vcpus_[index]; }
  InterruptSink& interrupts() override { return *this; }

  // The paravirtual clock stands still with guest time; the TSC of a paused KVM guest goes on.
  void Pause() override {
    if (paused_) return;
    paused_ = true;
    has_clock_ = ioctl(vm_, KVM_GET_CLOCK, &clock_) == 0;
  }
  void Resume() override {
    paused_ = false;
    if (!has_clock_) return;
    clock_.flags = 0;
    ioctl(vm_, KVM_SET_CLOCK, &clock_);
  }

  void Save(StateWriter* to) const override { to->Add(state::StatePart::kKvmClock, machine::kNone, clock_); }
  std::string Check(const StateReader& from) const override {
    kvm_clock_data clock;
    return from.Get(state::StatePart::kKvmClock, machine::kNone, &clock);
  }
  void Load(const StateReader& from) override { from.Get(state::StatePart::kKvmClock, machine::kNone, &clock_); }

  void Msi(uint64_t address, uint32_t data) override {
    if (address >> 20 != 0xfee) return;
    if (data & (1u << 15)) RouteLevel(address, data);
    kvm_msi msi{};
    msi.address_lo = static_cast<uint32_t>(address);
    msi.address_hi = static_cast<uint32_t>(address >> 32);
    msi.data = data;
    ioctl(vm_, KVM_SIGNAL_MSI, &msi);
  }
  void ExtInt(bool level) override { vcpus_[0]->SetExtInt(level); }
  void Nmi(unsigned cpu) override {
    if (cpu < vcpus_.size()) vcpus_[cpu]->Nmi();
  }

 private:
  // Makes KVM exit at the EOI of this vector: it watches those in the routes of the (split) IOAPIC's pins.
  void RouteLevel(uint64_t address, uint32_t data) {
    std::lock_guard lock(mutex_);
    for (unsigned i = 0; i < routes_; i++) {
      const auto& m = table_.entries[i].u.msi;
      if (m.address_lo == static_cast<uint32_t>(address) && m.data == data) return;
    }
    const unsigned at = next_++ % kIoapicPins;
    if (routes_ < kIoapicPins) routes_++;
    kvm_irq_routing_entry& e = table_.entries[at];
    e = {};
    e.gsi = at;
    e.type = KVM_IRQ_ROUTING_MSI;
    e.u.msi.address_lo = static_cast<uint32_t>(address);
    e.u.msi.data = data;
    table_.count = routes_;
    ioctl(vm_, kSetGsiRouting, &table_);
  }

  int kvm_ = -1;
  int vm_ = -1;
  std::vector<std::unique_ptr<KvmVcpu>> vcpus_;
  std::mutex mutex_;
  List<kvm_irq_routing_entry, kIoapicPins> table_;
  unsigned routes_ = 0;
  unsigned next_ = 0;
  kvm_clock_data clock_{};
  bool has_clock_ = false;
  bool paused_ = false;
};

}  // namespace
}  // namespace kvm

std::unique_ptr<Accel> make_kvm(const AccelConfig& config, std::string* error) {
  auto accel = std::make_unique<kvm::KvmAccel>();
  *error = accel->Create(config);
  if (!error->empty()) return nullptr;
  return accel;
}

}  // namespace nyx
