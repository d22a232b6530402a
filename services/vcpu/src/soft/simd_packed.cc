// Packed and scalar operations of the form op xmm, xmm/mem without an immediate, as data: one line of a list is a set of
// opcodes. MMX twins of the integer ones are in mmx.cc.
#include <utility>

#include "soft/simd.h"

namespace nyx::soft {
namespace {

// Integer and logical operations: cannot raise SIMD floating-point exceptions.
template <int Row, int Map, int Opcode, int Bytes>
struct Plain : Forms<Plain<Row, Map, Opcode, Bytes>, Bytes> {
  static void apply(Cpu& c, const Insn* i, __m128i b) { *xmm(c, i->reg) = host_xx<Row, Map, Opcode>(*xmm(c, i->reg), b); }
};

// Floating point: under the guest's MXCSR.
template <int Row, int Map, int Opcode, int Bytes>
struct Float : Forms<Float<Row, Map, Opcode, Bytes>, Bytes> {
  static void apply(Cpu& c, const Insn* i, __m128i b) {
    __m128i r;
    fp_do(c, i, [&] { r = host_xx<Row, Map, Opcode>(*xmm(c, i->reg), b); });
    *xmm(c, i->reg) = r;
  }
};

template <template <int, int, int, int> class Form, int Row, int Map, int Bytes, int... Opcodes>
void enter_list(OpTables& t, std::integer_sequence<int, Opcodes...>) {
  (put_row(t, Map, Row, Opcodes, Form<Row, Map, Opcodes, Bytes>::reg, Form<Row, Map, Opcodes, Bytes>::mem), ...);
}
template <int... Opcodes>
using Ops = std::integer_sequence<int, Opcodes...>;

// COMISS, UCOMISS, COMISD, UCOMISD, PTEST: the result is in the flags.
template <int Row, int Map, int Opcode>
[[gnu::always_inline]] inline uint16_t host_flags(__m128i dst, __m128i src) {
  register __m128i a asm("xmm0") = dst;
  register __m128i b asm("xmm1") = src;
  uint16_t f;
  if constexpr (Row == 0)
    asm volatile(".byte 0x0f, %c3, 0xc1\n\tlahf\n\tseto %%al" : "=a"(f) : "x"(a), "x"(b), "i"(Opcode) : "cc");
  else if constexpr (Map == 1)
    asm volatile(".byte 0x66, 0x0f, %c3, 0xc1\n\tlahf\n\tseto %%al" : "=a"(f) : "x"(a), "x"(b), "i"(Opcode) : "cc");
  else
    asm volatile(".byte 0x66, 0x0f, 0x38, %c3, 0xc1\n\tlahf\n\tseto %%al" : "=a"(f) : "x"(a), "x"(b), "i"(Opcode) : "cc");
  return f;
}
template <int Row, int Map, int Opcode, int Bytes>
struct Compare : Forms<Compare<Row, Map, Opcode, Bytes>, Bytes> {
  static void apply(Cpu& c, const Insn* i, __m128i b) {
    uint16_t f = 0;
    if constexpr (Map == 1) fp_do(c, i, [&] { f = host_flags<Row, Map, Opcode>(*xmm(c, i->reg), b); });
    else f = host_flags<Row, Map, Opcode>(*xmm(c, i->reg), b);
    c.flags = f;
  }
};

// PBLENDVB, BLENDVPS, BLENDVPD: XMM0 is an implicit third operand.
template <int Row, int Map, int Opcode, int Bytes>
struct Implicit : Forms<Implicit<Row, Map, Opcode, Bytes>, Bytes> {
  static void apply(Cpu& c, const Insn* i, __m128i src) {
    register __m128i mask asm("xmm0") = *xmm(c, 0);
    register __m128i a asm("xmm1") = *xmm(c, i->reg);
    register __m128i b asm("xmm2") = src;
    asm volatile(".byte 0x66, 0x0f, 0x38, %c3, 0xca" : "+x"(a) : "x"(b), "x"(mask), "i"(Opcode));
    *xmm(c, i->reg) = a;
  }
};

}  // namespace

void register_simd_packed(OpTables& t) {
  // 0F, floating point. ps (none), pd (66), ss (F3), sd (F2).
  using Arithmetic = Ops<0x51, 0x58, 0x59, 0x5c, 0x5d, 0x5e, 0x5f>;
  enter_list<Float, 0, 1, 16>(t, Arithmetic{});
  enter_list<Float, 1, 1, 16>(t, Arithmetic{});
  enter_list<Float, 2, 1, 4>(t, Arithmetic{});
  enter_list<Float, 3, 1, 8>(t, Arithmetic{});
  enter_list<Float, 0, 1, 16>(t, Ops<0x52, 0x53, 0x5b>{});       // rsqrtps rcpps cvtdq2ps
  enter_list<Float, 2, 1, 4>(t, Ops<0x52, 0x53, 0x5a>{});        // rsqrtss rcpss cvtss2sd
  enter_list<Float, 0, 1, 8>(t, Ops<0x5a>{});                    // cvtps2pd
  enter_list<Float, 1, 1, 16>(t, Ops<0x5a, 0x5b, 0x7c, 0x7d, 0xd0, 0xe6>{});  // cvtpd2ps cvtps2dq haddpd hsubpd addsubpd cvttpd2dq
  enter_list<Float, 3, 1, 8>(t, Ops<0x5a>{});                    // cvtsd2ss
  enter_list<Float, 2, 1, 16>(t, Ops<0x5b>{});                   // cvttps2dq
  enter_list<Float, 3, 1, 16>(t, Ops<0x7c, 0x7d, 0xd0, 0xe6>{});  // haddps hsubps addsubps cvtpd2dq
  enter_list<Plain, 2, 1, 8>(t, Ops<0xe6>{});                    // cvtdq2pd (exact)
  // Logic, unpack, duplicate.
  enter_list<Plain, 0, 1, 16>(t, Ops<0x14, 0x15, 0x54, 0x55, 0x56, 0x57>{});
  enter_list<Plain, 1, 1, 16>(t, Ops<0x14, 0x15, 0x54, 0x55, 0x56, 0x57>{});
  enter_list<Plain, 2, 1, 16>(t, Ops<0x12, 0x16>{});             // movsldup movshdup
  enter_list<Plain, 3, 1, 8>(t, Ops<0x12>{});                    // movddup
  // 66 0F, integer.
  enter_list<Plain, 1, 1, 16>(t, Ops<0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x74, 0x75,
                                     0x76, 0xd1, 0xd2, 0xd3, 0xd4, 0xd5, 0xd8, 0xd9, 0xda, 0xdb, 0xdc, 0xdd, 0xde, 0xdf, 0xe0, 0xe1,
                                     0xe2, 0xe3, 0xe4, 0xe5, 0xe8, 0xe9, 0xea, 0xeb, 0xec, 0xed, 0xee, 0xef, 0xf1, 0xf2, 0xf3, 0xf4,
                                     0xf5, 0xf6, 0xf8, 0xf9, 0xfa, 0xfb, 0xfc, 0xfd, 0xfe>{});
  // 66 0F 38: SSSE3, SSE4.1, SSE4.2.
  enter_list<Plain, 1, 2, 16>(t, Ops<0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x1c, 0x1d, 0x1e, 0x28,
                                     0x29, 0x2b, 0x37, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f, 0x40, 0x41>{});
  enter_list<Plain, 1, 2, 8>(t, Ops<0x20, 0x23, 0x25, 0x30, 0x33, 0x35>{});  // pmovsx/pmovzx bw, wd, dq
  enter_list<Plain, 1, 2, 4>(t, Ops<0x21, 0x24, 0x31, 0x34>{});              // bd, wq
  enter_list<Plain, 1, 2, 2>(t, Ops<0x22, 0x32>{});                          // bq
  enter_list<Compare, 0, 1, 4>(t, Ops<0x2e, 0x2f>{});
  enter_list<Compare, 1, 1, 8>(t, Ops<0x2e, 0x2f>{});
  enter_list<Compare, 1, 2, 16>(t, Ops<0x17>{});
  enter_list<Implicit, 1, 2, 16>(t, Ops<0x10, 0x14, 0x15>{});
}

}  // namespace nyx::soft
