// Between XMM and general registers: conversions, sign masks.
#include "soft/simd.h"

namespace nyx::soft {
namespace {

// CVTSI2SS, CVTSI2SD. Row 2 F3 (ss), 3 F2 (sd).
template <int Row, class T>
[[gnu::always_inline]] inline __m128i from_int(__m128i dst, T v) {
  __m128i a = dst;
  if constexpr (Row == 2 && sizeof(T) == 4) asm volatile("cvtsi2ssl %1, %0" : "+x"(a) : "r"(v));
  else if constexpr (Row == 2) asm volatile("cvtsi2ssq %1, %0" : "+x"(a) : "r"(v));
  else if constexpr (sizeof(T) == 4) asm volatile("cvtsi2sdl %1, %0" : "+x"(a) : "r"(v));
  else asm volatile("cvtsi2sdq %1, %0" : "+x"(a) : "r"(v));
  return a;
}
template <int Row, class T>
struct FromInt {
  static void apply(Cpu& c, const Insn* i, T v) {
    __m128i r;
    fp_do(c, i, [&] { r = from_int<Row, T>(*xmm(c, i->reg), v); });
    *xmm(c, i->reg) = r;
  }
  static void reg(Cpu& c, const Insn* i) {
    need_sse(c, i);
    apply(c, i, get_reg<T>(c, i->rm));
    return next(c, i);
  }
  static void mem(Cpu& c, const Insn* i) {
    need_sse(c, i);
    apply(c, i, load_rm<T>(c, i));
    return next(c, i);
  }
};

// CVTTSS2SI, CVTSS2SI and sd twins. Opcode 2C truncates, 2D rounds.
template <int Row, int Opcode, class T>
[[gnu::always_inline]] inline T to_int(__m128i v) {
  T r;
  if constexpr (Row == 2 && Opcode == 0x2c) asm volatile("cvttss2si %1, %0" : "=r"(r) : "x"(v));
  else if constexpr (Row == 2) asm volatile("cvtss2si %1, %0" : "=r"(r) : "x"(v));
  else if constexpr (Opcode == 0x2c) asm volatile("cvttsd2si %1, %0" : "=r"(r) : "x"(v));
  else asm volatile("cvtsd2si %1, %0" : "=r"(r) : "x"(v));
  return r;
}
template <int Row, int Opcode, class T>
struct ToInt {
  static void apply(Cpu& c, const Insn* i, __m128i v) {
    T r = 0;
    fp_do(c, i, [&] { r = to_int<Row, Opcode, T>(v); });
    set_reg<T>(c, i->reg, r);
  }
  static void reg(Cpu& c, const Insn* i) {
    need_sse(c, i);
    apply(c, i, *xmm(c, i->rm));
    return next(c, i);
  }
  static void mem(Cpu& c, const Insn* i) {
    need_sse(c, i);
    apply(c, i, load_vec<Row == 2 ? 4 : 8>(c, i));
    return next(c, i);
  }
};

// CVTPI2PS, CVTPI2PD from memory do not touch the x87 state; the register forms are in mmx.cc.

template <int Row>
void movmsk(Cpu& c, const Insn* i) {
  need_sse(c, i);
  const __m128i v = *xmm(c, i->rm);
  c.gpr[i->reg] = uint32_t(Row == 0 ? _mm_movemask_ps(_mm_castsi128_ps(v)) : _mm_movemask_pd(_mm_castsi128_pd(v)));
  return next(c, i);
}
void pmovmskb(Cpu& c, const Insn* i) {
  need_sse(c, i);
  c.gpr[i->reg] = uint32_t(_mm_movemask_epi8(*xmm(c, i->rm)));
  return next(c, i);
}

template <template <class> class Form>
void enter_sized(OpTables& t, int row, int opcode) {
  OpEntry e;
  for (int k : {1, 2}) {
    e.reg[k] = Form<uint32_t>::reg;
    e.mem[k] = Form<uint32_t>::mem;
  }
  e.reg[3] = Form<uint64_t>::reg;
  e.mem[3] = Form<uint64_t>::mem;
  e.bits = kModrm | kIgnore66;
  t.map[1][row][opcode] = e;
}
template <class T>
using FromSs = FromInt<2, T>;
template <class T>
using FromSd = FromInt<3, T>;
template <class T>
using TruncSs = ToInt<2, 0x2c, T>;
template <class T>
using TruncSd = ToInt<3, 0x2c, T>;
template <class T>
using RoundSs = ToInt<2, 0x2d, T>;
template <class T>
using RoundSd = ToInt<3, 0x2d, T>;

}  // namespace

void register_simd_convert(OpTables& t) {
  enter_sized<FromSs>(t, 2, 0x2a);
  enter_sized<FromSd>(t, 3, 0x2a);
  enter_sized<TruncSs>(t, 2, 0x2c);
  enter_sized<TruncSd>(t, 3, 0x2c);
  enter_sized<RoundSs>(t, 2, 0x2d);
  enter_sized<RoundSd>(t, 3, 0x2d);
  put_row(t, 1, 0, 0x50, movmsk<0>, nullptr);
  put_row(t, 1, 1, 0x50, movmsk<1>, nullptr);
  put_row(t, 1, 1, 0xd7, pmovmskb, nullptr);
}

}  // namespace nyx::soft
