// Registers of a KVM vCPU: CPUID, power-on state, the states in which a kernel is entered directly.
#include <sys/ioctl.h>

#include <algorithm>
#include <bit>
#include <memory>

#include "../registers.h"
#include "vcpu.h"

namespace nyx::kvm {
namespace {

constexpr unsigned kCpuidEntries = 256;
using Cpuid = List<kvm_cpuid_entry2, kCpuidEntries>;
using OneMsr = List<kvm_msr_entry, 1>;

// MSRs that a guest changes and reset must put back (KVM keeps EFER, FS and GS base in sregs).
constexpr uint32_t kMsrs[] = {
    0x10,        // TSC
    0x3b,        // TSC_ADJUST
    0x174,       0x175, 0x176,                       // SYSENTER_CS, ESP, EIP
    0x1a0,                                           // MISC_ENABLE
    0x277,                                           // PAT
    0x2ff,                                           // MTRR_DEF_TYPE
    0x6e0,                                           // TSC_DEADLINE
    0xc0000081,  0xc0000082, 0xc0000083, 0xc0000084, // STAR, LSTAR, CSTAR, FMASK
    0xc0000102,  0xc0000103,                         // KERNEL_GS_BASE, TSC_AUX
    0x11,        0x12,                               // KVM clock, old numbers
    0x4b564d00,  0x4b564d01, 0x4b564d02, 0x4b564d03, 0x4b564d04,  // KVM clock, async page fault, steal time, EOI
};

kvm_segment Code(uint16_t selector, bool long_mode) {
  kvm_segment s{};
  s.limit = 0xffffffff;
  s.selector = selector;
  s.type = 11;
  s.present = s.s = s.g = 1;
  s.l = long_mode;
  s.db = !long_mode;
  return s;
}

kvm_segment Data(uint16_t selector) {
  kvm_segment s{};
  s.limit = 0xffffffff;
  s.selector = selector;
  s.type = 3;
  s.present = s.s = s.g = s.db = 1;
  return s;
}

}  // namespace

// What KVM supports, with this vCPU's numbers: one package, one thread a core.
std::string KvmVcpu::SetCpuid(int kvm) {
  auto cpuid = std::make_unique<Cpuid>();
  cpuid->count = kCpuidEntries;
  if (auto text = Ioctl(kvm, kGetSupportedCpuid, "KVM_GET_SUPPORTED_CPUID", cpuid.get()); !text.empty()) return text;
  const unsigned cpus = context_.cpus, id = context_.index;
  const unsigned shift = cpus > 1 ? static_cast<unsigned>(std::bit_width(cpus - 1)) : 0;
  for (unsigned i = 0; i < cpuid->count; i++) {
    kvm_cpuid_entry2& e = cpuid->entries[i];
    switch (e.function) {
      case 1:
        e.ebx = (e.ebx & 0xffff) | std::min(cpus, 255u) << 16 | id << 24;
        e.ecx |= 1u << 31 | 1u << 24;  // under a hypervisor; TSC deadline, which split irqchip has
        e.ecx &= ~(1u << 3);           // MONITOR would be #UD
        e.edx = cpus > 1 ? e.edx | 1u << 28 : e.edx & ~(1u << 28);
        break;
      case 4:
        // Threads that share this cache, cores in the package.
        if (e.eax & 31) e.eax = (e.eax & 0x3fff) | (cpus > 1 ? ((1u << shift) - 1) << 26 : 0);
        break;
      case 0xb:
      case 0x1f:
        e.edx = id;
        e.eax = e.index == 0 ? 0 : shift;
        e.ebx = e.index == 0 ? 1 : cpus;
        e.ecx = e.index == 0 ? 0x100 : e.index == 1 ? 0x201 : e.index;
        if (e.index > 1) e.eax = e.ebx = 0;
        break;
      case 0xa: e.eax = e.ebx = e.ecx = e.edx = 0; break;  // no performance counters
      case 0x80000008: e.ecx = (cpus - 1) | shift << 12; break;
      case 0x8000001e: e.eax = id; e.ebx = id; e.ecx = 0; break;
    }
  }
  return Ioctl(fd_, kSetCpuid2, "KVM_SET_CPUID2", cpuid.get());
}

void KvmVcpu::SaveReset() {
  ioctl(fd_, KVM_GET_REGS, &regs_);
  ioctl(fd_, KVM_GET_SREGS, &sregs_);
  ioctl(fd_, KVM_GET_FPU, &fpu_);
  ioctl(fd_, KVM_GET_LAPIC, &lapic_);
  ioctl(fd_, KVM_GET_XCRS, &xcrs_);
  ioctl(fd_, KVM_GET_DEBUGREGS, &debug_);
  ioctl(fd_, KVM_GET_VCPU_EVENTS, &events_);
  for (const uint32_t index : kMsrs) {
    OneMsr one;
    one.count = 1;
    one.entries[0].index = index;
    if (ioctl(fd_, kGetMsrs, &one) != 1) continue;
    if (index == 0x10) one.entries[0].data = 0;
    msrs_.push_back(one.entries[0]);
  }
}

std::string KvmVcpu::Registers() {
  kvm_regs r{};
  kvm_sregs s{};
  if (ioctl(fd_, KVM_GET_REGS, &r) != 0 || ioctl(fd_, KVM_GET_SREGS, &s) != 0) return {};
  std::string text;
  AppendGeneral(&text, r.rip, r.rflags,
                {r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15});
  AppendControl(&text, s.cr0, s.cr2, s.cr3, s.cr4, s.efer);
  const struct {
    const char* name;
    const kvm_segment& segment;
  } segments[] = {{"es", s.es}, {"cs", s.cs}, {"ss", s.ss},    {"ds", s.ds},
                  {"fs", s.fs}, {"gs", s.gs}, {"ldtr", s.ldt}, {"tr", s.tr}};
  for (const auto& [name, segment] : segments) AppendSegment(&text, name, segment.selector, segment.base, segment.limit);
  Append(&text, "gdtr base %016llx limit %04x  idtr base %016llx limit %04x\n", s.gdt.base, s.gdt.limit, s.idt.base,
         s.idt.limit);
  return text;
}

void KvmVcpu::SetBootState(const machine::MachineHeader& h) {
  const bool bsp = context_.index == 0;
  kvm_mp_state state{static_cast<uint32_t>(bsp ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_UNINITIALIZED)};
  ioctl(fd_, KVM_SET_MP_STATE, &state);
  kvm_regs regs = regs_;
  kvm_sregs sregs = sregs_;
  if (bsp && h.boot_mode != machine::BootMode::kReset) {
    const bool lm = h.boot_mode == machine::BootMode::kLong64;
    regs = {};
    regs.rflags = 2;
    regs.rip = h.rip;
    regs.rsp = h.rsp;
    regs.rsi = h.rsi;
    regs.rbx = h.rbx;
    sregs.cs = Code(h.code_selector, lm);
    sregs.ds = sregs.es = sregs.ss = sregs.fs = sregs.gs = Data(h.data_selector);
    sregs.tr = {};
    sregs.tr.limit = 0x67;
    sregs.tr.type = 11;
    sregs.tr.present = 1;
    sregs.gdt.base = h.gdt_base;
    sregs.gdt.limit = static_cast<uint16_t>(h.gdt_limit);
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cr0 = lm ? 0x80000031 : 0x31;  // PG, NE, ET, PE
    sregs.cr3 = lm ? h.cr3 : 0;
    sregs.cr4 = lm ? 0x20 : 0;           // PAE
    sregs.efer = lm ? 0x500 : 0;         // LMA, LME
  }
  ioctl(fd_, KVM_SET_SREGS, &sregs);
  ioctl(fd_, KVM_SET_REGS, &regs);
  ioctl(fd_, KVM_SET_FPU, &fpu_);
  ioctl(fd_, KVM_SET_XCRS, &xcrs_);
  ioctl(fd_, KVM_SET_DEBUGREGS, &debug_);
  ioctl(fd_, KVM_SET_LAPIC, &lapic_);
  ioctl(fd_, KVM_SET_VCPU_EVENTS, &events_);
  for (const kvm_msr_entry& msr : msrs_) {
    OneMsr one;
    one.count = 1;
    one.entries[0] = msr;
    ioctl(fd_, kSetMsrs, &one);
  }
  extint_.store(false);
  rip_.store(regs.rip);
}

}  // namespace nyx::kvm
