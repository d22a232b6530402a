// State of a software CPU, out and in (SoftState in libs/protocol/src/machine-state.ts). The vCPU stands at a block border, as Run
// leaves it: the floating-point state is in Cpu::fx, no exception is under way.
#include "lapic.h"
#include "soft/block.h"
#include "soft/cpuid.h"
#include "soft/run.h"
#include "soft/simd.h"
#include "soft/soft.h"
#include "soft/system.h"
#include "soft/walk.h"
#include "state.h"

namespace nyx::soft {
namespace {

using state::SoftState;

// 64-bit registers that are the same on both sides.
struct Plain {
  uint64_t SoftState::* in;
  uint64_t Cpu::* cpu;
};
constexpr Plain kPlain[] = {
    {&SoftState::rip, &Cpu::rip},
    {&SoftState::cr0, &Cpu::cr0},
    {&SoftState::cr2, &Cpu::cr2},
    {&SoftState::cr3, &Cpu::cr3},
    {&SoftState::cr4, &Cpu::cr4},
    {&SoftState::efer, &Cpu::efer},
    {&SoftState::xcr0, &Cpu::xcr0},
    {&SoftState::star, &Cpu::star},
    {&SoftState::lstar, &Cpu::lstar},
    {&SoftState::cstar, &Cpu::cstar},
    {&SoftState::sfmask, &Cpu::sfmask},
    {&SoftState::kernel_gs_base, &Cpu::kernel_gs_base},
    {&SoftState::tsc_aux, &Cpu::tsc_aux},
    {&SoftState::pat, &Cpu::pat},
    {&SoftState::misc_enable, &Cpu::misc_enable},
    {&SoftState::sysenter_cs, &Cpu::sysenter_cs},
    {&SoftState::sysenter_esp, &Cpu::sysenter_esp},
    {&SoftState::sysenter_eip, &Cpu::sysenter_eip},
    {&SoftState::tsc_adjust, &Cpu::tsc_adjust},
    {&SoftState::mtrr_def_type, &Cpu::mtrr_def_type},
    {&SoftState::debugctl, &Cpu::debugctl},
    {&SoftState::x87_ip, &Cpu::x87_ip},
    {&SoftState::x87_dp, &Cpu::x87_dp},
};

// Lists of 64-bit registers.
template <size_t N>
void Copy(state::Quad (&to)[N], const uint64_t* from) {
  memcpy(to, from, sizeof to);
}
template <size_t N>
void Copy(uint64_t* to, const state::Quad (&from)[N]) {
  memcpy(to, from, sizeof from);
}

bool Canonical(uint64_t a) { return int64_t(a << 16) >> 16 == int64_t(a); }

constexpr uint64_t kRflags = kArith | kTF | kIF | kDF | kIOPL | kNT | kRF | kVM | kAC | kVIF | kVIP | kID | 2;

// What no sequence of guest instructions leads to. Host code relies on the first few (MXCSR is loaded as it is).
const char* Check(const SoftState& s) {
  if (s.mxcsr & ~kMxDefined) return "MXCSR";
  if (!(s.xcr0 & 1) || s.xcr0 & ~kXcr0Offered) return "XCR0";
  if (s.cpl > 3 || s.inhibit > kInhibitMovSs || s.nmi_blocked > 1 || s.halted > 1 || s.wait_sipi > 1) return "a flag";
  if (s.rflags & ~kRflags || !(s.rflags & 2)) return "RFLAGS";
  if (s.cr0 & ~kCr0Defined || (s.cr0 & (kCr0PG | kCr0PE)) == kCr0PG || (s.cr0 & (kCr0NW | kCr0CD)) == kCr0NW) return "CR0";
  if (s.cr4 & ~kCr4Offered) return "CR4";
  if (s.efer & ~(kEferSCE | kEferLME | kEferLMA | kEferNXE)) return "EFER";
  const bool lma = s.efer & kEferLMA;
  if (lma != (s.efer & kEferLME && s.cr0 & kCr0PG) || (lma && !(s.cr4 & kCr4PAE))) return "EFER.LMA";
  if (lma ? s.cr3 & ~kPhysMask : s.cr3 >> 32) return "CR3";
  if (lma ? !Canonical(s.rip) : s.rip >> 32) return "RIP";
  if (s.dr[6].value >> 32 || s.dr[7].value >> 32) return "DR6, DR7";
  for (const uint64_t a : {s.lstar, s.cstar, s.kernel_gs_base, s.sysenter_esp, s.sysenter_eip, s.gdtr_base, s.idtr_base, s.seg[FS].base,
                           s.seg[GS].base, s.seg[TR].base, s.seg[LDTR].base}) {
    if (!Canonical(a)) return "an address that is not canonical";
  }
  if (s.gdtr_limit > 0xffff || s.idtr_limit > 0xffff) return "a descriptor table's limit";
  return nullptr;
}

}  // namespace

void SoftVcpu::Save(StateWriter* to) const {
  const Cpu& c = *cpu_;
  SoftState s{};
  Copy(s.gpr, c.gpr);
  for (const Plain& p : kPlain) s.*p.in = c.*p.cpu;
  s.rflags = rflags(c);
  for (unsigned i = 0; i < kSegs; i++) s.seg[i] = {c.seg[i].base, c.seg[i].limit, c.seg[i].selector, c.seg[i].attr};
  s.gdtr_base = c.gdtr.base;
  s.gdtr_limit = c.gdtr.limit;
  s.idtr_base = c.idtr.base;
  s.idtr_limit = c.idtr.limit;
  Copy(s.pdpte, c.pdpte);
  Copy(s.dr, c.dr);
  Copy(s.mtrr_fixed, c.mtrr_fixed);
  Copy(s.mtrr_phys, c.mtrr_phys);
  s.tsc_offset = uint64_t(c.tsc_offset);
  s.x87_op = c.x87_op;
  s.cpl = c.cpl;
  s.inhibit = c.icount == c.inhibit_at ? c.inhibit : 0;
  s.nmi_blocked = c.nmi_blocked;
  s.halted = c.halted;
  s.wait_sipi = c.wait_sipi;
  s.mxcsr = c.mxcsr;
  s.pkru = c.pkru;
  s.pkrs = c.pkrs;
  memcpy(s.fx, c.fx.bytes, sizeof s.fx);
  to->Add(state::StatePart::kSoft, context_.index, s);
  state::LapicState apic;
  context_.lapic->Save(&apic);
  to->Add(state::StatePart::kLapic, context_.index, apic);
}

std::string SoftVcpu::Check(const StateReader& from) const {
  SoftState s;
  state::LapicState apic;
  if (auto text = from.Get(state::StatePart::kSoft, context_.index, &s); !text.empty()) return text;
  if (auto text = from.Get(state::StatePart::kLapic, context_.index, &apic); !text.empty()) return text;
  const char* wrong = soft::Check(s);
  if (!wrong) wrong = Lapic::Check(apic);
  if (!wrong) return {};
  return "machine state of vCPU " + std::to_string(context_.index) + " cannot be: " + wrong;
}

std::string SoftVcpu::Load(const StateReader& from) {
  SoftState s;
  state::LapicState apic;
  from.Get(state::StatePart::kSoft, context_.index, &s);
  from.Get(state::StatePart::kLapic, context_.index, &apic);
  Cpu& c = *cpu_;
  // Caches and what is under way end as at a reset.
  reset_cpu(c, false);
  Copy(c.gpr, s.gpr);
  for (const Plain& p : kPlain) c.*p.cpu = s.*p.in;
  set_rflags(c, s.rflags);
  for (unsigned i = 0; i < kSegs; i++) c.seg[i] = Segment{s.seg[i].base, s.seg[i].limit, s.seg[i].selector, s.seg[i].attr};
  c.gdtr = {s.gdtr_base, s.gdtr_limit};
  c.idtr = {s.idtr_base, s.idtr_limit};
  Copy(c.pdpte, s.pdpte);
  Copy(c.dr, s.dr);
  Copy(c.mtrr_fixed, s.mtrr_fixed);
  Copy(c.mtrr_phys, s.mtrr_phys);
  c.tsc_offset = int64_t(s.tsc_offset);
  c.x87_op = s.x87_op & 0x7ff;
  c.cpl = s.cpl;
  c.inhibit = s.inhibit;
  c.inhibit_at = c.icount;
  c.nmi_blocked = s.nmi_blocked;
  c.halted = s.halted;
  c.wait_sipi = s.wait_sipi;
  c.mxcsr = s.mxcsr;
  c.pkru = s.pkru;
  c.pkrs = s.pkrs;
  memcpy(c.fx.bytes, s.fx, sizeof s.fx);
  c.irq_pending = true;
  context_.lapic->Load(apic, c.tsc_offset);
  tlb_flush_all(c);
  flush_blocks(c);
  update_mode(c);
  return {};
}

}  // namespace nyx::soft
