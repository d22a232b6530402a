// Decimal adjustment, legacy modes only: AAA AAS AAM AAD DAA DAS (Intel SDM vol. 2A). The host's 64-bit mode has none
// of them, so these are computed. Where the manual leaves flags undefined, they are what AMD's and Intel's processors
// give: SF, ZF and PF of AL, OF of the addition or subtraction to AL, or cleared.
#include "soft/int.h"

namespace nyx::soft {
namespace {

uint32_t arith(const Cpu& c) { return rflags(c) & kArith; }

uint32_t result_flags(uint8_t v) {
  return (v & 0x80 ? kSF : 0) | (v == 0 ? kZF : 0) | (__builtin_parity(v) ? 0 : kPF);
}

template <bool kSubtract>
void ascii_adjust(Cpu& c, const Insn* i) {
  uint16_t ax = uint16_t(c.gpr[RAX]);
  uint32_t f = 0;
  if ((ax & 0xf) > 9 || (arith(c) & kAF)) {
    ax = uint16_t(kSubtract ? ax - 0x106 : ax + 0x106);
    f = kAF | kCF;
  }
  ax &= 0xff0f;
  set_reg<uint16_t>(c, RAX, ax);
  set_arith(c, f | result_flags(uint8_t(ax)));
  return next(c, i);
}

template <bool kSubtract>
void decimal_adjust(Cpu& c, const Insn* i) {
  const uint8_t old = uint8_t(c.gpr[RAX]);
  const uint32_t in = arith(c);
  uint8_t al = old;
  uint32_t f = 0;
  if ((al & 0xf) > 9 || (in & kAF)) {
    f |= kAF;
    if ((in & kCF) || (kSubtract && old < 6)) f |= kCF;
    al = uint8_t(kSubtract ? al - 6 : al + 6);
  }
  if (old > 0x99 || (in & kCF)) {
    f |= kCF;
    al = uint8_t(kSubtract ? al - 0x60 : al + 0x60);
  }
  set_reg<uint8_t>(c, 0, al);
  set_arith(c, f | result_flags(al));
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
  const uint8_t al = uint8_t((ax & 0xff) + (ax >> 8) * uint8_t(i->imm));
  set_reg<uint16_t>(c, RAX, al);
  set_arith(c, result_flags(al));
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
