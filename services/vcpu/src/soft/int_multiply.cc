// MUL IMUL DIV IDIV, and the sign extensions of the accumulator that go with them: CBW CWDE CDQE, CWD CDQ CQO.
#include "soft/int.h"

namespace nyx::soft {
namespace {

// Host instruction on RDX:RAX (8 bits: AX) and `v`, with the guest's flags before and after. `name` with size suffix,
// `m` the operand modifier of that size. The MOVs do not touch flags.
#define NYX_WIDE(name, m)                                                                              \
  asm(NYX_FLAGS_IN "mov %" m "1, %" m "0\n\t" name " %3\n\tmov %" m "0, %" m "1" NYX_FLAGS_OUT          \
      : "+a"(f), "+r"(low), "+d"(high) : "r"(v) : "cc")
#define NYX_WIDE_OP(Name, mnemonic)                                                                    \
  struct Name {                                                                                        \
    template <class T>                                                                                 \
    [[gnu::always_inline]] static void run(Cpu& c, T v) {                                              \
      uint32_t f = c.flags;                                                                            \
      uint64_t low = c.gpr[RAX], high = c.gpr[RDX];                                                    \
      if constexpr (sizeof(T) == 1) NYX_WIDE(mnemonic "b", "w");                                       \
      else if constexpr (sizeof(T) == 2) NYX_WIDE(mnemonic "w", "w");                                  \
      else if constexpr (sizeof(T) == 4) NYX_WIDE(mnemonic "l", "k");                                  \
      else NYX_WIDE(mnemonic "q", "q");                                                                \
      c.flags = uint16_t(f);                                                                           \
      if constexpr (sizeof(T) == 1) {                                                                  \
        set_reg<uint16_t>(c, RAX, uint16_t(low));                                                      \
      } else {                                                                                         \
        set_reg<T>(c, RAX, T(low));                                                                    \
        set_reg<T>(c, RDX, T(high));                                                                   \
      }                                                                                                \
    }                                                                                                  \
  };
NYX_WIDE_OP(Mul, "mul")
NYX_WIDE_OP(Imul, "imul")
NYX_WIDE_OP(HostDiv, "div")
NYX_WIDE_OP(HostIdiv, "idiv")
#undef NYX_WIDE_OP
#undef NYX_WIDE

// True when the quotient does not fit (or v is 0).
template <class T>
bool unsigned_overflow(const Cpu& c, T v) {
  const T high = sizeof(T) == 1 ? T(c.gpr[RAX] >> 8) : T(c.gpr[RDX]);
  return high >= v;
}
template <class T>
bool signed_overflow(const Cpu& c, T v) {
  using U = unsigned __int128;
  if (v == 0) return true;
  const int bits = kBits<T>;
  const T low = T(c.gpr[RAX]), high = sizeof(T) == 1 ? T(c.gpr[RAX] >> 8) : T(c.gpr[RDX]);
  const T min = T(T(1) << (bits - 1));
  if (high == T(Signed<T>(low) >> (bits - 1))) return low == min && v == T(-1);  // the usual case: after CWD and its like
  const bool negative = high & min, negative_v = v & min;
  U n = U(high) << bits | low;
  if (negative) n = (~n + 1) & (bits == 64 ? ~U(0) : (U(1) << (2 * bits)) - 1);
  const T d = negative_v ? T(-v) : v;
  if (T(n >> bits) >= d) return true;
  const uint64_t quotient = [&] {
    if constexpr (sizeof(T) == 8) {
      uint64_t q, r;
      asm("divq %4" : "=a"(q), "=d"(r) : "0"(uint64_t(n)), "1"(uint64_t(n >> 64)), "r"(d) : "cc");
      return q;
    } else {
      return uint64_t(n) / d;
    }
  }();
  return negative != negative_v ? quotient > min : quotient >= min;
}

[[noreturn, gnu::noinline, gnu::cold]] void divide_error(Cpu& c, const Insn* i) { raise(c, i, kDE); }

template <class Op>
struct Multiply {
  template <class T>
  [[gnu::always_inline]] static void run(Cpu& c, const Insn*, T v) {
    Op::template run<T>(c, v);
  }
};
struct Div {
  template <class T>
  [[gnu::always_inline]] static void run(Cpu& c, const Insn* i, T v) {
    if (unsigned_overflow(c, v)) [[unlikely]]
      divide_error(c, i);
    HostDiv::run<T>(c, v);
  }
};
struct Idiv {
  template <class T>
  [[gnu::always_inline]] static void run(Cpu& c, const Insn* i, T v) {
    if (signed_overflow(c, v)) [[unlikely]]
      divide_error(c, i);
    HostIdiv::run<T>(c, v);
  }
};

template <class B, class T>
void on_rm(Cpu& c, const Insn* i) {
  B::template run<T>(c, i, get_reg<T>(c, i->rm));
  return next(c, i);
}

// reg = a * b, truncated.
template <class T>
[[gnu::always_inline]] inline void multiply_to(Cpu& c, uint8_t r, T a, T b) {
  uint32_t f = c.flags;
  asm(NYX_FLAGS_IN "imul %2, %0" NYX_FLAGS_OUT : "+r"(a), "+a"(f) : "r"(b) : "cc");
  c.flags = uint16_t(f);
  set_reg<T>(c, r, a);
}
struct RegTimes {
  template <class T>
  [[gnu::always_inline]] static void run(Cpu& c, const Insn* i, T v) {
    multiply_to<T>(c, i->reg, get_reg<T>(c, i->reg), v);
  }
};
struct TimesImm {
  template <class T>
  [[gnu::always_inline]] static void run(Cpu& c, const Insn* i, T v) {
    multiply_to<T>(c, i->reg, v, T(i->imm));
  }
};
template <class B>
OpEntry op_words(uint32_t bits, Imm imm) {
  return op({{nullptr, &on_rm<B, uint16_t>, &on_rm<B, uint32_t>, &on_rm<B, uint64_t>}},
            {{nullptr, &mem_read<B, uint16_t>, &mem_read<B, uint32_t>, &mem_read<B, uint64_t>}}, bits, imm);
}

template <class B>
void put_wide(OpTables& t, int n) {
  OpEntry e = op(NYX_SIZES(on_rm, B), NYX_SIZES(mem_read, B), kModrm);
  put_group(t, 0, -1, 0xf7, n, e);
  e.bits |= kByte;
  put_group(t, 0, -1, 0xf6, n, e);
}

// The lower half of the accumulator, sign-extended to T.
template <class T, class Half>
void extend_accumulator(Cpu& c, const Insn* i) {
  set_reg<T>(c, RAX, T(Signed<Half>(Half(c.gpr[RAX]))));
  return next(c, i);
}
template <class T>
void accumulator_sign(Cpu& c, const Insn* i) {
  set_reg<T>(c, RDX, T(Signed<T>(T(c.gpr[RAX])) >> (kBits<T> - 1)));
  return next(c, i);
}

}  // namespace

void register_multiply(OpTables& t) {
  put_wide<Multiply<Mul>>(t, 4);
  put_wide<Multiply<Imul>>(t, 5);
  put_wide<Div>(t, 6);
  put_wide<Idiv>(t, 7);
  put(t, 0, 0x69, op_words<TimesImm>(kModrm, kImmZ));
  put(t, 0, 0x6b, op_words<TimesImm>(kModrm, kImmB));
  put(t, 1, 0xaf, op_words<RegTimes>(kModrm, kImmNone));
  put(t, 0, 0x98,
      op_reg({{nullptr, &extend_accumulator<uint16_t, uint8_t>, &extend_accumulator<uint32_t, uint16_t>,
               &extend_accumulator<uint64_t, uint32_t>}},
             0));
  put(t, 0, 0x99, op_reg({{nullptr, &accumulator_sign<uint16_t>, &accumulator_sign<uint32_t>, &accumulator_sign<uint64_t>}}, 0));
}

}  // namespace nyx::soft
