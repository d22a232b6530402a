// Moves between XMM registers, memory and general registers.
#include "soft/simd.h"

namespace nyx::soft {
namespace {

// Whole registers. A = alignment is demanded of memory.
template <bool A>
void load_xmm(Cpu& c, const Insn* i) {
  need_sse(c, i);
  *xmm(c, i->reg) = load128(c, i, A);
  return next(c, i);
}
template <bool A>
void store_xmm(Cpu& c, const Insn* i) {
  need_sse(c, i);
  store128(c, i, *xmm(c, i->reg), A);
  return next(c, i);
}
void move_xmm(Cpu& c, const Insn* i) {
  need_sse(c, i);
  *xmm(c, i->reg) = *xmm(c, i->rm);
  return next(c, i);
}
void move_xmm_back(Cpu& c, const Insn* i) {
  need_sse(c, i);
  *xmm(c, i->rm) = *xmm(c, i->reg);
  return next(c, i);
}

// MOVSS/MOVSD: a load clears the rest of the register, a register move keeps it.
template <class T>
void load_scalar(Cpu& c, const Insn* i) {
  need_sse(c, i);
  const T v = load_rm<T>(c, i);
  *xmm(c, i->reg) = _mm_setzero_si128();
  xmm_as<T>(c, i->reg) = v;
  return next(c, i);
}
template <class T>
void store_scalar(Cpu& c, const Insn* i) {
  need_sse(c, i);
  store_rm<T>(c, i, xmm_as<T>(c, i->reg));
  return next(c, i);
}
template <class T>
void move_scalar(Cpu& c, const Insn* i) {
  need_sse(c, i);
  xmm_as<T>(c, i->reg) = xmm_as<T>(c, i->rm);
  return next(c, i);
}
template <class T>
void move_scalar_back(Cpu& c, const Insn* i) {
  need_sse(c, i);
  xmm_as<T>(c, i->rm) = xmm_as<T>(c, i->reg);
  return next(c, i);
}

// MOVLPS, MOVHPS and their pd twins; the register forms are MOVHLPS and MOVLHPS.
uint64_t& half(Cpu& c, unsigned r, int k) { return (&xmm_as<uint64_t>(c, r))[k]; }
template <int K>
void load_half(Cpu& c, const Insn* i) {
  need_sse(c, i);
  const uint64_t v = load_rm<uint64_t>(c, i);
  half(c, i->reg, K) = v;
  return next(c, i);
}
template <int K>
void store_half(Cpu& c, const Insn* i) {
  need_sse(c, i);
  store_rm<uint64_t>(c, i, half(c, i->reg, K));
  return next(c, i);
}
template <int To>
void cross_half(Cpu& c, const Insn* i) {
  need_sse(c, i);
  half(c, i->reg, To) = half(c, i->rm, 1 - To);
  return next(c, i);
}

// MOVD/MOVQ between XMM and r/m32, r/m64.
template <class T>
void from_gpr(Cpu& c, const Insn* i) {
  need_sse(c, i);
  *xmm(c, i->reg) = _mm_cvtsi64_si128(int64_t(uint64_t(get_reg<T>(c, i->rm))));
  return next(c, i);
}
template <class T>
void to_gpr(Cpu& c, const Insn* i) {
  need_sse(c, i);
  set_reg<T>(c, i->rm, xmm_as<T>(c, i->reg));
  return next(c, i);
}
// MOVQ xmm, xmm clears the upper half.
void movq_reg(Cpu& c, const Insn* i) {
  need_sse(c, i);
  *xmm(c, i->reg) = _mm_move_epi64(*xmm(c, i->rm));
  return next(c, i);
}
void movq_reg_back(Cpu& c, const Insn* i) {
  need_sse(c, i);
  *xmm(c, i->rm) = _mm_move_epi64(*xmm(c, i->reg));
  return next(c, i);
}
// MOVNTI names no register that CR0 or CR4 could forbid: Xen clears pages by it before it sets CR4.OSFXSR.
template <class T>
void store_gpr(Cpu& c, const Insn* i) {
  store_rm<T>(c, i, get_reg<T>(c, i->reg));
  return next(c, i);
}
// MASKMOVDQU: bytes of reg whose mask bit 7 is set go to DS:rDI.
[[gnu::noinline]] void maskmovdqu(Cpu& c, const Insn* i) {
  need_sse(c, i);
  const __m128i mask = *xmm(c, i->rm);
  const int bits = _mm_movemask_epi8(mask);
  uint64_t at = c.gpr[RDI];
  if (i->ea & (kEa16 | kEa32)) at = i->ea & kEa16 ? uint16_t(at) : uint32_t(at);
  if (i->ea & kEaCheck) at = linear_legacy(c, i, at, 16, Access::kWrite);
  else if (i->ea & kEaSegBase) at += c.seg[i->seg].base;
  for (int k = 0; k < 16; k++)
    if (bits >> k & 1) store<uint8_t>(c, i, at + uint64_t(k), c.fx.bytes[kFxXmm + 16 * i->reg + k]);
}

}  // namespace

void register_simd_move(OpTables& t) {
  // 10/11 movups movupd movss movsd; 28/29 movaps movapd; 6F/7F movdqa movdqu; 2B movntps/pd; E7 movntdq
  for (int row : {0, 1}) {
    put_row(t, 1, row, 0x10, move_xmm, load_xmm<false>);
    put_row(t, 1, row, 0x11, move_xmm_back, store_xmm<false>);
    put_row(t, 1, row, 0x28, move_xmm, load_xmm<true>);
    put_row(t, 1, row, 0x29, move_xmm_back, store_xmm<true>);
    put_row(t, 1, row, 0x2b, nullptr, store_xmm<true>);
    put_row(t, 1, row, 0x12, row ? nullptr : cross_half<0>, load_half<0>);
    put_row(t, 1, row, 0x13, nullptr, store_half<0>);
    put_row(t, 1, row, 0x16, row ? nullptr : cross_half<1>, load_half<1>);
    put_row(t, 1, row, 0x17, nullptr, store_half<1>);
  }
  put_row(t, 1, 2, 0x10, move_scalar<uint32_t>, load_scalar<uint32_t>);
  put_row(t, 1, 2, 0x11, move_scalar_back<uint32_t>, store_scalar<uint32_t>);
  put_row(t, 1, 3, 0x10, move_scalar<uint64_t>, load_scalar<uint64_t>);
  put_row(t, 1, 3, 0x11, move_scalar_back<uint64_t>, store_scalar<uint64_t>);
  put_row(t, 1, 1, 0x6f, move_xmm, load_xmm<true>);
  put_row(t, 1, 1, 0x7f, move_xmm_back, store_xmm<true>);
  put_row(t, 1, 2, 0x6f, move_xmm, load_xmm<false>);
  put_row(t, 1, 2, 0x7f, move_xmm_back, store_xmm<false>);
  put_row(t, 1, 1, 0xe7, nullptr, store_xmm<true>);
  put_row(t, 1, 3, 0xf0, nullptr, load_xmm<false>);  // lddqu
  put_row(t, 2, 1, 0x2a, nullptr, load_xmm<true>);   // movntdqa
  put_row(t, 1, 2, 0x7e, movq_reg, load_scalar<uint64_t>);
  put_row(t, 1, 1, 0xd6, movq_reg_back, store_scalar<uint64_t>);
  put_row(t, 1, 1, 0xf7, then_next<maskmovdqu>, nullptr);
  // 66 0F 6E/7E: movd, with REX.W movq. Sizes 16 and 32 are the same: 66 selects the row.
  OpEntry in, out;
  for (int k : {1, 2}) {
    in.reg[k] = from_gpr<uint32_t>;
    in.mem[k] = load_scalar<uint32_t>;
    out.reg[k] = to_gpr<uint32_t>;
    out.mem[k] = store_scalar<uint32_t>;
  }
  in.reg[3] = from_gpr<uint64_t>;
  in.mem[3] = load_scalar<uint64_t>;
  out.reg[3] = to_gpr<uint64_t>;
  out.mem[3] = store_scalar<uint64_t>;
  in.bits = out.bits = kModrm | kIgnore66;
  t.map[1][1][0x6e] = in;
  t.map[1][1][0x7e] = out;
  OpEntry nti;
  nti.mem[2] = store_gpr<uint32_t>;
  nti.mem[3] = store_gpr<uint64_t>;
  nti.bits = kModrm | kIgnore66;  // 32 bits also in 16-bit code
  t.map[1][0][0xc3] = nti;
}

}  // namespace nyx::soft
