// The local APIC by MSR: IA32_APIC_BASE with its mode changes, IA32_TSC_DEADLINE, the x2APIC registers (SDM 3A 11.12).
#include "lapic.h"
#include "lapic_regs.h"

namespace nyx {

using namespace apic;

bool Lapic::SetApicBase(uint64_t value) {
  const uint64_t old = apic_base_;
  if (value & ~(kBaseAddress | kBaseBsp | kBaseX2 | kBaseEnable)) return false;
  const bool was_on = old & kBaseEnable, was_x2 = old & kBaseX2, on = value & kBaseEnable, x2 = value & kBaseX2;
  // SDM figure 11-27: from x2APIC only to disabled; to x2APIC only from xAPIC.
  if (x2 && (!on || !was_on)) return false;
  if (was_x2 && on && !x2) return false;
  apic_base_ = value;
  base_ = value & kBaseAddress;
  xapic_ = on && !x2;
  if (was_on && !on) {
    accepts_.store(0);
    ResetRegisters();
    xapic_id_.store(id_);
  } else {
    accepts_.store((accepts_.load() & kSwEnabled) | (on ? kHwEnabled : 0) | (x2 ? kX2 : 0));
    if (x2 && !was_x2) {
      ldr_.store((id_ >> 4) << 16 | 1u << (id_ & 15));
      icr_high_ = 0;
    }
  }
  return true;
}

bool Lapic::ReadMsr(uint32_t msr, uint64_t* value) {
  if (msr == 0x1b) return *value = apic_base_, true;
  if (msr == 0x6e0) return *value = TimerMode() == 2 ? deadline_tsc_ : 0, true;
  const uint32_t r = msr - 0x800;
  if (r > 0xff || !(apic_base_ & kBaseX2)) return false;
  if (r == kIcrLow) return *value = static_cast<uint64_t>(icr_high_) << 32 | icr_low_, true;
  const bool exists = r == kId || r == kVersion || r == kTpr || r == kPpr || r == kLdr || r == kSvr ||
                      (r >= kIsr && r < kIrr + 8u) || r == kEsr || (r >= kLvt && r <= kCurrentCount) || r == kDivide;
  if (!exists) return false;
  *value = Read(r);
  return true;
}

bool Lapic::WriteMsr(uint32_t msr, uint64_t value) {
  if (msr == 0x1b) return SetApicBase(value);
  if (msr == 0x6e0) return SetDeadline(value), true;
  const uint32_t r = msr - 0x800;
  if (r > 0xff || !(apic_base_ & kBaseX2)) return false;
  if (r == kIcrLow) {
    if (value & 0xfff32000) return false;
    icr_high_ = static_cast<uint32_t>(value >> 32);
    WriteIcr(static_cast<uint32_t>(value), icr_high_);
    return true;
  }
  if (value >> 32) return false;
  const uint32_t v = static_cast<uint32_t>(value);
  if (r == kSelfIpi) {
    if (v > 0xff) return false;
    WriteIcr(0x40000 | v, 0);
    return true;
  }
  // SDM 11.12.1.3: a write to a reserved bit is #GP(0); EOI and ESR take zero only.
  if ((r == kEoi || r == kEsr) && v) return false;
  if (r == kTpr && v > 0xff) return false;
  if (r == kSvr && v & ~0x11ffu) return false;
  if (r == kDivide && v & ~11u) return false;
  if (r >= kLvt && r < kLvt + 6u && v & ~(kLvtMask[r - kLvt] | 1u << 12 | 1u << 14)) return false;
  return Write(r, v, true);
}

}  // namespace nyx
