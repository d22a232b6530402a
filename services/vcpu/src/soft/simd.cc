// Availability, the guest's MXCSR on the host, and the list of SIMD tables.
#include "soft/simd.h"

namespace nyx::soft {

void simd_unavailable(Cpu& c, const Insn* i) {
  if ((c.cr0 & kCr0EM) || !(c.cr4 & kCr4OSFXSR)) raise(c, i, kUD);
  raise(c, i, kNM);
}

void fp_load(Cpu& c) {
  c.fp_unmasked = (c.mxcsr & kMxMasks) != kMxMasks;
  _mm_setcsr(c.mxcsr | kMxMasks);
  c.fp_live = true;
}

void fp_leave(Cpu& c) {
  if (!c.fp_live) return;
  c.mxcsr |= _mm_getcsr() & kMxFlags;
  _mm_setcsr(kMxReset);
  c.fp_live = false;
}

// With unmasked exceptions the flags that one operation raises must be told from those that stood before.
void fp_unmasked_begin(Cpu& c) { _mm_setcsr((c.mxcsr | kMxMasks) & ~kMxFlags); }

void fp_unmasked_end(Cpu& c, const Insn* i) {
  uint32_t raised = _mm_getcsr() & kMxFlags;
  const uint32_t unmasked = raised & ~(c.mxcsr >> 7);
  // An unmasked pre-computation exception (IE, DE, ZE) keeps the operation from raising post-computation ones.
  if (unmasked & 7) raised &= 7;
  c.mxcsr |= raised;
  if (!unmasked) return;
  raise(c, i, c.cr4 & kCr4OSXMMEXCPT ? kXM : kUD);
}

void register_simd(OpTables& t) {
  register_mmx(t);
  register_simd_packed(t);
  register_simd_move(t);
  register_simd_convert(t);
  register_simd_imm(t);
}

}  // namespace nyx::soft
