// State of a KVM vCPU, out and in: the kernel's own structures, a section each (libs/protocol/src/machine-state.ts).
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include <algorithm>

#include "../state.h"
#include "vcpu.h"

namespace nyx::kvm {
namespace {

using state::StatePart;

constexpr uint32_t kTsc = 0x10, kTscDeadline = 0x6e0;
constexpr unsigned kMostMsrs = 512;
constexpr unsigned long kGetMsrIndexList = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x02, 4);
using OneMsr = List<kvm_msr_entry, 1>;

// Structures of fixed size, in the order in which they are set: MSRs and the local APIC go between `before` and `after`.
struct Part {
  uint32_t part;
  size_t bytes;
  unsigned long get, set;
  const char* name;
};
constexpr Part kBefore[] = {
    {StatePart::kKvmSregs2, sizeof(kvm_sregs2), KVM_GET_SREGS2, KVM_SET_SREGS2, "KVM_SET_SREGS2"},
    {StatePart::kKvmRegs, sizeof(kvm_regs), KVM_GET_REGS, KVM_SET_REGS, "KVM_SET_REGS"},
    {StatePart::kKvmXcrs, sizeof(kvm_xcrs), KVM_GET_XCRS, KVM_SET_XCRS, "KVM_SET_XCRS"},
    {StatePart::kKvmDebugregs, sizeof(kvm_debugregs), KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, "KVM_SET_DEBUGREGS"},
};
constexpr Part kAfter[] = {
    {StatePart::kKvmLapic, sizeof(kvm_lapic_state), KVM_GET_LAPIC, KVM_SET_LAPIC, "KVM_SET_LAPIC"},
    {StatePart::kKvmEvents, sizeof(kvm_vcpu_events), KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, "KVM_SET_VCPU_EVENTS"},
    {StatePart::kKvmMpState, sizeof(kvm_mp_state), KVM_GET_MP_STATE, KVM_SET_MP_STATE, "KVM_SET_MP_STATE"},
};

// What was asked for, or nothing where KVM has none: Load then has nothing to set.
void Get(int fd, const Part& p, unsigned cpu, StateWriter* to) {
  alignas(64) uint8_t bytes[4096] = {};
  static_assert(sizeof(kvm_lapic_state) <= sizeof bytes && sizeof(kvm_sregs2) <= sizeof bytes && sizeof(kvm_xcrs) <= sizeof bytes);
  const bool had = ioctl(fd, p.get, bytes) >= 0;
  to->Add(p.part, cpu, bytes, had ? p.bytes : 0);
}

std::string CheckPart(const Part& p, unsigned cpu, const StateReader& from) {
  const auto* s = from.Find(p.part, cpu);
  return s && (s->bytes == p.bytes || s->bytes == 0) ? "" : StateReader::Wrong(p.part, cpu, s, p.bytes);
}

std::string Set(int fd, const Part& p, unsigned cpu, const StateReader& from) {
  const auto* s = from.Find(p.part, cpu);
  if (s->bytes == 0) return {};
  alignas(64) uint8_t bytes[4096];
  memcpy(bytes, s->data, s->bytes);
  return Ioctl(fd, p.set, p.name, bytes);
}

bool GetMsr(int fd, uint32_t index, uint64_t* value) {
  OneMsr one;
  one.count = 1;
  one.entries[0].index = index;
  if (ioctl(fd, kGetMsrs, &one) != 1) return false;
  *value = one.entries[0].data;
  return true;
}

// One that cannot be set is no harm while it has the value already.
bool SetMsr(int fd, const kvm_msr_entry& msr) {
  OneMsr one;
  one.count = 1;
  one.entries[0] = msr;
  uint64_t now;
  return ioctl(fd, kSetMsrs, &one) == 1 || (GetMsr(fd, msr.index, &now) && now == msr.data);
}

}  // namespace

void KvmVcpu::ListMsrs(int kvm, int vm) {
  struct {
    uint32_t count = kMostMsrs;
    uint32_t indices[kMostMsrs];
  } list;
  if (ioctl(kvm, kGetMsrIndexList, &list) != 0) list.count = 0;
  all_msrs_ = {kTsc};
  for (unsigned i = 0; i < std::min(list.count, kMostMsrs); i++) {
    uint64_t value;
    const uint32_t index = list.indices[i];
    if (index != kTsc && index != kTscDeadline && GetMsr(fd_, index, &value)) all_msrs_.push_back(index);
  }
  all_msrs_.push_back(kTscDeadline);
  const int xsave = ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
  xsave_bytes_ = xsave > static_cast<int>(sizeof(kvm_xsave)) ? static_cast<size_t>(xsave) : sizeof(kvm_xsave);
  sregs2_ = ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_SREGS2) > 0;
}

void KvmVcpu::Save(StateWriter* to) const {
  const unsigned cpu = context_.index;
  for (const Part& p : kBefore) Get(fd_, p, cpu, to);
  std::vector<uint8_t> xsave(xsave_bytes_);
  const bool large = xsave_bytes_ > sizeof(kvm_xsave);
  const bool had = ioctl(fd_, large ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, xsave.data()) >= 0;
  to->Add(StatePart::kKvmXsave, cpu, xsave.data(), had ? xsave.size() : 0);
  std::vector<kvm_msr_entry> msrs;
  for (const uint32_t index : all_msrs_) {
    kvm_msr_entry e{};
    e.index = index;
    uint64_t value;
    if (!GetMsr(fd_, index, &value)) continue;
    e.data = value;
    msrs.push_back(e);
  }
  to->Add(StatePart::kKvmMsrs, cpu, msrs.data(), msrs.size() * sizeof msrs[0]);
  for (const Part& p : kAfter) Get(fd_, p, cpu, to);
  to->Add(StatePart::kKvmExtint, cpu, static_cast<uint32_t>(extint_.load()));
}

std::string KvmVcpu::Check(const StateReader& from) const {
  const unsigned cpu = context_.index;
  if (!sregs2_) return "this KVM lacks KVM_SET_SREGS2";
  for (const Part& p : kBefore) {
    if (auto text = CheckPart(p, cpu, from); !text.empty()) return text;
  }
  for (const Part& p : kAfter) {
    if (auto text = CheckPart(p, cpu, from); !text.empty()) return text;
  }
  const auto* xsave = from.Find(StatePart::kKvmXsave, cpu);
  if (!xsave || (xsave->bytes != xsave_bytes_ && xsave->bytes != 0)) {
    return StateReader::Wrong(StatePart::kKvmXsave, cpu, xsave, xsave_bytes_);
  }
  const auto* msrs = from.Find(StatePart::kKvmMsrs, cpu);
  if (!msrs || msrs->bytes % sizeof(kvm_msr_entry) || msrs->bytes > kMostMsrs * sizeof(kvm_msr_entry)) {
    return StateReader::Wrong(StatePart::kKvmMsrs, cpu, msrs, all_msrs_.size() * sizeof(kvm_msr_entry));
  }
  uint32_t extint;
  return from.Get(StatePart::kKvmExtint, cpu, &extint);
}

std::string KvmVcpu::Load(const StateReader& from) {
  const unsigned cpu = context_.index;
  // A vCPU that waits for its start-up takes no registers in some kernels.
  kvm_mp_state runs{KVM_MP_STATE_RUNNABLE};
  ioctl(fd_, KVM_SET_MP_STATE, &runs);
  for (const Part& p : kBefore) {
    if (auto text = Set(fd_, p, cpu, from); !text.empty()) return text;
  }
  const auto* xsave = from.Find(StatePart::kKvmXsave, cpu);
  if (xsave->bytes) {
    std::vector<uint8_t> bytes(std::max(xsave_bytes_, sizeof(kvm_xsave)));
    memcpy(bytes.data(), xsave->data, xsave->bytes);
    if (auto text = Ioctl(fd_, KVM_SET_XSAVE, "KVM_SET_XSAVE", bytes.data()); !text.empty()) return text;
  }
  const auto* msrs = from.Find(StatePart::kKvmMsrs, cpu);
  std::vector<kvm_msr_entry> entries(msrs->bytes / sizeof(kvm_msr_entry));
  if (!entries.empty()) memcpy(entries.data(), msrs->data, msrs->bytes);
  const auto set = [&](bool deadline) -> std::string {
    for (const kvm_msr_entry& e : entries) {
      if ((e.index == kTscDeadline) != deadline || SetMsr(fd_, e)) continue;
      return "KVM_SET_MSRS: MSR " + std::to_string(e.index) + " of vCPU " + std::to_string(cpu);
    }
    return {};
  };
  if (auto text = set(false); !text.empty()) return text;
  for (const Part& p : kAfter) {
    if (auto text = Set(fd_, p, cpu, from); !text.empty()) return text;
  }
  // The local APIC's timer mode must be known before the deadline.
  if (auto text = set(true); !text.empty()) return text;
  uint32_t extint = 0;
  from.Get(StatePart::kKvmExtint, cpu, &extint);
  extint_.store(extint != 0);
  unfinished_ = false;
  context_.attention->fetch_or(wire::Attention::kInterrupt);
  UpdateRip();
  return {};
}

}  // namespace nyx::kvm
