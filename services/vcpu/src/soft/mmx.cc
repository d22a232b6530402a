// MMX, and the SSE instructions that mix MMX and XMM registers. MMX works on the FXSAVE image in Cpu::fx: mm(i) is the
// significand of physical x87 register i (SDM vol. 1, ch. 9).
#include <utility>

#include "soft/simd.h"
#include "soft/x87.h"

namespace nyx::soft {
namespace {

// Before the memory access of an MMX instruction: available, no x87 exception pending. mmx_enter comes after it.
[[gnu::always_inline]] inline void check_mmx(Cpu& c, const Insn* i) {
  if (c.cr0 & kCr0EM) [[unlikely]]
    raise(c, i, kUD);
  if (c.cr0 & kCr0TS) [[unlikely]]
    raise(c, i, kNM);
  if (!mmx_form(c)) [[unlikely]]
    mmx_check_slow(c, i);
}
// Before one without: also state in Cpu::fx with TOP = 0.
[[gnu::always_inline]] inline void need_mmx(Cpu& c, const Insn* i) {
  check_mmx(c, i);
  mmx_enter(c, i);
}
[[gnu::always_inline]] inline void set_mm(Cpu& c, unsigned r, uint64_t v) {
  mm(c, r) = v;
  *reinterpret_cast<uint16_t*>(c.fx.bytes + kFxSt + 16 * (r & 7) + 8) = 0xffff;
}

template <int Map, int Opcode>
[[gnu::always_inline]] inline uint64_t host_mm(uint64_t a, uint64_t b) {
  if constexpr (Map == 1)
    asm volatile("movq %0, %%mm0\n\tmovq %1, %%mm1\n\t.byte 0x0f, %c2, 0xc1\n\tmovq %%mm0, %0\n\temms" : "+r"(a) : "r"(b), "i"(Opcode) : "mm0", "mm1");
  else
    asm volatile("movq %0, %%mm0\n\tmovq %1, %%mm1\n\t.byte 0x0f, 0x38, %c2, 0xc1\n\tmovq %%mm0, %0\n\temms" : "+r"(a) : "r"(b), "i"(Opcode) : "mm0", "mm1");
  return a;
}

template <int Map, int Opcode>
struct Packed {
  static void reg(Cpu& c, const Insn* i) {
    need_mmx(c, i);
    set_mm(c, i->reg, host_mm<Map, Opcode>(mm(c, i->reg), mm(c, i->rm)));
    return next(c, i);
  }
  static void mem(Cpu& c, const Insn* i) {
    check_mmx(c, i);
    uint64_t b;
    // Unpack-low reads only 32 bits of memory.
    if constexpr (Map == 1 && Opcode >= 0x60 && Opcode <= 0x62) b = load_rm<uint32_t>(c, i);
    else b = load_rm<uint64_t>(c, i);
    mmx_enter(c, i);
    set_mm(c, i->reg, host_mm<Map, Opcode>(mm(c, i->reg), b));
    return next(c, i);
  }
};
template <int Map, int... Opcodes>
void enter_list(OpTables& t, std::integer_sequence<int, Opcodes...>) {
  (put_row(t, Map, 0, Opcodes, Packed<Map, Opcodes>::reg, Packed<Map, Opcodes>::mem), ...);
}

template <class T>
void movd_in_reg(Cpu& c, const Insn* i) {
  need_mmx(c, i);
  set_mm(c, i->reg, get_reg<T>(c, i->rm));
  return next(c, i);
}
template <class T>
void load_mm(Cpu& c, const Insn* i) {
  check_mmx(c, i);
  const T v = load_rm<T>(c, i);
  mmx_enter(c, i);
  set_mm(c, i->reg, v);
  return next(c, i);
}
template <class T>
void movd_out_reg(Cpu& c, const Insn* i) {
  need_mmx(c, i);
  set_reg<T>(c, i->rm, T(mm(c, i->reg)));
  return next(c, i);
}
template <class T>
void store_mm(Cpu& c, const Insn* i) {
  check_mmx(c, i);
  const uint64_t at = linear_of(c, i, sizeof(T), Access::kWrite);
  rmw<T>(c, i, at);  // every fault comes first
  mmx_enter(c, i);
  store<T>(c, i, at, T(mm(c, i->reg)));
  return next(c, i);
}
void move_mm(Cpu& c, const Insn* i) {
  need_mmx(c, i);
  set_mm(c, i->reg, mm(c, i->rm));
  return next(c, i);
}
void move_mm_back(Cpu& c, const Insn* i) {
  need_mmx(c, i);
  set_mm(c, i->rm, mm(c, i->reg));
  return next(c, i);
}
void pmovmskb_mm(Cpu& c, const Insn* i) {
  need_mmx(c, i);
  c.gpr[i->reg] = uint32_t(_mm_movemask_epi8(_mm_cvtsi64_si128(int64_t(mm(c, i->rm)))));
  return next(c, i);
}
void emms(Cpu& c, const Insn* i) {
  need_mmx(c, i);
  c.fx.bytes[kFxTw] = 0;
  return next(c, i);
}
[[gnu::noinline]] void maskmovq(Cpu& c, const Insn* i) {
  check_mmx(c, i);
  uint64_t at = c.gpr[RDI];
  if (i->ea & (kEa16 | kEa32)) at = i->ea & kEa16 ? uint16_t(at) : uint32_t(at);
  if (i->ea & kEaCheck) at = linear_legacy(c, i, at, 8, Access::kWrite);
  else if (i->ea & kEaSegBase) at += c.seg[i->seg].base;
  mmx_enter(c, i);
  const uint64_t mask = mm(c, i->rm), v = mm(c, i->reg);
  for (int k = 0; k < 8; k++)
    if (mask >> (8 * k + 7) & 1) store<uint8_t>(c, i, at + uint64_t(k), uint8_t(v >> (8 * k)));
}

// Immediate forms: a shift by an immediate is the shift by a register that holds it; PSHUFW, PINSRW, PEXTRW, PALIGNR are
// lane moves.
template <int Opcode>
void shift_mm(Cpu& c, const Insn* i) {
  need_mmx(c, i);
  set_mm(c, i->rm, host_mm<1, Opcode>(mm(c, i->rm), uint8_t(i->imm)));
  return next(c, i);
}
uint64_t shuffle_words(uint64_t v, uint8_t order) {
  uint64_t r = 0;
  for (int k = 0; k < 4; k++) r |= (v >> (16 * (order >> (2 * k) & 3)) & 0xffff) << (16 * k);
  return r;
}
void pshufw_reg(Cpu& c, const Insn* i) {
  need_mmx(c, i);
  set_mm(c, i->reg, shuffle_words(mm(c, i->rm), uint8_t(i->imm)));
  return next(c, i);
}
void pshufw_mem(Cpu& c, const Insn* i) {
  check_mmx(c, i);
  const uint64_t v = load_rm<uint64_t>(c, i);
  mmx_enter(c, i);
  set_mm(c, i->reg, shuffle_words(v, uint8_t(i->imm)));
  return next(c, i);
}
void insert_word(Cpu& c, unsigned r, uint16_t v, uint64_t imm) {
  const int at = int(imm & 3) * 16;
  set_mm(c, r, (mm(c, r) & ~(0xffffull << at)) | uint64_t(v) << at);
}
void pinsrw_reg(Cpu& c, const Insn* i) {
  need_mmx(c, i);
  insert_word(c, i->reg, uint16_t(c.gpr[i->rm]), i->imm);
  return next(c, i);
}
void pinsrw_mem(Cpu& c, const Insn* i) {
  check_mmx(c, i);
  const uint16_t v = load_rm<uint16_t>(c, i);
  mmx_enter(c, i);
  insert_word(c, i->reg, v, i->imm);
  return next(c, i);
}
void pextrw_mm(Cpu& c, const Insn* i) {
  need_mmx(c, i);
  c.gpr[i->reg] = mm(c, i->rm) >> ((i->imm & 3) * 16) & 0xffff;
  return next(c, i);
}
uint64_t align_right(uint64_t high, uint64_t low, uint8_t bytes) {
  if (bytes >= 16) return 0;
  const unsigned __int128 both = static_cast<unsigned __int128>(high) << 64 | low;
  return uint64_t(both >> (8 * bytes));
}
void palignr_reg(Cpu& c, const Insn* i) {
  need_mmx(c, i);
  set_mm(c, i->reg, align_right(mm(c, i->reg), mm(c, i->rm), uint8_t(i->imm)));
  return next(c, i);
}
void palignr_mem(Cpu& c, const Insn* i) {
  check_mmx(c, i);
  const uint64_t v = load_rm<uint64_t>(c, i);
  mmx_enter(c, i);
  set_mm(c, i->reg, align_right(mm(c, i->reg), v, uint8_t(i->imm)));
  return next(c, i);
}

// MMX <-> XMM.
void movq2dq(Cpu& c, const Insn* i) {
  need_sse(c, i);
  need_mmx(c, i);
  *xmm(c, i->reg) = _mm_cvtsi64_si128(int64_t(mm(c, i->rm)));
  return next(c, i);
}
void movdq2q(Cpu& c, const Insn* i) {
  need_sse(c, i);
  need_mmx(c, i);
  set_mm(c, i->reg, xmm_as<uint64_t>(c, i->rm));
  return next(c, i);
}
// CVTPI2PS (Row 0), CVTPI2PD (Row 1).
template <int Row>
[[gnu::always_inline]] inline __m128i from_pi(__m128i dst, uint64_t v) {
  __m128i a = dst;
  if constexpr (Row == 0) asm volatile("movq %1, %%mm1\n\tcvtpi2ps %%mm1, %0\n\temms" : "+x"(a) : "r"(v) : "mm1");
  else asm volatile("movq %1, %%mm1\n\tcvtpi2pd %%mm1, %0\n\temms" : "+x"(a) : "r"(v) : "mm1");
  return a;
}
template <int Row>
void from_pi_apply(Cpu& c, const Insn* i, uint64_t v) {
  __m128i r;
  x87_spill(c);
  fp_do(c, i, [&] { r = from_pi<Row>(*xmm(c, i->reg), v); });
  *xmm(c, i->reg) = r;
}
template <int Row>
void from_pi_reg(Cpu& c, const Insn* i) {
  need_sse(c, i);
  need_mmx(c, i);
  from_pi_apply<Row>(c, i, mm(c, i->rm));
  return next(c, i);
}
template <int Row>
void from_pi_mem(Cpu& c, const Insn* i) {
  need_sse(c, i);
  if constexpr (Row == 0) check_mmx(c, i);  // the pd form from memory leaves the x87 state alone
  const uint64_t v = load_rm<uint64_t>(c, i);
  if constexpr (Row == 0) mmx_enter(c, i);
  from_pi_apply<Row>(c, i, v);
  return next(c, i);
}
// CVTTPS2PI, CVTPS2PI (Row 0), CVTTPD2PI, CVTPD2PI (Row 1). Opcode 2C truncates.
template <int Row, int Opcode>
[[gnu::always_inline]] inline uint64_t to_pi(__m128i v) {
  uint64_t r;
  if constexpr (Row == 0 && Opcode == 0x2c) asm volatile("cvttps2pi %1, %%mm0\n\tmovq %%mm0, %0\n\temms" : "=r"(r) : "x"(v) : "mm0");
  else if constexpr (Row == 0) asm volatile("cvtps2pi %1, %%mm0\n\tmovq %%mm0, %0\n\temms" : "=r"(r) : "x"(v) : "mm0");
  else if constexpr (Opcode == 0x2c) asm volatile("cvttpd2pi %1, %%mm0\n\tmovq %%mm0, %0\n\temms" : "=r"(r) : "x"(v) : "mm0");
  else asm volatile("cvtpd2pi %1, %%mm0\n\tmovq %%mm0, %0\n\temms" : "=r"(r) : "x"(v) : "mm0");
  return r;
}
template <int Row, int Opcode>
struct ToPi {
  static void apply(Cpu& c, const Insn* i, __m128i v) {
    uint64_t r = 0;
    fp_do(c, i, [&] { r = to_pi<Row, Opcode>(v); });
    set_mm(c, i->reg, r);
  }
  static void reg(Cpu& c, const Insn* i) {
    need_sse(c, i);
    need_mmx(c, i);
    apply(c, i, *xmm(c, i->rm));
    return next(c, i);
  }
  static void mem(Cpu& c, const Insn* i) {
    need_sse(c, i);
    check_mmx(c, i);
    const __m128i v = load_vec<Row == 0 ? 8 : 16>(c, i);
    mmx_enter(c, i);
    apply(c, i, v);
    return next(c, i);
  }
};

OpEntry shift_groups[3][8];

}  // namespace

void register_mmx(OpTables& t) {
  enter_list<1>(t, std::integer_sequence<int, 0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x74, 0x75, 0x76,
                                         0xd1, 0xd2, 0xd3, 0xd4, 0xd5, 0xd8, 0xd9, 0xda, 0xdb, 0xdc, 0xdd, 0xde, 0xdf, 0xe0, 0xe1, 0xe2,
                                         0xe3, 0xe4, 0xe5, 0xe8, 0xe9, 0xea, 0xeb, 0xec, 0xed, 0xee, 0xef, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5,
                                         0xf6, 0xf8, 0xf9, 0xfa, 0xfb, 0xfc, 0xfd, 0xfe>{});
  enter_list<2>(t, std::integer_sequence<int, 0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x1c, 0x1d, 0x1e>{});
  put_row(t, 1, 0, 0x6e, movd_in_reg<uint32_t>, load_mm<uint32_t>);
  t.map[1][0][0x6e].reg[3] = movd_in_reg<uint64_t>;
  t.map[1][0][0x6e].mem[3] = load_mm<uint64_t>;
  put_row(t, 1, 0, 0x7e, movd_out_reg<uint32_t>, store_mm<uint32_t>);
  t.map[1][0][0x7e].reg[3] = movd_out_reg<uint64_t>;
  t.map[1][0][0x7e].mem[3] = store_mm<uint64_t>;
  put_row(t, 1, 0, 0x6f, move_mm, load_mm<uint64_t>);
  put_row(t, 1, 0, 0x7f, move_mm_back, store_mm<uint64_t>);
  put_row(t, 1, 0, 0xe7, nullptr, store_mm<uint64_t>);  // movntq
  put_row(t, 1, 0, 0xd7, pmovmskb_mm, nullptr);
  put_row(t, 1, 0, 0xf7, then_next<maskmovq>, nullptr);
  t.map[1][0][0x77] = op_all(emms, emms, kIgnore66);
  put_row(t, 1, 0, 0x70, pshufw_reg, pshufw_mem, 0, kImmUb);
  put_row(t, 1, 0, 0xc4, pinsrw_reg, pinsrw_mem, 0, kImmUb);
  put_row(t, 1, 0, 0xc5, pextrw_mm, nullptr, 0, kImmUb);
  put_row(t, 3, 0, 0x0f, palignr_reg, palignr_mem, 0, kImmUb);
  put_row(t, 1, 2, 0xd6, movq2dq, nullptr);
  put_row(t, 1, 3, 0xd6, movdq2q, nullptr);
  put_row(t, 1, 0, 0x2a, from_pi_reg<0>, from_pi_mem<0>);
  put_row(t, 1, 1, 0x2a, from_pi_reg<1>, from_pi_mem<1>);
  put_row(t, 1, 0, 0x2c, ToPi<0, 0x2c>::reg, ToPi<0, 0x2c>::mem);
  put_row(t, 1, 0, 0x2d, ToPi<0, 0x2d>::reg, ToPi<0, 0x2d>::mem);
  put_row(t, 1, 1, 0x2c, ToPi<1, 0x2c>::reg, ToPi<1, 0x2c>::mem);
  put_row(t, 1, 1, 0x2d, ToPi<1, 0x2d>::reg, ToPi<1, 0x2d>::mem);
  auto shift = [&](int opcode, int op, Handler h) { shift_groups[opcode - 0x71][op] = op_all(h, nullptr, kModrm | kIgnore66, kImmUb); };
  shift(0x71, 2, shift_mm<0xd1>);
  shift(0x71, 4, shift_mm<0xe1>);
  shift(0x71, 6, shift_mm<0xf1>);
  shift(0x72, 2, shift_mm<0xd2>);
  shift(0x72, 4, shift_mm<0xe2>);
  shift(0x72, 6, shift_mm<0xf2>);
  shift(0x73, 2, shift_mm<0xd3>);
  shift(0x73, 6, shift_mm<0xf3>);
  for (int opcode = 0x71; opcode <= 0x73; opcode++) {
    OpEntry e;
    e.bits = kModrm | kGroup | kIgnore66;
    e.group = shift_groups[opcode - 0x71];
    e.imm = kImmUb;
    t.map[1][0][opcode] = e;
  }
}

}  // namespace nyx::soft
