// Decimal adjustment, legacy modes only: AAA AAS AAM AAD DAA DAS (Intel SDM vol. 2A). The host's 64-bit mode has none
// of them. Where the manual leaves flags undefined, they are those of the addition or subtraction that adjusts, as on
// AMD's processors.
#include "soft/int.h"

namespace nyx::soft {
namespace {

uint32_t result_flags(uint8_t v) {
  return (v & 0x80 ? kSF : 0) | (v == 0 ? kZF : 0) | (__builtin_parity(v) ? 0 : kPF);
}
// a + b or a - b with its flags in the CPU.
template <bool kSubtract, class T>
T adjust(Cpu& c, T a, T b) {
  uint32_t f;
  if constexpr (kSubtract) asm("sub %2, %0" NYX_FLAGS_OUT : "+r"(a), "=a"(f) : "r"(b) : "cc");
  else asm("add %2, %0" NYX_FLAGS_OUT : "+r"(a), "=a"(f) : "r"(b) : "cc");
  c.flags = uint16_t(f);
  return a;
}
// Replaces AF and CF.
void set_carries(Cpu& c, bool af, bool cf) {
  c.flags = uint16_t((c.flags & ~((kAF | kCF) << 8)) | (af ? kAF << 8 : 0) | (cf ? kCF << 8 : 0));
}

template <bool kSubtract>
void ascii_adjust(Cpu& c, const Insn* i) {
  const uint16_t ax = uint16_t(c.gpr[RAX]);
  const bool carry = (ax & 0xf) > 9 || (c.flags & kAF << 8);
  const uint16_t adjusted = adjust<kSubtract, uint16_t>(c, ax, carry ? 0x106 : 0);
  set_reg<uint16_t>(c, RAX, adjusted & 0xff0f);
  set_carries(c, carry, carry);
  return next(c, i);
}

template <bool kSubtract>
void decimal_adjust(Cpu& c, const Insn* i) {
  const uint8_t al = uint8_t(c.gpr[RAX]);
  const bool cf = c.flags & kCF << 8;
  const bool low = (al & 0xf) > 9 || (c.flags & kAF << 8), high = al > 0x99 || cf;
  const uint8_t adjusted = adjust<kSubtract, uint8_t>(c, al, uint8_t((low ? 6 : 0) + (high ? 0x60 : 0)));
  set_reg<uint8_t>(c, 0, adjusted);
  set_carries(c, low, high || (kSubtract && low && al < 6));
  return next(c, i);
}

void aam(Cpu& c, const Insn* i) {
  const uint8_t base = uint8_t(i->imm), al = uint8_t(c.gpr[RAX]);
  if (base == 0) raise(c, i, kDE);
  set_reg<uint16_t>(c, RAX, uint16_t((al / base) << 8 | al % base));
  set_arith(c, result_flags(al % base));
  return next(c, i);
}
void aad(Cpu& c, const Insn* i) {
  const uint16_t ax = uint16_t(c.gpr[RAX]);
  set_reg<uint16_t>(c, RAX, adjust<false, uint8_t>(c, uint8_t(ax), uint8_t((ax >> 8) * uint8_t(i->imm))));
  return next(c, i);
}

}  // namespace

void register_decimal(OpTables& t) {
  put(t, 0, 0x27, op_one(decimal_adjust<false>, kNo64));
  put(t, 0, 0x2f, op_one(decimal_adjust<true>, kNo64));
  put(t, 0, 0x37, op_one(ascii_adjust<false>, kNo64));
  put(t, 0, 0x3f, op_one(ascii_adjust<true>, kNo64));
  put(t, 0, 0xd4, op_one(aam, kNo64, kImmUb));
  put(t, 0, 0xd5, op_one(aad, kNo64, kImmUb));
}

}  // namespace nyx::soft
