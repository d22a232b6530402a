// ROL ROR RCL RCR SHL SHR SAR and the double shifts SHLD SHRD.
#include "soft/int.h"

namespace nyx::soft {
namespace {

// The host masks the count to 5 bits (6 for 64-bit operands) and leaves the flags alone when it is 0, so the guest's go in.
#define NYX_SHIFT(Name, mnemonic)                                                                                     \
  struct Name {                                                                                                       \
    template <class T>                                                                                                \
    [[gnu::always_inline]] static T run(Cpu& c, T a, uint8_t count) {                                                 \
      uint32_t f = c.flags;                                                                                           \
      asm(NYX_FLAGS_IN mnemonic " %%cl, %0" NYX_FLAGS_OUT : "+r"(a), "+a"(f) : "c"(count) : "cc");                    \
      c.flags = uint16_t(f);                                                                                          \
      return a;                                                                                                       \
    }                                                                                                                 \
  };
NYX_SHIFT(Rol, "rol")
NYX_SHIFT(Ror, "ror")
NYX_SHIFT(Rcl, "rcl")
NYX_SHIFT(Rcr, "rcr")
NYX_SHIFT(Shl, "shl")
NYX_SHIFT(Shr, "shr")
NYX_SHIFT(Sar, "sar")
#undef NYX_SHIFT

#define NYX_DOUBLE(Name, mnemonic)                                                                                    \
  struct Name {                                                                                                       \
    template <class T>                                                                                                \
    [[gnu::always_inline]] static T run(Cpu& c, T a, T b, uint8_t count) {                                            \
      uint32_t f = c.flags;                                                                                           \
      asm(NYX_FLAGS_IN mnemonic " %%cl, %2, %0" NYX_FLAGS_OUT : "+r"(a), "+a"(f) : "r"(b), "c"(count) : "cc");        \
      c.flags = uint16_t(f);                                                                                          \
      return a;                                                                                                       \
    }                                                                                                                 \
  };
NYX_DOUBLE(Shld, "shld")
NYX_DOUBLE(Shrd, "shrd")
#undef NYX_DOUBLE

struct ByOne {
  static uint8_t get(const Cpu&, const Insn*) { return 1; }
};
struct ByCl {
  [[gnu::always_inline]] static uint8_t get(const Cpu& c, const Insn*) { return uint8_t(c.gpr[RCX]); }
};
struct ByImm {
  [[gnu::always_inline]] static uint8_t get(const Cpu&, const Insn* i) { return uint8_t(i->imm); }
};

template <class Op, class By, class T>
void shift_reg(Cpu& c, const Insn* i) {
  set_reg<T>(c, i->rm, Op::template run<T>(c, get_reg<T>(c, i->rm), By::get(c, i)));
  return next(c, i);
}
template <class Op, class By>
struct ShiftMem {
  template <class T>
  [[gnu::always_inline]] static T run(Cpu& c, const Insn* i, T v) {
    return Op::template run<T>(c, v, By::get(c, i));
  }
  template <class T>
  static void locked(Cpu&, const Insn*, T*) {}  // not lockable
};

template <class Op, class By, class T>
void double_reg(Cpu& c, const Insn* i) {
  set_reg<T>(c, i->rm, Op::template run<T>(c, get_reg<T>(c, i->rm), get_reg<T>(c, i->reg), By::get(c, i)));
  return next(c, i);
}
template <class Op, class By>
struct DoubleMem {
  template <class T>
  [[gnu::always_inline]] static T run(Cpu& c, const Insn* i, T v) {
    return Op::template run<T>(c, v, get_reg<T>(c, i->reg), By::get(c, i));
  }
  template <class T>
  static void locked(Cpu&, const Insn*, T*) {}
};

template <class Op, class By>
void put_one(OpTables& t, int opcode, int n, Imm imm) {
  OpEntry e = op(NYX_SIZES(shift_reg, Op, By), NYX_SIZES(mem_rmw, ShiftMem<Op, By>), kModrm, imm);
  put_group(t, 0, -1, opcode + 1, n, e);
  e.bits |= kByte;
  put_group(t, 0, -1, opcode, n, e);
}
template <class Op>
void put_shift(OpTables& t, int n) {
  put_one<Op, ByImm>(t, 0xc0, n, kImmUb);
  put_one<Op, ByOne>(t, 0xd0, n, kImmNone);
  put_one<Op, ByCl>(t, 0xd2, n, kImmNone);
}
// 16, 32 and 64 bits only.
template <class Op, class By>
void put_double(OpTables& t, int opcode, Imm imm) {
  const Handlers reg{{nullptr, &double_reg<Op, By, uint16_t>, &double_reg<Op, By, uint32_t>, &double_reg<Op, By, uint64_t>}};
  using Mem = DoubleMem<Op, By>;
  const Handlers mem{{nullptr, &mem_rmw<Mem, uint16_t>, &mem_rmw<Mem, uint32_t>, &mem_rmw<Mem, uint64_t>}};
  put(t, 1, opcode, op(reg, mem, kModrm, imm));
}

}  // namespace

void register_shift(OpTables& t) {
  put_shift<Rol>(t, 0);
  put_shift<Ror>(t, 1);
  put_shift<Rcl>(t, 2);
  put_shift<Rcr>(t, 3);
  put_shift<Shl>(t, 4);
  put_shift<Shr>(t, 5);
  put_shift<Shl>(t, 6);  // an alias
  put_shift<Sar>(t, 7);
  put_double<Shld, ByImm>(t, 0xa4, kImmUb);
  put_double<Shld, ByCl>(t, 0xa5, kImmNone);
  put_double<Shrd, ByImm>(t, 0xac, kImmUb);
  put_double<Shrd, ByCl>(t, 0xad, kImmNone);
}

}  // namespace nyx::soft
