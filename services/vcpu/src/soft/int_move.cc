// MOV, MOVZX MOVSX MOVSXD, LEA, CMOVcc SETcc, BSWAP MOVBE XLAT, flag instructions, and those that do nothing.
#include "soft/int.h"

namespace nyx::soft {
namespace {

template <class T>
void mov_rm_reg(Cpu& c, const Insn* i) {
  set_reg<T>(c, i->rm, get_reg<T>(c, i->reg));
  return next(c, i);
}
template <class T>
void mov_reg_rm(Cpu& c, const Insn* i) {
  set_reg<T>(c, i->reg, get_reg<T>(c, i->rm));
  return next(c, i);
}
template <class T>
void mov_rm_imm(Cpu& c, const Insn* i) {
  set_reg<T>(c, i->rm, T(i->imm));
  return next(c, i);
}
struct ToReg {
  template <class T>
  [[gnu::always_inline]] static void run(Cpu& c, const Insn* i, T v) {
    set_reg<T>(c, i->reg, v);
  }
};
struct FromReg {
  template <class T>
  [[gnu::always_inline]] static T get(const Cpu& c, const Insn* i) {
    return get_reg<T>(c, i->reg);
  }
};
struct FromImm {
  template <class T>
  [[gnu::always_inline]] static T get(const Cpu&, const Insn* i) {
    return T(i->imm);
  }
};

// MOV between the accumulator and an absolute offset, which is in imm since it may have 64 bits.
template <class T>
void mov_acc_moffs(Cpu& c, const Insn* i) {
  set_reg<T>(c, RAX, load<T>(c, i, linear_at(c, i, i->imm, sizeof(T), Access::kRead)));
  return next(c, i);
}
template <class T>
void mov_moffs_acc(Cpu& c, const Insn* i) {
  store<T>(c, i, linear_at(c, i, i->imm, sizeof(T), Access::kWrite), T(c.gpr[RAX]));
  return next(c, i);
}

// Widening: From -> To, by sign when kSigned.
template <class From, class To, bool kSigned>
[[gnu::always_inline]] inline To widen(From v) {
  if constexpr (kSigned) return To(Signed<To>(Signed<From>(v)));
  else return To(v);
}
template <class From, class To, bool kSigned>
void widen_reg(Cpu& c, const Insn* i) {
  set_reg<To>(c, i->reg, widen<From, To, kSigned>(get_reg<From>(c, i->rm)));
  return next(c, i);
}
template <class To, bool kSigned>
struct WidenTo {
  template <class From>
  [[gnu::always_inline]] static void run(Cpu& c, const Insn* i, From v) {
    set_reg<To>(c, i->reg, widen<From, To, kSigned>(v));
  }
};
template <class From, bool kSigned>
OpEntry op_widen(uint32_t bits) {
  return op({{nullptr, &widen_reg<From, uint16_t, kSigned>, &widen_reg<From, uint32_t, kSigned>, &widen_reg<From, uint64_t, kSigned>}},
            {{nullptr, &mem_read<WidenTo<uint16_t, kSigned>, From>, &mem_read<WidenTo<uint32_t, kSigned>, From>,
              &mem_read<WidenTo<uint64_t, kSigned>, From>}},
            kModrm | bits);
}

template <class T>
void lea(Cpu& c, const Insn* i) {
  set_reg<T>(c, i->reg, T(ea_offset(c, i)));
  return next(c, i);
}

// CMOVcc: the memory operand is read in any case, and a 32-bit destination loses its upper half in any case.
template <int CC, class T>
void cmov_reg(Cpu& c, const Insn* i) {
  set_reg<T>(c, i->reg, condition<CC>(c) ? get_reg<T>(c, i->rm) : get_reg<T>(c, i->reg));
  return next(c, i);
}
template <int CC>
struct CmovMem {
  template <class T>
  [[gnu::always_inline]] static void run(Cpu& c, const Insn* i, T v) {
    set_reg<T>(c, i->reg, condition<CC>(c) ? v : get_reg<T>(c, i->reg));
  }
};
template <int CC>
void setcc_reg(Cpu& c, const Insn* i) {
  set_reg<uint8_t>(c, i->rm, condition<CC>(c));
  return next(c, i);
}
template <int CC>
struct SetccMem {
  template <class T>
  [[gnu::always_inline]] static T get(const Cpu& c, const Insn*) {
    return condition<CC>(c);
  }
};
template <int CC>
void put_conditional(OpTables& t) {
  const Handlers reg{{nullptr, &cmov_reg<CC, uint16_t>, &cmov_reg<CC, uint32_t>, &cmov_reg<CC, uint64_t>}};
  const Handlers mem{{nullptr, &mem_read<CmovMem<CC>, uint16_t>, &mem_read<CmovMem<CC>, uint32_t>, &mem_read<CmovMem<CC>, uint64_t>}};
  put(t, 1, 0x40 + CC, op(reg, mem, kModrm));
  put(t, 1, 0x90 + CC, op_all(&setcc_reg<CC>, &mem_write<SetccMem<CC>, uint8_t>, kModrm | kByte));
  if constexpr (CC < 15) put_conditional<CC + 1>(t);
}

template <class T>
[[gnu::always_inline]] inline T swap_bytes(T v) {
  if constexpr (sizeof(T) == 2) return __builtin_bswap16(v);
  else if constexpr (sizeof(T) == 4) return __builtin_bswap32(v);
  else return __builtin_bswap64(v);
}
// BSWAP of a 16-bit register is undefined; processors clear it.
void bswap_16(Cpu& c, const Insn* i) {
  set_reg<uint16_t>(c, i->rm, 0);
  return next(c, i);
}
template <class T>
void bswap(Cpu& c, const Insn* i) {
  set_reg<T>(c, i->rm, swap_bytes(get_reg<T>(c, i->rm)));
  return next(c, i);
}
struct ToRegSwapped {
  template <class T>
  [[gnu::always_inline]] static void run(Cpu& c, const Insn* i, T v) {
    set_reg<T>(c, i->reg, swap_bytes(v));
  }
};
struct FromRegSwapped {
  template <class T>
  [[gnu::always_inline]] static T get(const Cpu& c, const Insn* i) {
    return swap_bytes(get_reg<T>(c, i->reg));
  }
};

void xlat(Cpu& c, const Insn* i) {
  const uint64_t at = linear_at(c, i, c.gpr[RBX] + uint8_t(c.gpr[RAX]), 1, Access::kRead);
  set_reg<uint8_t>(c, 0, load<uint8_t>(c, i, at));
  return next(c, i);
}

void lahf(Cpu& c, const Insn* i) {
  set_reg<uint8_t>(c, 1, uint8_t(c.flags >> 8));
  return next(c, i);
}
void sahf(Cpu& c, const Insn* i) {
  const uint8_t ah = get_reg<uint8_t>(c, 1);
  c.flags = uint16_t((ah & (kSF | kZF | kAF | kPF | kCF)) << 8 | 0x200 | (c.flags & 1));
  return next(c, i);
}
void clc(Cpu& c, const Insn* i) {
  c.flags = uint16_t(c.flags & ~0x100);
  return next(c, i);
}
void stc(Cpu& c, const Insn* i) {
  c.flags |= 0x100;
  return next(c, i);
}
void cmc(Cpu& c, const Insn* i) {
  c.flags ^= 0x100;
  return next(c, i);
}
void cld(Cpu& c, const Insn* i) {
  c.df = false;
  return next(c, i);
}
void std_(Cpu& c, const Insn* i) {
  c.df = true;
  return next(c, i);
}
void salc(Cpu& c, const Insn* i) {
  set_reg<uint8_t>(c, 0, c.flags & 0x100 ? 0xff : 0);
  return next(c, i);
}

void nop(Cpu& c, const Insn* i) { return next(c, i); }
void undefined(Cpu& c, const Insn* i) { raise(c, i, kUD); }

void put_nops(OpTables& t) {
  // Prefetch, the hinting NOPs (ENDBR among them), 3DNow prefetch. Fences and CLFLUSH are with FXSAVE, in one group. Their memory operand is not accessed.
  put(t, 1, 0x0d, op_one(nop, kModrm));
  for (int o = 0x18; o <= 0x1f; o++) put(t, 1, o, op_one(nop, kModrm));
  put(t, 1, 0x0b, op_one(undefined, kEnds));           // UD2
  put(t, 1, 0xb9, op_one(undefined, kEnds | kModrm));  // UD1
  put(t, 1, 0xff, op_one(undefined, kEnds | kModrm));  // UD0
}

}  // namespace

void register_move(OpTables& t) {
  put_pair(t, 0, 0x88, op(NYX_SIZES(mov_rm_reg), NYX_SIZES(mem_write, FromReg), kModrm));
  put_pair(t, 0, 0x8a, op(NYX_SIZES(mov_reg_rm), NYX_SIZES(mem_read, ToReg), kModrm));
  put_pair(t, 0, 0xa0, op({}, NYX_SIZES(mov_acc_moffs), 0, kImmMoffs));
  put_pair(t, 0, 0xa2, op({}, NYX_SIZES(mov_moffs_acc), 0, kImmMoffs));
  for (int r = 0; r < 8; r++) {
    put(t, 0, 0xb0 + r, op_reg(NYX_SIZES(mov_rm_imm), kOpcodeReg | kByte, kImmB));
    put(t, 0, 0xb8 + r, op_reg(NYX_SIZES(mov_rm_imm), kOpcodeReg, kImmV));
    put(t, 1, 0xc8 + r, op_reg({{nullptr, &bswap_16, &bswap<uint32_t>, &bswap<uint64_t>}}, kOpcodeReg));
  }
  OpEntry imm = op(NYX_SIZES(mov_rm_imm), NYX_SIZES(mem_write, FromImm), kModrm, kImmZ);
  put_group(t, 0, -1, 0xc7, 0, imm);
  imm.bits |= kByte;
  imm.imm = kImmB;
  put_group(t, 0, -1, 0xc6, 0, imm);

  put(t, 1, 0xb6, op_widen<uint8_t, false>(kByteRm));
  put(t, 1, 0xb7, op_widen<uint16_t, false>(kWordRm));
  put(t, 1, 0xbe, op_widen<uint8_t, true>(kByteRm));
  put(t, 1, 0xbf, op_widen<uint16_t, true>(kWordRm));
  // MOVSXD; without REX.W it is a MOV.
  put(t, 0, 0x63,
      op({{nullptr, &mov_reg_rm<uint16_t>, &mov_reg_rm<uint32_t>, &widen_reg<uint32_t, uint64_t, true>}},
         {{nullptr, &mem_read<ToReg, uint16_t>, &mem_read<ToReg, uint32_t>, &mem_read<WidenTo<uint64_t, true>, uint32_t>}},
         kModrm | kOnly64));
  put(t, 0, 0x8d, op({}, NYX_SIZES(lea), kModrm | kMemOnly));
  put_conditional<0>(t);

  for (int row = 0; row < 2; row++) {
    t.map[2][row][0xf0] = op({}, {{nullptr, &mem_read<ToRegSwapped, uint16_t>, &mem_read<ToRegSwapped, uint32_t>,
                                   &mem_read<ToRegSwapped, uint64_t>}}, kModrm | kMemOnly);
    t.map[2][row][0xf1] = op({}, {{nullptr, &mem_write<FromRegSwapped, uint16_t>, &mem_write<FromRegSwapped, uint32_t>,
                                   &mem_write<FromRegSwapped, uint64_t>}}, kModrm | kMemOnly);
  }

  put(t, 0, 0xd7, op_one(xlat, 0));
  put(t, 0, 0x9e, op_one(sahf, 0));
  put(t, 0, 0x9f, op_one(lahf, 0));
  put(t, 0, 0xd6, op_one(salc, kNo64));
  put(t, 0, 0xf5, op_one(cmc, 0));
  put(t, 0, 0xf8, op_one(clc, 0));
  put(t, 0, 0xf9, op_one(stc, 0));
  put(t, 0, 0xfc, op_one(cld, 0));
  put(t, 0, 0xfd, op_one(std_, 0));
  put_nops(t);
}

}  // namespace nyx::soft
