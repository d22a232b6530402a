// Model-specific registers (Intel SDM vol. 4). Unknown ones are #GP, as guests expect when they probe.
#include "clock.h"
#include "lapic.h"
#include "soft/cpuid.h"
#include "soft/system.h"
#include "soft/walk.h"

namespace nyx::soft {

uint64_t guest_tsc(const Cpu& c) { return c.clock->Tsc() + uint64_t(c.tsc_offset); }

namespace {

enum Msr : uint32_t {
  kTsc = 0x10, kPlatformId = 0x17, kApicBase = 0x1b, kTscAdjust = 0x3b, kUcodeUpdate = 0x79, kUcodeRev = 0x8b, kMtrrCap = 0xfe,
  kSysenterCs = 0x174, kSysenterEsp = 0x175, kSysenterEip = 0x176, kMcgCap = 0x179, kMcgStatus = 0x17a,
  kMiscEnable = 0x1a0, kDebugCtl = 0x1d9, kPkrs = 0x6e1, kMtrrPhys = 0x200, kMtrrPhysEnd = 0x210, kMtrrFix64k = 0x250, kMtrrFix16k = 0x258,
  kMtrrFix4k = 0x268, kPat = 0x277, kMtrrDefType = 0x2ff, kTscDeadline = 0x6e0, kX2Apic = 0x800, kX2ApicEnd = 0x900,
  kEfer = 0xc0000080, kStar = 0xc0000081, kLstar = 0xc0000082, kCstar = 0xc0000083, kSfmask = 0xc0000084,
  kFsBase = 0xc0000100, kGsBase = 0xc0000101, kKernelGsBase = 0xc0000102, kTscAux = 0xc0000103,
};

// 8 variable ranges, fixed ranges, write combining.
constexpr uint64_t kMtrrCapValue = 0x508;
// Bits 63:32: a microcode revision; without an update facility it only has to be there.
constexpr uint64_t kUcodeValue = 1ull << 32;
// Fast strings; BTS and PEBS unavailable.
constexpr uint64_t kMiscEnableFixed = 0x1800;
// Thermal control, SpeedStep, xTPR: kept, without effect. LIMIT_CPUID and XD_DISABLE have theirs (cpuid.cc).
constexpr uint64_t kMiscEnableWritable = 1 | 1 << 3 | 1 << 16 | 1 << 18 | kMiscLimitCpuid | 1 << 23 | kMiscNoExecute;

bool canonical(uint64_t a) { return int64_t(a << 16) >> 16 == int64_t(a); }
bool memory_type(uint64_t t) { return t == 0 || t == 1 || t == 4 || t == 5 || t == 6; }
bool types_ok(uint64_t v, bool pat) {
  for (int k = 0; k < 8; k++, v >>= 8) {
    if (!memory_type(v & 0xff) && !(pat && (v & 0xff) == 7)) return false;
  }
  return true;
}

// The 11 fixed-range MTRRs in the order of Cpu::mtrr_fixed.
uint64_t* fixed_mtrr(Cpu& c, uint32_t msr) {
  if (msr == kMtrrFix64k) return &c.mtrr_fixed[0];
  if (msr == kMtrrFix16k || msr == kMtrrFix16k + 1) return &c.mtrr_fixed[1 + msr - kMtrrFix16k];
  if (msr >= kMtrrFix4k && msr < kMtrrFix4k + 8) return &c.mtrr_fixed[3 + msr - kMtrrFix4k];
  return nullptr;
}

bool write_efer(Cpu& c, uint64_t v) {
  if (v & ~(kEferSCE | kEferLME | kEferLMA | kEferNXE)) return false;
  if ((v & kEferNXE) && (c.misc_enable & kMiscNoExecute)) return false;
  v = (v & ~kEferLMA) | (c.efer & kEferLMA);
  const uint64_t changed = c.efer ^ v;
  if ((changed & kEferLME) && (c.cr0 & kCr0PG)) return false;
  c.efer = v;
  if (changed & kEferNXE) tlb_flush_all(c);
  return true;
}

void set_tsc_offset(Cpu& c, int64_t offset) {
  c.tsc_adjust += uint64_t(offset - c.tsc_offset);
  c.tsc_offset = offset;
  c.lapic->SetTscOffset(offset);
}

bool set_canonical(uint64_t& reg, uint64_t v) {
  if (!canonical(v)) return false;
  reg = v;
  return true;
}

}  // namespace

bool read_msr(Cpu& c, uint32_t msr, uint64_t* value) {
  uint64_t& v = *value;
  switch (msr) {
    case kTsc: v = guest_tsc(c); return true;
    case kPlatformId: v = 0; return true;
    case kTscAdjust: v = c.tsc_adjust; return true;
    case kUcodeRev: v = kUcodeValue; return true;
    case kMtrrCap: v = kMtrrCapValue; return true;
    case kSysenterCs: v = c.sysenter_cs; return true;
    case kSysenterEsp: v = c.sysenter_esp; return true;
    case kSysenterEip: v = c.sysenter_eip; return true;
    case kMcgCap: case kMcgStatus: v = 0; return true;  // no banks
    case kMiscEnable: v = c.misc_enable; return true;
    case kDebugCtl: v = c.debugctl; return true;
    case kPkrs: v = c.pkrs; return true;
    case kPat: v = c.pat; return true;
    case kMtrrDefType: v = c.mtrr_def_type; return true;
    case kEfer: v = c.efer; return true;
    case kStar: v = c.star; return true;
    case kLstar: v = c.lstar; return true;
    case kCstar: v = c.cstar; return true;
    case kSfmask: v = c.sfmask; return true;
    case kFsBase: v = c.seg[FS].base; return true;
    case kGsBase: v = c.seg[GS].base; return true;
    case kKernelGsBase: v = c.kernel_gs_base; return true;
    case kTscAux: v = c.tsc_aux; return true;
    case kApicBase: case kTscDeadline: return c.lapic->ReadMsr(msr, value);
    default: break;
  }
  if (msr >= kX2Apic && msr < kX2ApicEnd) return c.lapic->ReadMsr(msr, value);
  if (msr >= kMtrrPhys && msr < kMtrrPhysEnd) return v = c.mtrr_phys[msr - kMtrrPhys], true;
  if (const uint64_t* fixed = fixed_mtrr(c, msr)) return v = *fixed, true;
  return false;
}

bool write_msr(Cpu& c, uint32_t msr, uint64_t v) {
  switch (msr) {
    case kTsc: set_tsc_offset(c, int64_t(v - c.clock->Tsc())); return true;
    case kTscAdjust: set_tsc_offset(c, c.tsc_offset + int64_t(v - c.tsc_adjust)); return true;
    case kUcodeUpdate: case kUcodeRev: return true;  // nothing to update
    case kSysenterCs: c.sysenter_cs = uint32_t(v); return true;
    case kSysenterEsp: return set_canonical(c.sysenter_esp, v);
    case kSysenterEip: return set_canonical(c.sysenter_eip, v);
    case kMcgStatus: return v == 0;
    case kMiscEnable: c.misc_enable = (v & kMiscEnableWritable) | kMiscEnableFixed; return true;
    case kDebugCtl: return v == 0;
    case kPkrs:
      if (v >> 32) return false;
      set_pkrs(c, uint32_t(v));
      return true;
    case kPat:
      if (!types_ok(v, true)) return false;
      c.pat = v;
      return true;
    case kMtrrDefType:
      if ((v & ~uint64_t{0xcff}) || !memory_type(v & 0xff)) return false;
      c.mtrr_def_type = v;
      return true;
    case kEfer: return write_efer(c, v);
    case kStar: c.star = v; return true;
    case kLstar: return set_canonical(c.lstar, v);
    case kCstar: return set_canonical(c.cstar, v);
    case kSfmask: c.sfmask = uint32_t(v); return true;
    case kFsBase: return set_canonical(c.seg[FS].base, v);
    case kGsBase: return set_canonical(c.seg[GS].base, v);
    case kKernelGsBase: return set_canonical(c.kernel_gs_base, v);
    case kTscAux:
      if (v >> 32) return false;
      c.tsc_aux = v;
      return true;
    case kApicBase: case kTscDeadline: {
      const bool ok = c.lapic->WriteMsr(msr, v);
      lapic_changed(c);
      return ok;
    }
    default: break;
  }
  if (msr >= kX2Apic && msr < kX2ApicEnd) {
    const bool ok = c.lapic->WriteMsr(msr, v);
    lapic_changed(c);
    return ok;
  }
  if (msr >= kMtrrPhys && msr < kMtrrPhysEnd) {
    const uint64_t reserved = ~kPhysMask | (msr & 1 ? 0x7ff : 0xf00);
    if ((v & reserved) || (!(msr & 1) && !memory_type(v & 0xff))) return false;
    c.mtrr_phys[msr - kMtrrPhys] = v;
    return true;
  }
  if (uint64_t* fixed = fixed_mtrr(c, msr)) {
    if (!types_ok(v, false)) return false;
    *fixed = v;
    return true;
  }
  return false;
}

}  // namespace nyx::soft
